"""The answers in a submitted notebook: which cell answers which exercise."""

import ast
import difflib
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from lab_utils.authoring.master import BEGIN_STUB
from lab_utils.grading.notebook_file import Notebook, SubmittedCell

_STUB = re.compile(rf"{re.escape(BEGIN_STUB)}(?: (\w+))?：")
SPLIT_LIMIT = 20_000
"""Characters of the longest cell that is looked into for halves of an answer, and for stubs beside other code."""


class ExerciseLike(Protocol):
    """An exercise as far as it is known where answers are looked for: `stub` is its cell as given out, or empty."""

    @property
    def name(self) -> str: ...

    @property
    def function(self) -> str: ...

    @property
    def stub(self) -> str: ...


class LabLike(Protocol):
    """A lab with its exercises, as a `Task` and a `Handout` are."""

    @property
    def exercises(self) -> Sequence[ExerciseLike]: ...


@dataclass(frozen=True)
class Answers:
    """The code of a submission, cell by cell, and for each exercise its cell, or None, and what was odd."""

    code: list[str]
    cell: dict[str, int | None]
    notes: list[str]


def pick(task: LabLike, notebook: Notebook) -> Answers:
    """Find each exercise's answer: by id, else by the function's name, else by likeness to what was given out.

    A stub that was left beside an answer written elsewhere is taken out of the code, so that it doesn't come back.
    """
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
    code = [
        cell.source if index in taken else _without_stubs(cell.source, wanted)
        for index, cell in enumerate(cells)
    ]
    return Answers(code, chosen, notes)


def _without_stubs(source: str, wanted: set[str]) -> str:
    """The code without the functions that are still stubs; nothing of it where they can't be told apart."""
    if not any(is_stub(source, name) for name in wanted):
        return source
    tree = _tree(source)
    lines = source.split("\n")
    for statement in tree.body if tree else ():
        if isinstance(statement, ast.FunctionDef):
            first = min([statement.lineno, *(node.lineno for node in statement.decorator_list)]) - 1
            text = "\n".join(lines[first : statement.end_lineno])
            if any(is_stub(text, name) for name in wanted):
                lines[first : statement.end_lineno] = [""] * (text.count("\n") + 1)
    rest = "\n".join(lines)
    return "" if any(is_stub(rest, name) for name in wanted) else rest


def _tree(source: str) -> ast.Module | None:
    """The code as Python reads it; None when it can't, or when it is very long."""
    if len(source) > SPLIT_LIMIT:
        return None
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _counts(cell: SubmittedCell, wanted: set[str], notes: list[str]) -> bool:
    """Whether a cell is code, or was an exercise's code before its type was changed."""
    if cell.kind == "code":
        return True
    name = cell.grade_id if cell.grade_id in wanted else cell.id
    if name in wanted:
        notes.append(f"练习 {name}：单元被改成了 {cell.kind}，仍按代码读")
    return name in wanted


def _joined(cells: list[SubmittedCell], notes: list[str]) -> list[SubmittedCell]:
    """A cell that begins indented, and is no code by itself but is with the cell before, was split off from it."""
    joined: list[SubmittedCell] = []
    for cell in cells:
        first = next((line for line in cell.source.split("\n") if line.strip()), "")
        last = joined[-1] if joined else None
        if last and first.startswith((" ", "\t")) and last.source.strip() and not _is_code(cell.source):
            both = f"{last.source.rstrip()}\n{cell.source}"
            if _is_code(both):
                joined[-1] = SubmittedCell(last.id, last.grade_id, "code", both)
                notes.append("有一个单元 (cell) 被拆成了两个，已合起来读")
                continue
        joined.append(cell)
    return joined


def _is_code(source: str) -> bool:
    """Whether a notebook would take this, by itself, for Python: it may be indented as a whole, but not return."""
    tree = _tree(textwrap.dedent(source))
    if tree is None:
        return False
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.Return):
                return False
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                waiting.append(node)
    return True


def _find(exercise: ExerciseLike, cells: list[SubmittedCell], notes: list[str]) -> int | None:
    """The cell by its id and by the function's name, the last before the last check; an untouched stub only when
    there is nothing else."""
    name = re.escape(exercise.function)
    checks = [i for i, cell in enumerate(cells) if re.search(rf"\.\w+\({name}\)", cell.source)]
    defined = rf"(?:async\s+)?def\s+{name}\b"
    bound = rf"^(?:{defined}|class\s+{name}\b|{name}\s*(?::[^=\n]*)?=(?!=))"
    outermost, anywhere = (re.compile(text, re.MULTILINE) for text in (bound, rf"^[ \t]+{defined}"))
    named = [i for i, cell in enumerate(cells) if outermost.search(cell.source)]
    inner = [i for i, cell in enumerate(cells) if i not in named and anywhere.search(cell.source)]
    known = {i for i, cell in enumerate(cells) if exercise.name in (cell.grade_id, cell.id)}
    groups = [[i for i in group if i in known] for group in (named, inner)] + [named, inner]
    for number, group in enumerate(groups):
        written = [i for i in group if not is_stub(cells[i].source, exercise.name)]
        if written:
            checked = [i for i in written if checks and i <= checks[-1]] or written
            if len({cells[i].source for i in written}) > 1:
                last = "最后一份" if checked[-1] == written[-1] else "检查之前的最后一份"
                notes.append(f"练习 {exercise.name}：有 {len(written)} 份不同的答案，按{last}评")
            if number > 1:
                notes.append(f"练习 {exercise.name}：答案不在原来的单元里，按函数名找到")
            return checked[-1]
    return next((group[-1] for group in (*groups, sorted(known)) if group), None)


def is_stub(source: str, exercise: str) -> bool:
    """Whether the stub of an exercise still stands in this code: not as a comment, and not behind a return."""
    if BEGIN_STUB not in source:
        return False
    before = ""
    for line in source.split("\n"):
        code = line.strip()
        stub = _STUB.match(code)
        if stub and stub[1] in (None, exercise):
            indent = line[: len(line) - len(line.lstrip())]
            if not re.match(rf"{indent}(?:return|raise)\b", before):
                return True
        if code and not code.startswith("#"):
            before = line
    return False


def _likest(stub: str, cells: list[SubmittedCell], free: list[int]) -> int | None:
    """The cell most like the stub, when it is like it at all."""
    best, found = 0.6, None
    for index in free:
        source = cells[index].source[:2000]
        matcher = difflib.SequenceMatcher(None, stub[:2000].split(), source.split(), autojunk=False)
        if matcher.quick_ratio() > best and matcher.ratio() > best:
            best, found = matcher.ratio(), index
    return found
