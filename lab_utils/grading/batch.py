"""A batch: a folder of submissions in, a folder of rows out, by Dask; goes on where it was stopped.

DIR/STUDENT/NN.json is the row of one submission, written in one step; the rows already there are kept when neither
the submission nor the course has changed. DIR/grades.csv and DIR/gradebook.db are made anew at the end.
"""

import csv
import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab_utils import course
from lab_utils.authoring.master import write_atomic
from lab_utils.grading import collect, scoring, tasks
from lab_utils.grading.sandbox import Limits, Sandbox

COLUMNS = ("student", "lab", "score", "max", "status", "reason")
RESERVED = ("grades.csv", "gradebook.db", "report.html")
ATTEMPTS = 3
WARM = 2
"""Warm sandboxes that a worker keeps."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What every submission of a batch is graded with. `hidden`: folders that the sandbox must not show."""

    seed: int = 0
    confined: bool = True
    hidden: tuple[Path, ...] = ()
    limits: Limits = Limits()


@dataclass(frozen=True)
class Job:
    """One submission that has to be run. `row` is what is known of it already."""

    number: str
    row: Row
    notebook: collect.Notebook = field(repr=False)
    settings: Settings


@dataclass
class Plan:
    """What a batch has to do: rows that are settled, and jobs; `path` says where a row is written."""

    out: Path
    rows: list[Row]
    jobs: list[Job]
    kept: int = 0


# ---------------------------------------------------------------- planning


def plan(submissions: Path, out: Path, labs: tuple[course.Lab, ...] | None, settings: Settings) -> Plan:
    """Look at every submission. Raises ValueError and FileNotFoundError for folders that can't be meant.

    `labs` None: every lab of which somebody handed in a notebook.
    """
    submissions, out = submissions.resolve(), out.resolve()
    if submissions == out or submissions in out.parents or out in submissions.parents:
        raise ValueError("成绩文件夹 (--out) 与作业文件夹 (submissions) 不能一个在另一个里面")
    found = list(collect.students(submissions))
    if labs is None:
        handed_in = {number for student in found for number in student.versions}
        labs = tuple(lab for lab in course.LABS if lab.number in handed_in)
    made = Plan(out, [], [])
    versions = {lab.number: tasks.version(lab, settings.seed) for lab in labs}
    for student in found:
        for lab in labs:
            _plan_one(made, student, lab, versions[lab.number], settings)
        if not student.versions and not labs:
            made.rows.append(_without_notebook(student, "", 0.0))
    return made


def _plan_one(
    made: Plan, student: collect.Student, lab: course.Lab, version: str, settings: Settings
) -> None:
    maximum = float(sum(lab.points.values()))
    versions = student.versions.get(lab.number)
    if not versions:
        made.rows.append(_without_notebook(student, lab.number, maximum))
        return
    problems: list[tuple[collect.Candidate, Exception]] = []
    for candidate in reversed(versions):
        try:
            data = candidate.read()
            row = scoring.row(
                student.name, lab.number, maximum, "graded", "-", file=scoring.clean(candidate.name)
            )
            row |= {"sha256": collect.digest(data), "version": version}
            old = _kept(made.out, row)
            if old:
                made.rows.append(old)
                made.kept += 1
                return
            notebook = collect.read_notebook(data)
        except (collect.Refused, collect.Unreadable) as problem:
            problems.append((candidate, problem))
            continue
        row["notes"] = _version_notes(versions, candidate, problems)
        made.jobs.append(Job(lab.number, row, notebook, settings))
        return
    candidate, problem = problems[0]
    status = "refused" if isinstance(problem, collect.Refused) else "unreadable"
    more = {"file": scoring.clean(candidate.name), "version": version}
    made.rows.append(scoring.row(student.name, lab.number, maximum, status, str(problem), **more))


def _version_notes(
    versions: list[collect.Candidate],
    chosen: collect.Candidate,
    problems: list[tuple[collect.Candidate, Exception]],
) -> list[str]:
    notes = [f"{candidate.name} 没有用：{problem}" for candidate, problem in problems]
    if len(versions) > 1:
        notes.append(f"有 {len(versions)} 份，按文件名里最大的版本号取了 {chosen.name}")
    return [scoring.clean(note) for note in notes]


def _without_notebook(student: collect.Student, number: str, maximum: float) -> Row:
    """The row of a student who has no notebook of this lab: nothing handed in, or nothing that can be opened."""
    for problem in student.problems:
        status = "refused" if isinstance(problem, collect.Refused) else "unreadable"
        return scoring.row(student.name, number, maximum, status, str(problem))
    return scoring.row(
        student.name,
        number,
        maximum,
        "missing",
        f"没有交实验 {number} 的笔记本" if number else "没有交笔记本",
    )


def row_path(out: Path, row: Row) -> Path:
    """Where a row is written: DIR/STUDENT/NN.json."""
    return out / folder_name(row["student"]) / f"{row['lab'] or 'none'}.json"


def folder_name(student: str) -> str:
    """The student's name as a folder: as it is where it is harmless, else mended and told apart by a digest."""
    mended = scoring.clean(student, 60).replace("/", "_").strip(". ") or "_"
    if mended != student or mended in RESERVED:
        mended += "-" + hashlib.sha256(os.fsencode(student)).hexdigest()[:8]
    return mended


