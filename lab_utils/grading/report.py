"""One page for the teacher about a graded class: how the labs went, where answers go wrong, who wrote the same.

The page is for the teacher alone: unlike a student's feedback it names hidden cases and shows pieces of answers.
"""

import base64
import io
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.files import write_atomic
from lab_utils.grading import (
    adapter_copies,
    answers,
    extra,
    feedback,
    handout,
    notebook_file,
    pages,
    results,
    similarity,
    submissions,
)
from lab_utils.grading.notebook_file import Unreadable
from lab_utils.grading.reading import Refused
from lab_utils.grading.row import FAILED, GRADED, MISSING, REFUSED, UNREADABLE, ExerciseResult, Row
from lab_utils.grading.submissions import Entry, Submissions
from lab_utils.grading.text import plain, safe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WRONG_SHOWN, HARD_SHOWN, EXAMPLE_LINES = 3, 12, 30
STATUS = {MISSING: "没有交", UNREADABLE: "读不出来", REFUSED: "没有打开", FAILED: "评分出错"}
_CASE = re.compile(r"用例「([^」]*)」")


@dataclass(frozen=True)
class ExerciseFigures:
    """How an exercise went: mean share of its points over those who handed in, and the common wrong answers."""

    lab: str
    name: str
    students: int
    whole: int
    mean: float
    wrong: tuple[tuple[str, int], ...]


def write(out: Path, folder: Path | None = None) -> Path:
    """Write `out`/report.html from the rows in `out`, and from the submissions in `folder` which answers are alike.

    Given `folder`, rows of students who are no longer in it are left out. Raises ResultsError when there are no rows,
    RowError when one can't be read, NotFound without `folder`, Unavailable without the packages of the extra `grade`.
    """
    extra.require("jinja2", *(["rapidfuzz"] if folder is not None else []))
    rows = results.read_rows(out)
    same = None
    if folder is not None:
        handed_in = submissions.walk(folder)
        rows = [row for row in rows if row.student in handed_in.by_name]
        same = alike(rows, handed_in)
    path = out / results.REPORT
    write_atomic(path, page(rows, same))
    return path


# ---------------------------------------------------------------- figures


def exercises(rows: Iterable[Row]) -> list[ExerciseFigures]:
    """Every exercise of the graded rows, in the course's order."""
    by_exercise: dict[tuple[str, str], list[ExerciseResult]] = {}
    for row in rows:
        if row.status == GRADED:
            for result in row.exercises:
                by_exercise.setdefault((row.lab, result.name), []).append(result)
    return [_exercise(*key, given) for key, given in sorted(by_exercise.items(), key=_course_order)]


def _course_order(item: tuple[tuple[str, str], Any]) -> tuple:
    lab, name = item[0]
    names = list(course.lab(lab).points)
    return lab, names.index(name) if name in names else len(names), name


def _exercise(lab: str, name: str, given: Sequence[ExerciseResult]) -> ExerciseFigures:
    shares = [result.score / result.points if result.points else 0.0 for result in given]
    wrong = Counter(_wrong(result) for result in given if result.stage != "ok")
    common = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))
    whole = sum(result.stage == "ok" for result in given)
    return ExerciseFigures(lab, name, len(given), whole, statistics.fmean(shares), tuple(common))


def _wrong(result: ExerciseResult) -> str:
    """What kind of wrong answer this is: a known mistake, else the stage and the case at which it showed."""
    if result.mistake:
        return f"典型错误：{safe(result.mistake, 60)}"
    verdict = feedback.verdict(result)
    case = _CASE.search(result.message)
    return f"{verdict}（{safe(case[1], 40)}）" if case else verdict


Alike = dict[str, list[tuple[similarity.Group, list[tuple[str, str]]]]]
"""Lab -> the groups of like answers, each with its example: `(student, source)` of its first two."""


