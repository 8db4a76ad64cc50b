"""Throughput of `labs grade` against `nbgrader autograde`, on the same submissions, on the same cores.

    bench_grading.py [--all] [LIGHT [TORCH]]     how many submissions of lab 00 and of lab 02; 200 and 40 when not given

Prints two JSON lines a lab. `whole`: the lab's notebook as it is handed in, solved; nbgrader executes all of it, we
what the answers need. `exercises`: a notebook of just the exercises, their checks and imports, which spares nbgrader
the rest of the lab. `ratio` is seconds a submission of nbgrader over ours (above 1: ours is faster), by the clock.

Ours are all graded, by one command with two workers, all of its start and end counted. Of nbgrader's own start
nothing is counted. Unless told --all, it grades a tenth of `exercises`, and one of `whole`, in its one process, as it
always does; even were two of its commands to share the cores without loss, half of `ratio` would be left.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.files import write_atomic
from lab_utils.grading import nbgrader_course

BIN = Path(sys.executable).parent
IMPORTS = {"00": "", "02": "import numpy as np\nimport torch"}


def whole(lab: course.Lab) -> dict:
    """The student's notebook with the solutions in it."""
    return json.loads(master.dumps(nbgrader_course.source_notebook(lab)))


def exercises(lab: course.Lab) -> dict:
    """The same with its exercises, checks and imports alone."""
    nb = whole(lab)
    graded = [cell for cell in nb["cells"] if "nbgrader" in cell["metadata"]]
    imports = {"cell_type": "code", "id": "imports", "metadata": {}, "outputs": [], "execution_count": None}
    return {**nb, "cells": [{**imports, "source": IMPORTS[lab.number]}, *graded]}


def seconds(command: list, folder: Path) -> float:
    begin = time.perf_counter()
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - begin


def ours(lab: course.Lab, nb: dict, count: int, folder: Path) -> float:
    """Seconds of `labs grade` for `count` submissions; all of them must earn all points."""
    for number in range(count):
        write_atomic(folder / "in" / f"student {number}" / f"{lab.name}.ipynb", json.dumps(nb))
    took = seconds([BIN / "labs", "grade", "in", "--out", "out", "--workers", "2"], folder)
    rows = [json.loads(path.read_text("utf-8")) for path in (folder / "out").glob(f"*/{lab.number}.json")]
    if len(rows) != count or any(row["score"] != row["max"] for row in rows):
        raise SystemExit(f"{lab.name}: {len(rows)} rows, not all of them with all points")
    return took


def theirs(lab: course.Lab, nb: dict, count: int, folder: Path) -> tuple[float, float]:
    """Seconds of `nbgrader autograde` for one submission in a command of its own, and for `count` in one command."""
    home = folder / "nbgrader"
    nbgrader_course.export(home, [lab])
    write_atomic(home / "source" / lab.name / f"{lab.name}.ipynb", json.dumps(nb))
    seconds([BIN / "nbgrader", "generate_assignment", lab.name], home)

    def hand_in(student: str) -> None:
        write_atomic(home / "submitted" / student / lab.name / f"{lab.name}.ipynb", json.dumps(nb))

    hand_in("first")
    one = seconds([BIN / "nbgrader", "autograde", lab.name], home)
    for number in range(count):
        hand_in(f"student {number}")
    return one, seconds([BIN / "nbgrader", "autograde", lab.name], home) if count else 0.0


def compare(lab: course.Lab, count: int, everything: bool) -> None:
    """Print the figures of a lab; nbgrader's start is what one submission takes alone beyond what many take each."""
    few = count if everything else max(2, count // 10)
    start = 0.0
    for form, make, number in (("exercises", exercises, few), ("whole", whole, count if everything else 0)):
        nb = make(lab)
        with tempfile.TemporaryDirectory() as folder:
            one, many = theirs(lab, nb, number, Path(folder))
        if number > 1:
            their = (many - one) / (number - 1)
            start = one - their
        else:
            their = one - start
        with tempfile.TemporaryDirectory() as folder:
            total = ours(lab, nb, count, Path(folder))
        figures = {"lab": lab.name, "form": form, "submissions": count, "seconds": round(total, 1)}
        figures |= {"ours": round(total / count, 4), "nbgrader": round(their, 3), "of": max(1, number)}
        print(json.dumps({**figures, "ratio": round(their * count / total, 1)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("counts", type=int, nargs="*", default=[200, 40])
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    for number, count in zip(("00", "02"), arguments.counts, strict=False):
        compare(course.lab(number), count, arguments.all)


if __name__ == "__main__":
    main()
