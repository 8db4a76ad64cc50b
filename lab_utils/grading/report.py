"""One page for the teacher about a graded class: how the labs went, where answers go wrong, who wrote the same.

The page is for the teacher alone: unlike a student's feedback it names hidden cases and shows pieces of answers.
"""

import base64
import io
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.files import write_atomic
from lab_utils.grading import (
    adapter_submissions,
    answers,
    feedback,
    handout,
    notebook_file,
    pages,
    similarity,
    submissions,
)
from lab_utils.grading.pages import safe

Row = Mapping[str, Any]
KEYS = {"student", "lab", "status", "reason", "score", "max", "sha256", "exercises"}
WRONG_SHOWN, HARD_SHOWN, EXAMPLE_LINES = 3, 12, 30
STATUS = {"missing": "没有交", "unreadable": "读不出来", "refused": "没有打开", "failed": "评分出错"}
_CASE = re.compile(r"用例「([^」]*)」")


class ReportError(ValueError):
    """A folder of results that no report can be made from. The message, Chinese, says why."""


@dataclass(frozen=True)
class Exercise:
    """How an exercise went: mean share of its points over those who handed in, and the common wrong answers."""

    lab: str
    name: str
    students: int
    whole: int
    mean: float
    wrong: tuple[tuple[str, int], ...]


def write(out: Path, handed_in: Path | None = None) -> Path:
    """Write `out`/report.html from the rows in `out`, and from the folder `handed_in` for which answers are alike.

    Raises ReportError when there are no rows or one can't be read.
    """
    rows = read_rows(out)
    path = out / "report.html"
    write_atomic(path, page(rows, alike(rows, handed_in) if handed_in else None))
    return path


def read_rows(out: Path) -> list[Row]:
    """The rows of a graded class, `out`/STUDENT/NN.json. Raises ReportError."""
    rows = []
    for path in sorted(out.glob("*/*.json")):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            row = None
        if not isinstance(row, dict) or not row.keys() >= KEYS:
            raise ReportError(
                f"{path.parent.name}/{path.name} 不是一份完整的成绩；删掉它，再运行一次 labs grade"
            )
        rows.append(row)
    if not rows:
        raise ReportError(
            f"{out} 里没有成绩 (STUDENT/NN.json)；先运行 labs grade 作业文件夹 --out {out.name}"
        )
    return rows


# ---------------------------------------------------------------- figures


def exercises(rows: Iterable[Row]) -> list[Exercise]:
    """Every exercise of the graded rows, in the course's order."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["status"] == "graded":
            for entry in row["exercises"]:
                found.setdefault((row["lab"], entry["name"]), []).append(entry)
    return [
        _exercise(lab, name, entries) for (lab, name), entries in sorted(found.items(), key=_course_order)
    ]


def _course_order(item: tuple[tuple[str, str], Any]) -> tuple:
    lab, name = item[0]
    names = list(course.lab(lab).points)
    return lab, names.index(name) if name in names else len(names), name


def _exercise(lab: str, name: str, entries: Sequence[Mapping[str, Any]]) -> Exercise:
    shares = [entry["score"] / entry["points"] if entry["points"] else 0.0 for entry in entries]
    wrong = Counter(_wrong(entry) for entry in entries if entry["stage"] != "ok")
    common = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))
    return Exercise(
        lab,
        name,
        len(entries),
        sum(e["stage"] == "ok" for e in entries),
        statistics.fmean(shares),
        tuple(common),
    )


def _wrong(entry: Mapping[str, Any]) -> str:
    """What kind of wrong answer this is: a known mistake, else the stage and the case at which it showed."""
    if entry["mistake"]:
        return f"典型错误：{safe(entry['mistake'], 60)}"
    verdict = feedback.verdict(entry)
    case = _CASE.search(entry["message"])
    return f"{verdict}（{safe(case[1], 40)}）" if case else verdict


def alike(
    rows: Iterable[Row], folder: Path
) -> dict[str, list[tuple[similarity.Group, list[tuple[str, str]]]]]:
    """Lab -> the groups of like answers, each with its example: `(student, source)` of its first two.

    Answers are taken from the files that were graded, told by their digest; a file changed since is left out.
    """
    wanted = {(row["student"], row["lab"]): row for row in rows if row["status"] == "graded"}
    given = {number: handout.read(course.lab(number)) for number in sorted({lab for _, lab in wanted})}
    found_answers: dict[str, dict[str, dict[str, str]]] = {}
    for student in submissions.students(folder):
        for number, versions in student.versions.items():
            row = wanted.get((student.name, number))
            data = _graded_bytes(versions, row["sha256"]) if row else None
            if data is not None:
                picked = answers.pick(given[number], notebook_file.read_notebook(data))
                found_answers.setdefault(number, {})[student.name] = {
                    name: picked.code[cell] for name, cell in picked.cell.items() if cell is not None
                }
    found = {}
    for number, own in sorted(found_answers.items()):
        told = similarity.groups(own, _known(course.lab(number)))
        if told:
            found[number] = [
                (group, [(s, own[s][group.example]) for s in _example(group, own)]) for group in told
            ]
    return found


def _graded_bytes(versions: Sequence[submissions.Candidate], sha256: str) -> bytes | None:
    for candidate in versions:
        try:
            data = candidate.read()
        except (submissions.Refused, notebook_file.Unreadable):
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


def page(rows: Sequence[Row], same: Mapping[str, list] | None = None) -> str:
    """The report as one HTML page. `same`: as `alike` gives it; None when it wasn't looked for."""
    told = exercises(rows)
    labs = sorted({row["lab"] for row in rows if row["lab"]})
    return pages.render(
        "report.html",
        students=len({row["student"] for row in rows}),
        summary=[_lab_line(number, [row for row in rows if row["lab"] == number]) for number in labs],
        distribution=_picture(_distribution, rows, labs) if told else None,
        hardest=_picture(_hardest, told) if told else None,
        attention=[_attention(row) for row in rows if row["status"] != "graded"],
        labs=[
            {"title": _title(number), "exercises": [_exercise_line(e) for e in told if e.lab == number]}
            for number in labs
            if any(e.lab == number for e in told)
        ],
        adapters=[_copy(*entry) for entry in adapter_submissions.copies(rows)],
        looked=same is not None,
        same=[_group(number, *entry) for number, entries in (same or {}).items() for entry in entries],
    )