def _kept(out: Path, row: Row) -> Row | None:
    """The row of an earlier run, if it is about the same bytes, graded by the same course."""
    try:
        old = json.loads(row_path(out, row).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    same = all(old.get(key) == row[key] for key in ("student", "lab", "sha256", "version", "file"))
    return old if same and old.get("status") == "graded" else None


# ---------------------------------------------------------------- one submission, in a worker

_WARM: dict[tuple, Sandbox] = {}


def grade_job(job: Job) -> Row:
    """Run one submission and give back its row. Raises what goes wrong with the grader, never with the submission."""
    task = tasks.load(job.number, job.settings.seed)
    key = (task.preload, job.settings)
    sandbox = _WARM.pop(key, None) or Sandbox(
        task.preload, job.settings.hidden, job.settings.confined, job.settings.limits
    )
    while len(_WARM) >= WARM:
        _WARM.pop(next(iter(_WARM))).close()
    _WARM[key] = sandbox
    earned = scoring.grade(task, job.notebook, sandbox)
    return {**job.row, **earned, "notes": [*job.row["notes"], *earned["notes"]]}


def close_sandboxes() -> None:
    """End the warm sandboxes of this process."""
    while _WARM:
        _WARM.popitem()[1].close()


# ---------------------------------------------------------------- the batch


def run(
    made: Plan,
    workers: int,
    scheduler: str | None,
    done: Callable[[Row], None] = lambda row: None,
    apply: Callable[[Row], Row] = lambda row: row,
) -> list[Row]:
    """Do what is planned, write everything, and give back all rows in order. `done` is told each row when it is written.

    `apply` makes of each row what is written, such as `Policy.apply`; it must be idempotent, kept rows pass it again.

    Raises SandboxError when no sandbox can be started, and ConnectionError when a scheduler is lost: what was graded
    is kept, and the same command goes on from there.
    """
    made.out.mkdir(parents=True, exist_ok=True)
    rows = [apply(row) for row in made.rows]
    for row in rows:
        _write(made.out, row)
        done(row)
    if made.jobs:
        one_process = scheduler is None and (workers <= 1 or len(made.jobs) == 1)
        for job, result in _here(made.jobs) if one_process else _by_dask(made.jobs, workers, scheduler):
            row = apply(result if isinstance(result, dict) else _failed(job, result))
            _write(made.out, row)
            rows.append(row)
            done(row)
    rows.sort(key=lambda row: (row["student"], row["lab"]))
    write_atomic(made.out / "grades.csv", table(rows))
    return rows


def _failed(job: Job, error: BaseException) -> Row:
    reason = f"评分程序自己出了错，请重新运行 ({type(error).__name__}: {error})"
    return {**job.row, "status": "failed", "reason": scoring.clean(reason)}


def _write(out: Path, row: Row) -> None:
    write_atomic(row_path(out, row), json.dumps(row, ensure_ascii=False, indent=1) + "\n")


def table(rows: Iterable[Row]) -> str:
    """grades.csv. A text that a spreadsheet would take for a formula gets a quote in front."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        numbers = [f"{row[key]:g}" for key in ("score", "max")]
        writer.writerow([_cell(row["student"]), row["lab"], *numbers, row["status"], _cell(row["reason"])])
    return buffer.getvalue()


def _cell(text: str) -> str:
    text = scoring.clean(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _here(jobs: list[Job]) -> Iterator[tuple[Job, Row | Exception]]:
    """Job after job in this process."""
    try:
        for job in jobs:
            try:
                yield job, grade_job(job)
            except Exception as error:  # one submission that the grader fails at doesn't stop the batch
                yield job, error
    finally:
        close_sandboxes()


def _by_dask(jobs: list[Job], workers: int, scheduler: str | None) -> Iterator[tuple[Job, Row | Exception]]:
    """Jobs on a cluster: one of our own, or the one at `scheduler`. A job whose worker dies is tried again."""
    import dask
    from distributed import Client, LocalCluster

    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": 0,
            "distributed.admin.large-graph-warning-threshold": "1GB",
        }
    )
    if scheduler:
        with Client(scheduler, timeout="30s") as client:
            yield from _submit(client, jobs)
        return
    with (
        LocalCluster(
            n_workers=min(workers, len(jobs)),
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield from _submit(client, jobs)


def _submit(client: Any, jobs: list[Job]) -> Iterator[tuple[Job, Row | Exception]]:
    from distributed import as_completed

    attempts = {client.submit(grade_job, job, pure=False): (job, 1) for job in jobs}
    running = as_completed(attempts)
    while attempts:
        if client.status not in ("running", "connecting"):
            raise ConnectionError("与 Dask 调度器 (scheduler) 的连接断了")
        if not running.has_ready():
            time.sleep(0.01)
            continue
        future = next(running)
        job, attempt = attempts.pop(future)
        error = future.exception() if future.status == "error" else None
        if future.status == "finished":
            yield job, future.result()
        elif attempt < ATTEMPTS:
            again = client.submit(grade_job, job, pure=False)
            attempts[again] = (job, attempt + 1)
            running.add(again)
        else:
            yield job, error or ConnectionError(f"任务丢失 (task {future.status})")
        future.release()
