"""A batch: a folder of submissions in, a folder of rows out; goes on where it was stopped.

Jobs are done by processes of this machine, or by a Dask cluster that is already there.

DIR/STUDENT/NN.json is the row of one submission, written in one step; the rows already there are kept when neither
the submission nor the course has changed. DIR/grades.csv and DIR/gradebook.db are made anew at the end.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab_utils import course
from lab_utils.files import write_atomic
from lab_utils.grading import notebook_file, scoring, submissions, tasks, workers
from lab_utils.grading.sandbox import Limits, Sandbox

COLUMNS = ("student", "lab", "score", "max", "status", "reason")
RESERVED = ("grades.csv", "gradebook.db", "report.html")
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
    notebook: notebook_file.Notebook = field(repr=False)
    settings: Settings

    def run(self) -> Row:
        return grade_job(self)


@dataclass
class Plan:
    """What a batch has to do: rows that are settled, and jobs; `path` says where a row is written."""

    out: Path
    rows: list[Row]
    jobs: list[Job]
    kept: int = 0


# ---------------------------------------------------------------- planning


def plan(
    folder: Path,
    out: Path,
    labs: tuple[course.Lab, ...] | None,
    settings: Settings,
    also: Iterable[str] = (),
) -> Plan:
    """Look at every submission. Raises ValueError and FileNotFoundError for folders that can't be meant.

    `labs` None: every lab of which somebody handed in a notebook, and those whose numbers are in `also`.
    """
    folder, out = folder.resolve(), out.resolve()
    if folder == out or folder in out.parents or out in folder.parents:
        raise ValueError("成绩文件夹 (--out) 与作业文件夹 (submissions) 不能一个在另一个里面")
    found = list(submissions.students(folder))
    if labs is None:
        handed_in = {number for student in found for number in student.versions} | set(also)
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
    made: Plan, student: submissions.Student, lab: course.Lab, version: str, settings: Settings
) -> None:
    maximum = float(sum(lab.points.values()))
    versions = student.versions.get(lab.number)
    if not versions:
        made.rows.append(_without_notebook(student, lab.number, maximum))
        return
    problems: list[tuple[submissions.Candidate, Exception]] = []
    for candidate in reversed(versions):
        try:
            data = candidate.read()
            row = scoring.row(
                student.name, lab.number, maximum, "graded", "-", file=scoring.clean(candidate.name)
            )
            row |= {"sha256": notebook_file.digest(data), "version": version}
            old = _kept(made.out, row)
            if old:
                made.rows.append(old)
                made.kept += 1
                return
            notebook = notebook_file.read_notebook(data)
        except (submissions.Refused, notebook_file.Unreadable) as problem:
            problems.append((candidate, problem))
            continue
        row["notes"] = _version_notes(versions, candidate, problems)
        made.jobs.append(Job(lab.number, row, notebook, settings))
        return
    candidate, problem = problems[0]
    status = "refused" if isinstance(problem, submissions.Refused) else "unreadable"
    more = {"file": scoring.clean(candidate.name), "version": version}
    made.rows.append(scoring.row(student.name, lab.number, maximum, status, str(problem), **more))


def _version_notes(
    versions: list[submissions.Candidate],
    chosen: submissions.Candidate,
    problems: list[tuple[submissions.Candidate, Exception]],
) -> list[str]:
    notes = [f"{candidate.name} 没有用：{problem}" for candidate, problem in problems]
    if len(versions) > 1:
        notes.append(f"有 {len(versions)} 份，按文件名里最大的版本号取了 {chosen.name}")
    return [scoring.clean(note) for note in notes]


def _without_notebook(student: submissions.Student, number: str, maximum: float) -> Row:
    """The row of a student who has no notebook of this lab: nothing handed in, or nothing that can be opened."""
    for problem in student.problems:
        status = "refused" if isinstance(problem, submissions.Refused) else "unreadable"
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
    count: int,
    scheduler: str | None,
    done: Callable[[Row], None] = lambda row: None,
    apply: Callable[[Row], Row] = lambda row: row,
) -> list[Row]:
    """Do what is planned, write everything, and give back all rows in order. `done` is told each row when it is written.

    `count` jobs are under way at a time. `apply` makes of each row what is written, such as `Policy.apply`; it must
    be idempotent, kept rows pass it again.

    Raises SandboxError when no sandbox can be started, and ConnectionError when a scheduler is lost: what was graded
    is kept, and the same command goes on from there.
    """
    made.out.mkdir(parents=True, exist_ok=True)
    rows = [apply(row) for row in made.rows]
    for row in rows:
        _write(made.out, row)
        done(row)
    if made.jobs:
        for job, result in _done(made.jobs, count, scheduler):
            row = apply(result if isinstance(result, dict) else _failed(job, result))
            _write(made.out, row)
            rows.append(row)
            done(row)
    rows.sort(key=lambda row: (row["student"], row["lab"]))
    write_atomic(made.out / "grades.csv", table(rows))
    return rows


def _failed(job: Job, why: str) -> Row:
    reason = f"评分程序自己出了错，请重新运行 ({why})"
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
        reason = _cell("；".join([row["reason"], *_adapters_told(row)]))
        writer.writerow([_cell(row["student"]), row["lab"], *numbers, row["status"], reason])
    return buffer.getvalue()


def _adapters_told(row: Row) -> list[str]:
    """What is said of the adapters of a row: they aren't in its reason, which is about the notebook."""
    told = [entry for entry in row["exercises"] if "artefact" in entry]
    return [
        f"{entry['name']}（{entry['score']:g}/{entry['points']:g} 分）：{entry['message']}" for entry in told
    ]


def _cell(text: str) -> str:
    text = scoring.clean(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _done(jobs: list[Job], count: int, scheduler: str | None) -> Iterator[workers.Done]:
    """Each job with its row, or with what went wrong with the grader, as they get done."""
    if scheduler:
        return workers.cluster(jobs, scheduler)
    if count > 1 and len(jobs) > 1:
        return workers.processes(jobs, count, [__name__, "jupytext", *_modules(jobs)])
    return _here(jobs)


def _here(jobs: list[Job]) -> Iterator[workers.Done]:
    """Job after job in this process."""
    try:
        for job in jobs:
            yield job, workers.outcome(job)
    finally:
        close_sandboxes()


def _modules(jobs: list[Job]) -> list[str]:
    """The checks of the jobs' labs, with all that they import."""
    labs = sorted({job.number for job in jobs})
    return [name for number in labs for name in tasks.check_modules(course.lab(number))]
