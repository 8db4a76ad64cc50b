"""What a student gets back: one page a lab, from the row and nothing else.

The row holds no hidden input and no expected value, so the page can't. Whatever in it came from the student is text
here: escaped, without control or direction characters, no link, no script; the page's own policy forbids the rest.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.authoring.master import Cell
from lab_utils.files import write_atomic
from lab_utils.grading import pages
from lab_utils.grading.pages import number
from lab_utils.grading.results import row_path
from lab_utils.grading.row import GRADED, ExerciseResult, ManualMark, Row
from lab_utils.grading.text import safe

VERDICTS = {
    "ok": "全部通过",
    "not_yet": "还没有写",
    "missing": "没有找到答案",
    "error": "运行出错",
    "time": "超时",
    "memory": "内存用得太多",
    "files": "写的文件太多",
    "ended": "代码中途退出",
    "protocol": "结果读不出来",
    "type": "返回值的类型不对",
    "shape": "形状或长度不对",
    "dtype": "数据类型不对",
    "value": "结果不对",
    "edge": "特殊情况的结果不对",
    "input": "改动了传入的参数",
}
ADAPTER_VERDICTS = {
    "ok": "达到要求",
    "adapter": "没有达到要求",
    "missing": "没有交",
    "shipped": "与课程附带的相同",
    "refused": "没有评",
    "failed": "评分没有完成",
}
PROBLEMS = {
    "missing": ("没有收到这个实验", "如果你交过，请检查文件名是否以实验的编号开头，再联系老师。"),
    "unreadable": ("交来的文件读不出来", "交之前运行 labs submit-check 文件名，它会说明哪里要改。"),
    "refused": ("交来的文件没有被打开", "请直接交 .ipynb 文件，或只含普通文件的 zip。"),
    "failed": ("评分没有完成", "这不是你的问题；老师会重新评。"),
}
_HEADING = re.compile(r"^#+\s+(.*练习.*)$", re.MULTILINE)


def titles(cells: Iterable[Cell]) -> dict[str, str]:
    """Exercise -> the heading it stands under in the notebook (练习 1：…), or else its name."""
    found, heading = {}, ""
    for cell in cells:
        if cell.kind == "markdown":
            heading = (_HEADING.findall(cell.source) or [heading])[-1]
        elif cell.exercise:
            found[cell.exercise] = heading or cell.exercise
            heading = ""
    return found


def page(row: Row, names: Mapping[str, str] | None = None) -> str:
    """The feedback page of a row; `names` are the titles of the exercises."""
    names = names or {}
    lab = course.lab(row.lab) if row.lab else None
    late = row.late
    return pages.render(
        "feedback.html",
        title=f"{lab.number} {lab.title}" if lab else "没有认出来的作业",
        student=safe(row.student, 80),
        score=number(row.score),
        maximum=number(row.maximum),
        share=number(100 * max(0.0, min(1.0, row.score / row.maximum))) if row.maximum else "0",
        problem=_problem(row),
        late={"points": number(late.points), "text": safe(late.text)} if late and late.points else None,
        exercises=[_exercise(result, names) for result in row.exercises],
        manual=[_manual(mark) for mark in row.manual],
        notes=[safe(note) for note in row.notes],
        file=safe(row.file, 120),
        sha256=safe(row.sha256, 16),
    )


def write_all(out: Path, rows: Iterable[Row]) -> None:
    """Write the page of every row beside its JSON, STUDENT/NN.html."""
    names: dict[str, dict[str, str]] = {"": {}}
    for row in rows:
        if row.lab not in names:
            names[row.lab] = titles(master.read(course.lab(row.lab)))
        path = row_path(out, row).with_suffix(".html")
        write_atomic(path, page(row, names[row.lab]))


def _problem(row: Row) -> dict[str, str] | None:
    if row.status == GRADED:
        return None
    title, advice = PROBLEMS.get(row.status, PROBLEMS["failed"])
    return {"title": title, "advice": advice, "reason": safe(row.reason)}


def verdict(result: ExerciseResult) -> str:
    """What became of an exercise or an adapter, in a few words."""
    return (ADAPTER_VERDICTS if result.adapter is not None else VERDICTS).get(result.stage, "结果不对")


def _exercise(result: ExerciseResult, names: Mapping[str, str]) -> dict[str, str]:
    look, mark = _look(result.score, result.points, result.stage == "ok")
    if result.stage == "not_yet":
        look, mark = "todo", "○"
    adapter = result.adapter is not None
    silent = result.stage in ("ok", "not_yet") and not adapter
    return {
        "title": safe(f"适配器 {result.name}" if adapter else names.get(result.name, result.name), 80),
        "look": look,
        "mark": mark,
        "verdict": f"部分通过：{verdict(result)}" if look == "part" else verdict(result),
        "score": number(result.score),
        "points": number(result.points),
        "message": "" if silent else safe(result.message),
        "hint": safe(result.hint),
        "cases": "" if result.stage in ("not_yet", "missing") or adapter else _cases(result),
    }


def _look(score: float, points: float, whole: bool) -> tuple[str, str]:
    if whole or score >= points > 0:
        return "good", "✓"
    return ("part", "◐") if score > 0 else ("bad", "✗")


def _cases(result: ExerciseResult) -> str:
    """How many cases passed, of those in the notebook and of the hidden ones."""
    parts = [f"公开用例通过 {result.passed}/{result.cases}"]
    if result.hidden_cases:
        parts.append(f"隐藏用例通过 {result.hidden_passed}/{result.hidden_cases}")
    return "，".join(parts)


def _manual(mark: ManualMark) -> dict[str, str]:
    return {
        "question": safe(mark.question, 80),
        "look": _look(mark.score, mark.points, False)[0],
        "score": number(mark.score),
        "points": number(mark.points),
        "comment": safe(mark.comment),
    }
