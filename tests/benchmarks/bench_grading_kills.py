"""Kill -9 of the whole command, of a worker, of the scheduler, each at random moments: the same final files?

`python tests/benchmarks/bench_grading_kills.py [MOMENTS]` kills each of the three MOMENTS times (10), lets the
command go on or runs it again, and compares every file with those of an undisturbed run. Prints one line of JSON.
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
from collections.abc import Iterator
from pathlib import Path

import psutil

from lab_utils import course
from lab_utils.serving.server import free_port

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "grading"))
from hostile import LAB, RIGHT, WRONG, notebook, write

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
    command = start(submissions, out)
    time.sleep(moment)
    workers = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(command.pid).children()
        workers = [process for process in family if "spawn_main" in " ".join(process.cmdline())]
        random.choice(workers).kill() if workers else None
    command.wait(600)
    return bool(workers)


@contextlib.contextmanager
def cluster() -> Iterator[tuple[subprocess.Popen, str]]:
    """A scheduler with two workers; gives the scheduler's process and its address."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--host", "127.0.0.1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": course.root()}
    scheduler = subprocess.Popen([*dask, "--port", str(port)], **quiet)
    work = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        address,
        "--nworkers",
        "2",
        "--nthreads",
        "1",
    ]
    workers = subprocess.Popen([*work, "--no-dashboard", "--death-timeout", "10"], **quiet)
    try:
        yield scheduler, address
    finally:
        for process in (scheduler, workers):
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()


def kill_scheduler(submissions: Path, out: Path, moment: float) -> bool:
    """The same for the scheduler of a cluster; the command ends with an error and is run again without one."""
    with cluster() as (scheduler, address):
        command = start(submissions, out, "--scheduler", address)
        time.sleep(moment)
        alive = command.poll() is None
        scheduler.kill()
        command.wait(600)
    return alive


def main(moments: int) -> dict:
    random.seed(0)
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        submissions, out = Path(folder) / "作业", Path(folder) / "成绩"
        hand_in(submissions)
        began = time.monotonic()
        assert start(submissions, out).wait(600) == 0
        whole = time.monotonic() - began
        wanted = content(out)
        for kill in (kill_command, kill_worker, kill_scheduler):
            hits = same = 0
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
    return {"students": STUDENTS, "undisturbed_seconds": round(whole, 1), **report}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)))
