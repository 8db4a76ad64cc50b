"""Throughput of `labs grade` against `nbgrader autograde`, on the same submissions, with two workers.

    bench_grading.py [LIGHT [TORCH]]     how many submissions of lab 00 and of lab 02; 200 and 40 when not given

Prints one JSON line a lab; `ratio` is seconds a submission of nbgrader over ours (above 1: ours is faster), by the
clock, all starts of ours counted. The notebooks hold just the exercises, their checks and the imports, so that nbgrader is
spared the rest of the lab, which ours never runs. nbgrader grades a tenth of the submissions, in one command, and what
its start takes is left out by timing one submission alone.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.grading import nbgrader_course

BIN = Path(sys.executable).parent
IMPORTS = {"00": "", "02": "import numpy as np\nimport torch"}


def small(nb: dict, number: str) -> dict:
    """A notebook with its exercises, checks and imports alone."""
    graded = [cell for cell in nb["cells"] if "nbgrader" in cell["metadata"]]
    imports = {"cell_type": "code", "id": "imports", "metadata": {}, "outputs": [], "execution_count": None}
    return {**nb, "cells": [{**imports, "source": IMPORTS[number]}, *graded]}


def solved(lab: course.Lab) -> dict:
    """The student's notebook with the solutions in it."""
    nb = json.loads(master.dumps(nbgrader_course.source_notebook(lab)))
    return small(nb, lab.number)


def seconds(command: list, folder: Path) -> float:
    begin = time.perf_counter()
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - begin


def ours(lab: course.Lab, nb: dict, count: int, folder: Path) -> float:
    """Seconds of `labs grade` for `count` submissions."""
    for number in range(count):
        master.write_atomic(folder / "in" / f"student {number}" / f"{lab.name}.ipynb", json.dumps(nb))
    return seconds([BIN / "labs", "grade", "in", "--out", "out", "--workers", "2"], folder)


def theirs(lab: course.Lab, nb: dict, count: int, folder: Path) -> float:
    """Seconds a submission of `nbgrader autograde`."""
    home = folder / "nbgrader"
    nbgrader_course.export(home, [lab])
    master.write_atomic(home / "source" / lab.name / f"{lab.name}.ipynb", json.dumps(nb))
    seconds([BIN / "nbgrader", "generate_assignment", lab.name], home)
    for number in range(count + 1):
        path = home / "submitted" / f"s{number}" / lab.name / f"{lab.name}.ipynb"
        master.write_atomic(path, json.dumps(nb))
    one = seconds([BIN / "nbgrader", "autograde", lab.name, "--student", "s0"], home)
    rest = seconds([BIN / "nbgrader", "autograde", lab.name], home)
    return (rest - one) / max(1, count - 1)


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or [200, 40]
    for number, count in zip(("00", "02"), counts, strict=False):
        lab = course.lab(number)
        with tempfile.TemporaryDirectory() as folder:
            nb = solved(lab)
            their = theirs(lab, nb, max(2, count // 10), Path(folder))
            total = ours(lab, nb, count, Path(folder))
        figures = {"lab": lab.name, "submissions": count, "seconds": round(total, 1)}
        figures |= {"ours": round(total / count, 3), "nbgrader": round(their, 3)}
        print(json.dumps({**figures, "ratio": round(their * count / total, 1)}), flush=True)


if __name__ == "__main__":
    main()
