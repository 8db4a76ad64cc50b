"""The answers in a submitted notebook: which cell answers which exercise."""

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab_utils.authoring.master import BEGIN_STUB
from lab_utils.grading.notebook_file import Notebook, SubmittedCell

if TYPE_CHECKING:
    from lab_utils.grading.tasks import Exercise, Task


@dataclass(frozen=True)
class Answers:
    """The code of a submission, cell by cell, and for each exercise its cell, or None, and what was odd."""

    code: list[str]
    cell: dict[str, int | None]
    notes: list[str]


def pick(task: "Task", notebook: Notebook) -> Answers:
    """Find each exercise's answer: by id, else by the function's name, else by likeness to what was given out."""
    wanted = {exercise.name for exercise in task.exercises}
    notes: list[str] = []
    cells = _joined([cell for cell in notebook.cells if _counts(cell, wanted, notes)], notes)
    chosen = {exercise.name: _find(exercise, cells, notes) for exercise in task.exercises}
    taken = {index for index in chosen.values() if index is not None}
    for exercise in task.exercises:
        if chosen[exercise.name] is None:
            free = [index for index in range(len(cells)) if index not in taken]
            chosen[exercise.name] = found = _likest(exercise.stub, cells, free)
            if found is not None:
                taken.add(found)
                notes.append(f"练习 {exercise.name}：按内容相似找到答案")
    return Answers([cell.source for cell in cells], chosen, notes)


def _counts(cell: SubmittedCell, wanted: set[str], notes: list[str]) -> bool:
    """Whether a cell is code, or was an exercise's code before its type was changed."""
    if cell.kind == "code":
        return True
    name = cell.grade_id if cell.grade_id in wanted else cell.id
    if name in wanted:
        notes.append(f"练习 {name}：单元被改成了 {cell.kind}，仍按代码读")
    return name in wanted


def _joined(cells: list[SubmittedCell], notes: list[str]) -> list[SubmittedCell]:
    """Cells of which the second begins indented are one that was split."""
    joined: list[SubmittedCell] = []
    for cell in cells:
        first = next((line for line in cell.source.split("\n") if line.strip()), "")
        if joined and first.startswith((" ", "\t")) and joined[-1].source.rstrip():
            last = joined[-1]
            joined[-1] = SubmittedCell(
                last.id, last.grade_id, "code", f"{last.source.rstrip()}\n{cell.source}"
            )
            notes.append("有一个单元 (cell) 被拆成了两个，已合起来读")
        else:
            joined.append(cell)
    return joined


def _find(exercise: "Exercise", cells: list[SubmittedCell], notes: list[str]) -> int | None:
    """The cell by its id and by the function's name; an untouched stub only when there is nothing else."""
    name = re.escape(exercise.function)
    defines = re.compile(
        rf"^(?:async\s+)?def\s+{name}\b|^{name}\s*(?::[^=\n]*)?=(?!=)|^class\s+{name}\b", re.MULTILINE
    )
    named = [i for i, cell in enumerate(cells) if defines.search(cell.source)]
    known = [i for i, cell in enumerate(cells) if exercise.name in (cell.grade_id, cell.id)]
    both = [i for i in known if i in named]
    for group, odd in ((both, False), (named, True)):
        written = [i for i in group if not is_stub(cells[i].source)]
        if written:
            if len({cells[i].source for i in written}) > 1:
                notes.append(f"练习 {exercise.name}：有 {len(written)} 份不同的答案，按最后一份评")
            if odd:
                notes.append(f"练习 {exercise.name}：答案不在原来的单元里，按函数名找到")
            return written[-1]
    return next((group[-1] for group in (both, named, known) if group), None)


def is_stub(source: str) -> bool:
    """Whether the stub that was given out still stands in this code."""
    return BEGIN_STUB in source


def _likest(stub: str, cells: list[SubmittedCell], free: list[int]) -> int | None:
    """The cell most like the stub, when it is like it at all."""
    best, found = 0.6, None
    for index in free:
        source = cells[index].source[:2000]
        matcher = difflib.SequenceMatcher(None, stub[:2000].split(), source.split(), autojunk=False)
        if matcher.quick_ratio() > best and matcher.ratio() > best:
            best, found = matcher.ratio(), index
    return found
