"""A batch goes on where it was stopped, whatever was killed, and ends with the same files."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lab_utils import course
from lab_utils.grading import batch, grade_class
from lab_utils.grading import submissions as submissions_of
from lab_utils.grading.row import Row
from lab_utils.serving.vllm_server import free_port
from tests.grading.hostile import LAB, RIGHT, WRONG, notebook, write

STUDENTS = 8
SLOW = "import time\ntime.sleep(0.3)\n"


@pytest.fixture(scope="module")
def submissions(tmp_path_factory):
    """Students with right, wrong, blank and no answers; each takes a moment, so that there is time to kill."""
    root = tmp_path_factory.mktemp("class") / "作业"
    for number in range(STUDENTS):
        folder = root / f"学生 {number}"
        folder.mkdir(parents=True)
        answers = (RIGHT, WRONG, {}, {**RIGHT, "pass_rate": WRONG["pass_rate"]})[number % 4]
        write(folder, notebook({name: SLOW + source for name, source in answers.items()}))
    (root / "没有交").mkdir()
    return root


def start(submissions: Path, out: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "lab_utils.cli", "grade", str(submissions), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--lab", LAB.number, "--workers", "2", "--seed", "0", *more],
        cwd=course.root(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(submissions: Path, out: Path) -> str:
    command = start(submissions, out)
    said, _ = command.communicate(timeout=300)
    assert command.returncode == 0, said
    return said


def content(out: Path) -> dict[str, bytes]:
    """Every file under `out`."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def rows_of(files: dict[str, bytes]) -> list[Row]:
    """The rows among the files of a folder of results."""
    return [
        Row.from_json(json.loads(text))
        for name, text in sorted(files.items())
        if name.endswith(f"{LAB.number}.json")
    ]


def workers(command: subprocess.Popen) -> list[psutil.Process]:
    """The processes that do its jobs: those forked from the one that has the imports."""
    servers = [p for p in psutil.Process(command.pid).children() if "forkserver" in " ".join(p.cmdline())]
    return [worker for server in servers for worker in server.children()]


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


def rows_there(out: Path) -> int:
    return len(list(out.glob("学生*/*.json")))


