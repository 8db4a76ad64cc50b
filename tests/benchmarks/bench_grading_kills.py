"""Kill -9 of the whole command, of a worker, of a sandbox, of a cluster's scheduler, at random moments: the same files?

`python tests/benchmarks/bench_grading_kills.py [MOMENTS]` kills each of the four MOMENTS times (10), lets the command
go on or runs it again, and compares every file with those of an undisturbed run. Prints one line of JSON;
`while_running` counts the moments at which there was something to kill.
"""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from lab_utils import course

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "grading"))
from test_batch import cluster, workers

from tests.grading.hostile import LAB, RIGHT, WRONG, notebook, write

STUDENTS = 16
SLOW = "import time\ntime.sleep(0.3)\n"


def hand_in(folder: Path) -> None:
    """Students with right, half right, wrong and blank answers."""
    for number in range(STUDENTS):
        own = folder / f"学生 {number:02}"
        own.mkdir(parents=True)
        answers = (RIGHT, WRONG, {}, {**RIGHT, "pass_rate": WRONG["pass_rate"]})[number % 4]
        write(own, notebook({name: SLOW + source for name, source in answers.items()}))


def start(submissions: Path, out: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "lab_utils.cli", "grade", str(submissions), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--lab", LAB.number, "--workers", "2", *more],
        cwd=course.root(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def content(out: Path) -> dict[str, bytes]:
    """Every file under `out`."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def kill_command(submissions: Path, out: Path, moment: float) -> bool:
    """Whether the command was still running at the moment of its kill."""
    command = start(submissions, out)
    time.sleep(moment)
    alive = command.poll() is None
    command.send_signal(signal.SIGKILL)
    command.wait()
    return alive


def kill_worker(submissions: Path, out: Path, moment: float) -> bool:
    """The same for one of its workers; the command is left to end by itself."""
    return kill_one(submissions, out, moment, workers)


def kill_sandbox(submissions: Path, out: Path, moment: float) -> bool:
    """The same for one of the processes of a sandbox."""
    return kill_one(
        submissions, out, moment, lambda command: [p for w in workers(command) for p in w.children(True)]
    )


def kill_one(submissions: Path, out: Path, moment: float, choice: Callable) -> bool:
    command = start(submissions, out)
    time.sleep(moment)
    found: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        found = choice(command)
        random.choice(found).kill() if found else None
    command.wait(600)
    return bool(found)


def kill_scheduler(submissions: Path, out: Path, moment: float) -> bool:
    """The same for the scheduler of a cluster; the command ends with an error and is run again without one."""
    with cluster() as (scheduler, address):
        command = start(submissions, out, "--scheduler", address)
        time.sleep(moment)
        alive = command.poll() is None
        scheduler.kill()
        command.wait(600)
    return alive


def seconds(submissions: Path, out: Path, *more: str) -> float:
    """Of an undisturbed run."""
    began = time.monotonic()
    assert start(submissions, out, *more).wait(600) == 0
    return time.monotonic() - began


def main(moments: int) -> dict:
    random.seed(0)
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        submissions, out = Path(folder) / "作业", Path(folder) / "成绩"
        hand_in(submissions)
        with cluster() as (_, address):
            on_cluster = seconds(submissions, out, "--scheduler", address)
        shutil.rmtree(out)
        alone = seconds(submissions, out)
        wanted = content(out)
        for kill in (kill_command, kill_worker, kill_sandbox, kill_scheduler):
            hits = same = 0
            whole = on_cluster if kill is kill_scheduler else alone
            for moment in sorted(random.uniform(0.3, whole) for _ in range(moments)):
                shutil.rmtree(out)
                hits += kill(submissions, out, moment)
                rows = len(list(out.glob("*/*.json"))) if out.exists() else 0
                assert start(submissions, out).wait(600) == 0
                same += content(out) == wanted
                print(
                    f"{kill.__name__} at {moment:.1f} s of {whole:.1f}, {rows} rows: {same} same",
                    file=sys.stderr,
                )
            report[kill.__name__] = {"moments": moments, "while_running": hits, "same_files": same}
    return {"students": STUDENTS, "undisturbed_seconds": round(alone, 1), **report}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)))