def _title(number: str) -> str:
    return f"{number} {course.lab(number).title}"


def _shares(rows: Iterable[Row]) -> list[float]:
    return [row["score"] / row["max"] for row in rows if row["status"] == "graded" and row["max"]]


def _lab_line(number: str, rows: Sequence[Row]) -> dict[str, str]:
    shares = _shares(rows)
    return {
        "title": _title(number),
        "handed": f"{sum(row['status'] != 'missing' for row in rows)} / {len(rows)}",
        "graded": str(len(shares)),
        "mean": f"{statistics.fmean(shares):.0%}" if shares else "–",
        "median": f"{statistics.median(shares):.0%}" if shares else "–",
        "whole": str(sum(share >= 1 for share in shares)),
        "late": str(sum(bool(row.get("late")) for row in rows)),
    }


def _attention(row: Row) -> dict[str, str]:
    return {
        "student": safe(row["student"], 60),
        "lab": row["lab"] or "–",
        "status": STATUS.get(row["status"], safe(row["status"], 20)),
        "reason": safe(row["reason"]),
    }


def _exercise_line(exercise: Exercise) -> dict[str, Any]:
    return {
        "name": exercise.name,
        "whole": f"{exercise.whole} / {exercise.students}",
        "mean": f"{exercise.mean:.0%}",
        "wrong": [f"{kind} × {count}" for kind, count in exercise.wrong[:WRONG_SHOWN]],
        "more": sum(count for _, count in exercise.wrong[WRONG_SHOWN:]),
    }


def _copy(number: str, students: Sequence[str], how: str) -> dict[str, Any]:
    return {"lab": _title(number), "students": [safe(student, 60) for student in students], "how": how}


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
    lines = pages.plain(source).strip("\n").split("\n")
    shown = [line[:160] for line in lines[:EXAMPLE_LINES]]
    return "\n".join(shown + [f"…（还有 {len(lines) - EXAMPLE_LINES} 行）"] * (len(lines) > EXAMPLE_LINES))


# ---------------------------------------------------------------- pictures


def _picture(draw, *data: Any) -> str:
    """A figure as a data URI: SVG with its letters as outlines, so that it looks the same everywhere."""
    import matplotlib

    from lab_utils import plots

    with matplotlib.rc_context():
        plots.use_course_style()
        matplotlib.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "labs"})
        figure = draw(*data)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _distribution(rows: Sequence[Row], labs: Sequence[str]):
    """Histograms of the share of points, one a lab, on the same axes."""
    from matplotlib.figure import Figure

    from lab_utils import plots

    drawn = [
        (number, shares) for number in labs if (shares := _shares(r for r in rows if r["lab"] == number))
    ]
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


def _hardest(told: Sequence[Exercise]):
    """The exercises with the lowest mean share of points, the hardest on top."""
    from matplotlib.figure import Figure

    from lab_utils import plots

    shown = sorted(told, key=lambda e: (e.mean, e.lab, e.name))[:HARD_SHOWN]
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