def wait_for(condition, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def clean(submissions, tmp_path_factory):
    out = tmp_path_factory.mktemp("clean") / "out"
    return finish(submissions, out), content(out), out


def test_a_whole_batch(clean):
    said, files, _ = clean
    assert f"{STUDENTS} 份要运行，0 份沿用" in said
    lines = files["grades.csv"].decode().splitlines()
    assert lines[0] == "student,lab,score,max,status,reason"
    scores = {line.split(",")[0]: line.split(",")[2] for line in lines[1:]}
    assert scores == {"没有交": "0"} | {f"学生 {n}": "5004"[n % 4] for n in range(STUDENTS)}


def test_run_again_only_what_is_broken_is_graded_again(submissions, clean, tmp_path):
    """A row that was half written, as no kill can leave one, counts as none."""
    out = tmp_path / "out"
    shutil.copytree(clean[2], out)
    settled = out / "学生 1" / f"{LAB.number}.json"
    broken = out / "学生 0" / f"{LAB.number}.json"
    broken.write_text(broken.read_text("utf-8")[:50], "utf-8")
    before = settled.read_bytes()
    assert f"1 份要运行，{STUDENTS - 1} 份沿用" in finish(submissions, out)
    assert settled.read_bytes() == before
    assert content(out) == clean[1]


def test_a_changed_submission_is_graded_anew(tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    (root / "甲").mkdir(parents=True)
    settings = batch.Settings()
    scores = []
    for answers in (WRONG, RIGHT, RIGHT):
        write(root / "甲", notebook(answers))
        planned = batch.plan(submissions_of.walk(root), out, (LAB,), settings)
        scores.append((len(planned.jobs), batch.run(planned, 1, None)[0].score))
    assert scores == [(1, 0.0), (1, 5.0), (0, 5.0)]
    assert not (out / "grades.csv").exists()  # it holds every lab, not only those of this batch


def test_killed_again_and_again_it_ends_the_same(submissions, clean, tmp_path):
    out = tmp_path / "out"
    for rows in (1, 3, 5):
        command = start(submissions, out)
        wait_for(lambda rows=rows, command=command: rows_there(out) >= rows or command.poll() is not None)
        family = psutil.Process(command.pid).children(recursive=True)
        command.send_signal(signal.SIGKILL)
        command.wait()
        assert not (out / "gradebook.db").exists()
        _, alive = psutil.wait_procs(family, timeout=20)
        assert alive == []
    assert "0 份沿用" not in finish(submissions, out)
    assert content(out) == clean[1]


def test_killed_workers_are_replaced(submissions, clean, tmp_path):
    out = tmp_path / "out"
    command = start(submissions, out)
    for rows in (1, 4):
        wait_for(lambda rows=rows: rows_there(out) >= rows or command.poll() is not None)
        found = workers(command)
        assert found
        found[0].kill()
    said, _ = command.communicate(timeout=300)
    assert command.returncode == 0, said
    assert content(out) == clean[1]


@pytest.mark.parametrize("which", [0, -1], ids=["bubblewrap", "the process of an answer"])
def test_a_killed_sandbox_is_started_anew(submissions, clean, tmp_path, which):
    out = tmp_path / "out"
    command = start(submissions, out)
    wait_for(lambda: rows_there(out) >= 2 or command.poll() is not None)
    family = max((worker.children(recursive=True) for worker in workers(command)), key=len)
    family[which].kill()
    said, _ = command.communicate(timeout=300)
    assert command.returncode == 0, said
    assert content(out) == clean[1]


def test_a_killed_scheduler_stops_the_command_which_goes_on_without_it(submissions, clean, tmp_path):
    out = tmp_path / "out"
    with cluster() as (scheduler, address):
        command = start(submissions, out, "--scheduler", address)
        wait_for(lambda: rows_there(out) >= 2 or command.poll() is not None)
        scheduler.kill()
        said, _ = command.communicate(timeout=300)
    assert command.returncode == 1 and "再运行同一条命令会从断点继续" in said
    assert not (out / "gradebook.db").exists()
    assert "0 份沿用" not in finish(submissions, out)
    assert content(out) == clean[1]


def test_folders_that_cannot_be_meant(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(FileNotFoundError, match="作业文件夹"):
        grade_class(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="不能一个在另一个里面"):
        grade_class(tmp_path / "in", tmp_path / "in" / "out")


def test_the_gradebook_is_nbgraders_and_keeps_what_a_person_entered(submissions, clean, tmp_path):
    from nbgrader.api import Gradebook

    from lab_utils.grading import gradebook

    path, files = tmp_path / "gradebook.db", clean[1]
    rows = rows_of(files)
    gradebook.write(path, rows)
    assert path.read_bytes() == files["gradebook.db"]
    with Gradebook(f"sqlite:///{path}", gradebook.COURSE_ID) as book:
        scores = {entry.student.id: entry.score for entry in book.assignment_submissions(LAB.name)}
        assert scores == {row.student: row.score for row in rows if row.status == "graded"}
        assert book.find_assignment(LAB.name).max_score == sum(LAB.points.values())
        grade = book.find_grade("check_pass_rate", LAB.name, LAB.name, "学生 1")
        assert grade.auto_score == 0 and not grade.needs_manual_grade
        grade.manual_score = 0.5
        book.db.commit()
    gradebook.write(path, rows)
    with Gradebook(f"sqlite:///{path}", gradebook.COURSE_ID) as book:
        assert book.find_submission(LAB.name, "学生 1").score == 0.5


def test_points_by_hand_and_the_late_penalty_reach_the_gradebook(submissions, clean, tmp_path):
    from nbgrader.api import Gradebook

    from lab_utils.grading import gradebook, policy

    (tmp_path / "submitted.csv").write_text(
        f"student,lab,submitted\n学生 0,{LAB.number},2026-12-03T00:30+08:00\n", "utf-8"
    )
    (tmp_path / "manual.csv").write_text(
        f"student,lab,question,points,max\n学生 0,{LAB.number},思考题 1,2,3\n", "utf-8"
    )
    decided = policy.read(
        "2026-12-01T23:59+08:00", "10%/day", tmp_path / "submitted.csv", tmp_path / "manual.csv"
    )
    rows = [decided.apply(row) for row in rows_of(clean[1])]
    gradebook.write(tmp_path / "gradebook.db", rows)
    with Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}", gradebook.COURSE_ID) as book:
        assert book.find_assignment(LAB.name).max_score == sum(LAB.points.values()) + 3
        found = {entry.student.id: entry for entry in book.assignment_submissions(LAB.name)}
        late = found["学生 0"]
        assert (late.score, late.late_submission_penalty) == (7, 1.4)
        assert {row.student: row.score for row in rows} == {
            name: entry.score - (entry.late_submission_penalty or 0) for name, entry in found.items()
        }
