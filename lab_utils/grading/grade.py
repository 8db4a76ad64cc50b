"""The whole of grading: a folder of submissions in, a folder of results out.

`grade_class` is what `labs grade` runs; the command parses its options and prints its outcome.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lab_utils import course
from lab_utils.errors import LabError
from lab_utils.grading import (
    adapter_copies,
    adapter_submissions,
    batch,
    extra,
    feedback,
    gradebook,
    results,
    sandbox,
    submissions,
)
from lab_utils.grading.adapter_copies import Copies
from lab_utils.grading.adapter_submissions import AdapterSubmission
from lab_utils.grading.policy import AdapterRequest, Policy
from lab_utils.grading.results import ResultsError
from lab_utils.grading.row import FAILED, Row
from lab_utils.grading.submissions import Submissions

RESUME = "已评的都保存了，再运行同一条命令会从断点继续"


class SandboxUnavailable(LabError):
    """There is no sandbox on this machine. The message says what to do."""


class GradingStopped(LabError):
    """Grading couldn't go on; what was graded is kept, and the same call goes on from there."""


@dataclass(frozen=True)
class Options:
    """How a class is graded.

    `labs` None: every lab of which somebody handed in a notebook, and those that ask for adapters. `workers`
    submissions are graded at a time. `scheduler`: address of a Dask cluster to use instead of this machine. `seed`
    of the hidden cases; None: that of the last run, at first a new secret one. `confined` False: without a sandbox,
    students' code runs as the user who grades.
    """

    labs: tuple[course.Lab, ...] | None = None
    workers: int = 1
    scheduler: str | None = None
    seed: int | None = None
    policy: Policy = field(default_factory=Policy)
    adapters: tuple[AdapterRequest, ...] = ()
    confined: bool = True


@dataclass(frozen=True)
class Preview:
    """What a batch has to do, known before it begins."""

    to_run: int
    kept: int
    settled: int
    """Rows that need no run, the kept ones among them."""
    adapters_to_judge: int
    adapters_known: int
    adapters: int
    """Adapters that were asked for, handed in or not."""
    seed_changed: bool
    ignored: tuple[str, ...]

    @property
    def steps(self) -> int:
        """Of how many steps `progress` will be told."""
        return self.to_run + self.settled + self.adapters


@dataclass(frozen=True)
class Outcome:
    """What came of it. `rows`: all that are in the folder, also of labs that this run didn't look at."""

    rows: tuple[Row, ...]
    removed: tuple[str, ...]
    """Rows of submissions that are no longer there, put away."""
    unmatched: tuple[str, ...]
    """Lines of the teacher's tables that belong to no row."""
    copies: tuple[Copies, ...]

    @property
    def failures(self) -> list[tuple[Row, str]]:
        """Rows in which the grader itself went wrong, and why."""
        rows = [(row, row.reason) for row in self.rows if row.status == FAILED]
        adapters = [(row, one) for row in self.rows for one in row.exercises if one.stage == FAILED]
        return rows + [(row, one.message) for row, one in adapters]


def grade_class(
    folder: Path,
    out: Path,
    options: Options | None = None,
    started: Callable[[Preview], None] = lambda preview: None,
    progress: Callable[[], None] = lambda: None,
) -> Outcome:
    """Grade the submissions in `folder`; rows, table, gradebook and pages go to `out`.

    `started` is told what there is to do, `progress` each step that is done. Raises ResultsError and NotFound for
    folders that can't be meant, Unavailable without the packages of the extra `grade`, SandboxUnavailable when there
    is no sandbox here, and GradingStopped when it can't go on: what was graded is kept, and the same call goes on from
    there.
    """
    options = options or Options()
    extra.require("nbgrader", "jinja2", *(["distributed"] if options.scheduler else []))
    folder, out = folder.resolve(), out.resolve()
    if folder == out or folder in out.parents or out in folder.parents:
        raise ResultsError("成绩文件夹 (--out) 与作业文件夹 (submissions) 不能一个在另一个里面")
    handed_in = submissions.walk(folder)
    if options.confined and (problem := sandbox.available()):
        raise SandboxUnavailable(problem)
    try:
        seed, seed_changed = results.settle_seed(out, options.seed)
        hidden = (folder, out, course.root())
        labs = _labs(handed_in, options)
        planned = batch.plan(handed_in, out, labs, batch.Settings(seed, options.confined, hidden))
        requests = [request for request in options.adapters if request.lab in planned.labs]
        adapters = adapter_submissions.find(handed_in, out, requests)
        started(_preview(planned, adapters, seed_changed, handed_in.ignored))
        return _run(handed_in, planned, adapters, options, progress)
    except (sandbox.SandboxError, OSError, gradebook.GradebookError) as error:
        reason = _reason(error) if isinstance(error, OSError) else str(error)
        raise GradingStopped(reason, RESUME) from error


def _reason(error: OSError) -> str:
    if isinstance(error, LabError):
        return str(error)
    place = f"：{error.filename}" if error.filename else ""
    return f"{error.strerror or error}{place} ({type(error).__name__})"


def _labs(handed_in: Submissions, options: Options) -> tuple[course.Lab, ...]:
    if options.labs is not None:
        return options.labs
    numbers = {number for student in handed_in.students for number in student.versions}
    numbers |= {request.lab for request in options.adapters}
    return tuple(lab for lab in course.LABS if lab.number in numbers)


def _preview(
    planned: batch.BatchPlan,
    adapters: Sequence[AdapterSubmission],
    seed_changed: bool,
    ignored: tuple[str, ...],
) -> Preview:
    there = [submission for submission in adapters if submission.job is not None]
    new = sum(submission.judgment is None for submission in there)
    return Preview(
        len(planned.jobs),
        planned.kept,
        len(planned.rows),
        new,
        len(there) - new,
        len(adapters),
        seed_changed,
        ignored,
    )


def _run(
    handed_in: Submissions,
    planned: batch.BatchPlan,
    adapters: Sequence[AdapterSubmission],
    options: Options,
    progress: Callable[[], None],
) -> Outcome:
    """Judge, grade, and write everything."""
    out = planned.out
    for _ in adapter_submissions.judge(adapters, options.workers):
        progress()
    policy = replace(options.policy, adapters=adapter_submissions.results(adapters))
    rows = batch.run(planned, options.workers, options.scheduler, lambda row: progress(), policy.apply)
    feedback.write_all(out, rows)
    written = {results.row_path(out, row) for row in rows}
    labs = None if options.labs is None else planned.labs
    others = results.put_away(out, written, handed_in.by_name.keys(), labs)
    everything = tuple(sorted((*rows, *others.rows), key=lambda row: row.key))
    results.write_table(out, everything)
    gradebook.write(out / results.GRADEBOOK, everything)
    return Outcome(
        everything, others.removed, tuple(policy.unmatched(rows)), tuple(adapter_copies.find(everything))
    )
