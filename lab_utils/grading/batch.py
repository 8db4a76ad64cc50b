"""A batch: from the files of a class to rows; goes on where it was stopped.

Nothing that a student wrote is read while a batch is planned, but for the digest of what was graded before. Jobs read,
parse and grade; they are done by processes of this machine, or, once read here, by a Dask cluster that is already
there. Rows already written are kept when neither the submission nor the course has changed.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab_utils import course
from lab_utils.grading import notebook_file, results, scoring, tasks, workers
from lab_utils.grading.notebook_file import Notebook, Unreadable
from lab_utils.grading.reading import Refused
from lab_utils.grading.row import FAILED, GRADED, MISSING, REFUSED, UNREADABLE, Row
from lab_utils.grading.sandbox import Limits, Sandbox
from lab_utils.grading.submissions import Entry, Student, Submissions
from lab_utils.grading.text import clean, short_paths, some

WARM = 4
"""Warm sandboxes that a worker keeps: two for the cases that students have, two for hidden ones."""
VERSIONS_TRIED = 5
"""Of the versions of a notebook, from the newest on, how many are read to find one that can be read."""


@dataclass(frozen=True)
class Settings:
    """What every submission of a batch is graded with. `hidden`: folders that the sandbox must not show."""

    seed: int = 0
    confined: bool = True
    hidden: tuple[Path, ...] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class GradingJob:
    """One submission that has to be run. `row` is what is known of it already; `versions`, the newest first."""

    row: Row
    versions: tuple[Entry, ...]
    settings: Settings
    notebook: Notebook | None = field(default=None, repr=False)

    def run(self) -> Row:
        """Its row. Raises what goes wrong with the grader, never with the submission."""
        read = self if self.notebook is not None else self.read()
        return read if isinstance(read, Row) else read.grade()

    def read(self) -> "GradingJob | Row":
        """The job with the notebook to grade, the newest that can be read; or a row that says why there is none."""
        problems: list[tuple[Entry, Refused | Unreadable]] = []
        for entry in self.versions[:VERSIONS_TRIED]:
            try:
                data = entry.read()
                notebook = notebook_file.read_notebook(data)
            except (Refused, Unreadable) as problem:
                problems.append((entry, problem))
                continue
            unread = tuple(clean(f"{other.shown} 没有用：{problem}") for other, problem in problems)
            row = replace(
                self.row,
                file=entry.shown,
                sha256=notebook_file.digest(data),
                notes=(*self.row.notes, *unread, *((f"评的是 {entry.shown}",) if unread else ())),
            )
            return replace(self, row=row, notebook=notebook)
        entry, first = problems[0]
        status = REFUSED if isinstance(first, Refused) else UNREADABLE
        return self._published(replace(self.row, status=status, reason=clean(first), file=entry.shown))

    def grade(self) -> Row:
        """Run the notebook's answers. Raises what goes wrong with the grader."""
        assert self.notebook is not None
        task = tasks.load(self.row.lab, self.settings.seed)
        boxes = [_warm_sandbox(task.preload, self.settings, closed) for closed in (False, True)]
        return self._published(self.row.with_earned(scoring.grade(task, self.notebook, *boxes)))

    def failed(self, why: str) -> Row:
        """The row when the grader itself went wrong."""
        reason = clean(f"评分程序自己出了错，请重新运行 ({why})")
        return self._published(replace(self.row, status=FAILED, reason=reason))

    def _published(self, row: Row) -> Row:
        """The row without paths of this machine."""
        roots = [str(folder) for folder in (*self.settings.hidden, *_machine_roots())]
        return row.rewritten(lambda text: short_paths(text, roots))


def _machine_roots() -> list[str]:
    """Folders of this machine that a message may name: of the course, of Python, of the user."""
    return [str(course.root()), sys.prefix, sys.base_prefix, str(Path.home())]


@dataclass(frozen=True)
class _Reading:
    """The first half of a job, for when the second is done elsewhere."""

    job: GradingJob

    def run(self) -> GradingJob | Row:
        return self.job.read()


@dataclass
class BatchPlan:
    """What a batch has to do: rows that are settled, and jobs; `labs` are the numbers that were looked for."""

    out: Path
    labs: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    jobs: list[GradingJob] = field(default_factory=list)
    kept: int = 0


# ---------------------------------------------------------------- planning


def plan(submissions: Submissions, out: Path, labs: tuple[course.Lab, ...], settings: Settings) -> BatchPlan:
    """Look at every student's files for every one of these labs."""
    made = BatchPlan(out, tuple(lab.number for lab in labs))
    versions = {lab.number: tasks.version(lab, settings.seed) for lab in labs}
    for student in submissions.students:
        for lab in labs:
            _plan_one(made, student, lab, versions[lab.number], settings)
        if not student.versions and not labs:
            made.rows.append(_without_notebook(student, "", 0.0))
    return made


def _plan_one(made: BatchPlan, student: Student, lab: course.Lab, version: str, settings: Settings) -> None:
    maximum = float(sum(lab.points.values()))
    versions = student.versions.get(lab.number, ())[::-1]
    if not versions:
        made.rows.append(_without_notebook(student, lab.number, maximum))
        return
    notes = _notes(student, lab.number)
    row = Row(student.name, lab.number, GRADED, "-", maximum=maximum, version=version, notes=notes)
    old = _kept(made.out, row, versions[0])
    if old:
        made.rows.append(old)
        made.kept += 1
    else:
        made.jobs.append(GradingJob(row, versions, settings))