def alike(rows: Iterable[Row], handed_in: Submissions) -> Alike:
    """The groups of like answers. Answers are taken from the files that were graded, told by their digest; a file
    changed since is left out."""
    by_lab: dict[str, list[Row]] = {}
    for row in rows:
        if row.status == GRADED:
            by_lab.setdefault(row.lab, []).append(row)
    groups: Alike = {}
    for number, graded in sorted(by_lab.items()):
        given = handout.read(course.lab(number))
        written = {row.student: _answers(given, row, handed_in) for row in graded}
        groups[number] = [
            (group, [(student, written[student][group.example]) for student in _example(group, written)])
            for group in similarity.groups(written, _known(course.lab(number)))
        ]
    return {number: entries for number, entries in groups.items() if entries}


def _answers(given: handout.Handout, row: Row, handed_in: Submissions) -> dict[str, str]:
    """Exercise -> the answer, of the submission that this row is about."""
    student = handed_in.by_name.get(row.student)
    data = _graded_bytes(student.versions.get(row.lab, ()), row.sha256) if student else None
    if data is None:
        return {}
    try:
        picked = answers.pick(given, notebook_file.read_notebook(data))
    except Unreadable:
        return {}
    return {name: picked.code[cell] for name, cell in picked.cell.items() if cell is not None}


def _graded_bytes(versions: Sequence[Entry], sha256: str) -> bytes | None:
    for entry in reversed(versions):
        try:
            data = entry.read()
        except (Refused, Unreadable):
            continue
        if notebook_file.digest(data) == sha256:
            return data
    return None


def _known(lab: course.Lab) -> dict[str, list[str]]:
    """Exercise -> what everybody has or may have: the stub and the model answer."""
    return {
        cell.exercise: [master.student_source(cell), cell.source]
        for cell in master.read(lab)
        if cell.exercise
    }