def _notes(student: Student, number: str) -> tuple[str, ...]:
    """Which version is graded and why, which aren't, and what else there was that could not be looked into."""
    *others, newest = student.versions[number]
    notes = []
    if others:
        choice = student.choices[number]
        unsure = "" if choice.certain else "；如果评错了，请告诉老师，并在文件名里写上日期或版本号"
        notes.append(
            f"有 {len(others) + 1} 份，评的是 {newest.shown}（{choice.reason}{unsure}）；"
            f"没有评：{some([entry.shown for entry in reversed(others)])}"
        )
    odd = [p for p in student.problems_of(number) if p.status != MISSING]
    notes += [f"没有看：{problem}" for problem in odd[:3]]
    return tuple(clean(note) for note in notes)


def _without_notebook(student: Student, number: str, maximum: float) -> Row:
    """The row of a student who has no notebook of this lab: nothing handed in, or nothing that can be opened."""
    for problem in student.problems_of(number):
        if problem.status != MISSING:
            return Row(student.name, number, problem.status, problem.reason, maximum=maximum)
    reason = f"没有交实验 {number} 的笔记本" if number else "没有交笔记本"
    others = [problem.reason for problem in student.problems_of(number)]
    return Row(student.name, number, MISSING, clean("；".join([reason, *others])), maximum=maximum)


def _kept(out: Path, row: Row, newest: Entry) -> Row | None:
    """The row of an earlier run, if it is about the same bytes, graded by the same course."""
    try:
        old = results.read_row(results.row_path(out, row))
    except (OSError, results.RowError):
        return None
    same = (old.student, old.lab, old.version, old.file) == (row.student, row.lab, row.version, newest.shown)
    if not same or old.status != GRADED or old.notes[: len(row.notes)] != row.notes:
        return None
    try:
        return old if notebook_file.digest(newest.read()) == old.sha256 else None
    except (Refused, Unreadable):
        return None


# ---------------------------------------------------------------- sandboxes of a worker

_WARM: dict[tuple, Sandbox] = {}


def _warm_sandbox(preload: tuple[str, ...], settings: Settings, closed: bool) -> Sandbox:
    """A sandbox of these settings, kept warm for the next job. `closed`: for hidden cases, and nothing else."""
    key = (preload, settings, closed)
    sandbox = _WARM.pop(key, None) or Sandbox(preload, settings.hidden, settings.confined, settings.limits)
    while len(_WARM) >= WARM:
        _WARM.pop(next(iter(_WARM))).close()
    _WARM[key] = sandbox
    return sandbox


def close_sandboxes() -> None:
    """End the warm sandboxes of this process."""
    while _WARM:
        _WARM.popitem()[1].close()


# ---------------------------------------------------------------- the batch


def run(
    made: BatchPlan,
    count: int,
    scheduler: str | None,
    done: Callable[[Row], None] = lambda row: None,
    apply: Callable[[Row], Row] = lambda row: row,
) -> list[Row]:
    """Do what is planned, write the rows, and give back all rows in order.

    `count` jobs are under way at a time. `done` is told each row when it is written. `apply` makes of each row what
    is written, such as `Policy.apply`; it must be idempotent, kept rows pass it again.

    Raises SandboxError when no sandbox can be started, and ConnectionError when a scheduler is lost: what was graded
    is kept, and the same plan goes on from there.
    """
    made.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in _rows(made, count, scheduler):
        rows.append(apply(row))
        results.write_row(made.out, rows[-1])
        done(rows[-1])
    return sorted(rows, key=lambda row: row.key)


def _rows(made: BatchPlan, count: int, scheduler: str | None) -> Iterator[Row]:
    """Each row, as it gets known."""
    yield from made.rows
    if made.jobs:
        for job, outcome in _done(made.jobs, count, scheduler):
            yield outcome if isinstance(outcome, Row) else job.failed(str(outcome))


Done = tuple[GradingJob, Row | str]
"""A job, and its row or a line that says what went wrong with the grader."""


def _done(jobs: list[GradingJob], count: int, scheduler: str | None) -> Iterator[Done]:
    if scheduler:
        yield from _elsewhere(jobs, count, scheduler)
    elif count > 1 and len(jobs) > 1:
        yield from workers.processes(jobs, count, [__name__, "jupytext", *_modules(jobs)])
    else:
        try:
            for job in jobs:
                yield job, workers.outcome(job)
        finally:
            close_sandboxes()


def _elsewhere(jobs: list[GradingJob], count: int, scheduler: str) -> Iterator[Done]:
    """The files are read on this machine, which has them; what is in them is graded by the cluster."""
    readings = [_Reading(job) for job in jobs]
    read = []
    for reading, outcome in workers.processes(readings, count, [__name__]):
        if isinstance(outcome, GradingJob):
            read.append(outcome)
        else:
            yield reading.job, outcome
    yield from workers.cluster(read, scheduler)


def _modules(jobs: list[GradingJob]) -> list[str]:
    """The checks of the jobs' labs, with all that they import."""
    labs = sorted({job.row.lab for job in jobs})
    return [name for number in labs for name in tasks.check_modules(course.lab(number))]