def _example(group: similarity.Group, answers: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [student for student in group.students if group.example in answers[student]][:2]


# ---------------------------------------------------------------- the page


def page(rows: Sequence[Row], same: Alike | None = None) -> str:
    """The report as one HTML page. `same`: as `alike` gives it; None when it wasn't looked for."""
    figures = exercises(rows)
    labs = sorted({row.lab for row in rows if row.lab})
    return pages.render(
        "report.html",
        students=len({row.student for row in rows}),
        summary=[_lab_line(number, [row for row in rows if row.lab == number]) for number in labs],
        distribution=_picture(_distribution, rows, labs) if figures else None,
        hardest=_picture(_hardest, figures) if figures else None,
        attention=[_attention(row) for row in rows if row.status != GRADED],
        labs=[
            {"title": _title(number), "exercises": [_exercise_line(e) for e in figures if e.lab == number]}
            for number in labs
            if any(e.lab == number for e in figures)
        ],
        adapters=[_copy(copies) for copies in adapter_copies.find(rows)],
        looked=same is not None,
        same=[_group(number, *entry) for number, entries in (same or {}).items() for entry in entries],
    )


def _title(number: str) -> str:
    return f"{number} {course.lab(number).title}"


def _shares(rows: Iterable[Row]) -> list[float]:
    return [row.score / row.maximum for row in rows if row.status == GRADED and row.maximum]


def _lab_line(number: str, rows: Sequence[Row]) -> dict[str, str]:
    shares = _shares(rows)
    return {
        "title": _title(number),
        "handed": f"{sum(row.status != MISSING for row in rows)} / {len(rows)}",
        "graded": str(len(shares)),
        "mean": f"{statistics.fmean(shares):.0%}" if shares else "–",
        "median": f"{statistics.median(shares):.0%}" if shares else "–",
        "whole": str(sum(share >= 1 for share in shares)),
        "late": str(sum(row.late is not None for row in rows)),
    }


def _attention(row: Row) -> dict[str, str]:
    return {
        "student": safe(row.student, 60),
        "lab": row.lab or "–",
        "status": STATUS[row.status],
        "reason": safe(row.reason),
    }


def _exercise_line(exercise: ExerciseFigures) -> dict[str, Any]:
    return {
        "name": exercise.name,
        "whole": f"{exercise.whole} / {exercise.students}",
        "mean": f"{exercise.mean:.0%}",
        "wrong": [f"{kind} × {count}" for kind, count in exercise.wrong[:WRONG_SHOWN]],
        "more": sum(count for _, count in exercise.wrong[WRONG_SHOWN:]),
    }


def _copy(copies: adapter_copies.Copies) -> dict[str, Any]:
    return {
        "lab": _title(copies.lab),
        "students": [safe(student, 60) for student in copies.students],
        "kind": copies.similarity,
    }


def _group(number: str, group: similarity.Group, example: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        "lab": _title(number),
        "students": [safe(student, 60) for student in group.students],
        "exercises": "、".join(group.exercises),
        "similarity": f"{group.similarity:.0%}",
        "verbatim": group.verbatim,
        "name": group.example,
        "example": [(safe(student, 60), _excerpt(source)) for student, source in example],
    }


def _excerpt(source: str) -> str:
    lines = plain(source).strip("\n").split("\n")
    shown = [line[:160] for line in lines[:EXAMPLE_LINES]]
    return "\n".join([*shown, *[f"…（还有 {len(lines) - EXAMPLE_LINES} 行）"] * (len(lines) > EXAMPLE_LINES)])


# ---------------------------------------------------------------- pictures


def _picture(draw: Callable[..., "Figure"], *data: Any) -> str:
    """A figure as a data URI: SVG with its letters as outlines, so that it looks the same everywhere."""
    import matplotlib

    from lab_utils import plots

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc in the current folder may be anybody's
        plots.use_course_style()
        matplotlib.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "labs"})
        figure = draw(*data)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _distribution(rows: Sequence[Row], labs: Sequence[str]) -> "Figure":
    """Histograms of the share of points, one a lab, on the same axes."""
    from matplotlib.figure import Figure

    from lab_utils import plots

    drawn = [(number, shares) for number in labs if (shares := _shares(r for r in rows if r.lab == number))]
    columns = min(3, len(drawn))
    lines = -(-len(drawn) // columns)
    figure = Figure(figsize=(3.1 * columns + 0.4, 2.3 * lines + 0.2), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for ax, (number, shares) in zip(axes.flat, drawn, strict=False):
        counts = Counter(min(9, int(10 * share + 1e-9)) for share in shares)
        ax.bar([k + 0.5 for k in range(10)], [counts[k] for k in range(10)], 0.92, color=plots.DARK)
        middle = 10 * statistics.median(shares)
        ax.axvline(middle, color=plots.BRIGHT, linewidth=2)
        ax.set_title(f"{number} {course.lab(number).title}", fontsize=11)
        ax.set_xticks(range(0, 11, 2), [f"{10 * k}%" for k in range(0, 11, 2)], fontsize=8)
        ax.yaxis.get_major_locator().set_params(integer=True)
        ax.grid(axis="x", visible=False)
    for ax in axes.flat[len(drawn) :]:
        ax.set_axis_off()
    figure.supxlabel("得分率（橙线：中位数）", fontsize=10)
    figure.supylabel("人数", fontsize=10)
    return figure


def _hardest(figures: Sequence[ExerciseFigures]) -> "Figure":
    """The exercises with the lowest mean share of points, the hardest on top."""
    from matplotlib.figure import Figure

    from lab_utils import plots

    shown = sorted(figures, key=lambda e: (e.mean, e.lab, e.name))[:HARD_SHOWN]
    figure = Figure(figsize=(7.5, 0.36 * len(shown) + 0.9), layout="constrained")
    ax = figure.subplots()
    bars = ax.barh(range(len(shown)), [e.mean for e in shown], 0.66, color=plots.DARK)
    ax.bar_label(bars, [f"{e.mean:.0%}" for e in shown], padding=4, fontsize=9)
    ax.set_yticks(range(len(shown)), [f"{e.lab} · {e.name}" for e in shown], fontsize=9)
    ax.set(xlim=(0, 1.08), xlabel="平均得分率")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return figure
