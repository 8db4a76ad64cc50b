"""The master of a lab: one jupytext percent script from which both notebooks are made.

Cell headers carry what a notebook needs to know about a cell:

    # %% [markdown]                      prose; the first cell holds {{card}}
    # %%                                 code
    # %% exercise="name"                 holds one region between ### BEGIN SOLUTION and ### END SOLUTION
    # %% check="name"                    checks the exercise; may hold ### BEGIN/END HIDDEN TESTS regions
    # %% tags=["volatile"]               volatile: output differs from run to run; optional: headless runs
                                         skip it; raises-exception: the cell is meant to raise
    # %% name="name"                     names a cell that would otherwise equal another

A cell's id comes from its name, or from its own source: editing one cell changes no other cell's id.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab_utils import course
from lab_utils.errors import InvalidValue, nearest

if TYPE_CHECKING:
    from nbformat import NotebookNode

BEGIN_SOLUTION, END_SOLUTION = "### BEGIN SOLUTION", "### END SOLUTION"
BEGIN_HIDDEN, END_HIDDEN = "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"
MARKERS = (BEGIN_SOLUTION, END_SOLUTION, BEGIN_HIDDEN, END_HIDDEN)
CARD = "{{card}}"
BEGIN_STUB, END_STUB = 'raise NotImplementedError("练习', '：在这里写你的代码")'
"""What the student gets in place of a solution, with the exercise's name between them."""

# The tag of a master, and the tag that makes nbval treat the cell accordingly.
TAGS = {
    "optional": "nbval-skip",
    "volatile": "nbval-ignore-output",
    "raises-exception": "nbval-raises-exception",
}
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    },
}
_CHINESE_END = re.compile(r"[\u3001-\u303f\u4e00-\u9fff\uff00-\uffef]$")
_CHINESE_START = re.compile(r"[\u300a\u4e00-\u9fff]")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,49}")
_KEYS = {"exercise", "check", "name", "tags"}


class MasterError(InvalidValue):
    """A master that no notebook can be made from."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a notebook or master. `cell` counts from 1; 0 is the whole file."""

    notebook: str
    code: str
    cell: int
    message: str

    def __str__(self) -> str:
        where = f" 第 {self.cell} 格" if self.cell else ""
        return f"{self.notebook}{where} [{self.code}] {self.message}"


@dataclass(frozen=True)
class Cell:
    """One cell of a master. `kind` is markdown or code; `exercise` and `check` hold an exercise's name."""

    id: str
    kind: str
    source: str
    exercise: str = ""
    check: str = ""
    tags: tuple[str, ...] = ()


def master_path(lab: course.Lab) -> Path:
    return course.root() / "solutions" / f"{lab.name}.py"


def student_path(lab: course.Lab) -> Path:
    return course.root() / "labs" / f"{lab.name}.ipynb"


def solution_path(lab: course.Lab) -> Path:
    return course.root() / "solutions" / f"{lab.name}.ipynb"


def read(lab: course.Lab) -> list[Cell]:
    """The cells of a lab's master. Raises MasterError when it is missing or malformed."""
    import jupytext

    path = master_path(lab)
    if not path.is_file():
        raise MasterError(f"找不到母版 (master) solutions/{path.name}", "请写一份，或检查编号")
    nodes = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent").cells
    cells: list[Cell] = []
    for number, node in enumerate(nodes, 1):
        try:
            cells.append(_cell(lab, node))
        except MasterError as error:
            raise MasterError(error.what, error.remedy, f"solutions/{path.name} 第 {number} 格") from None
    seen: dict[str, int] = {}
    for number, cell in enumerate(cells, 1):
        if cell.id in seen:
            raise MasterError(
                f"与第 {seen[cell.id]} 格同名或内容相同",
                '在其中一格的标题行写 name="…" 加以区分',
                f"solutions/{path.name} 第 {number} 格",
            )
        seen[cell.id] = number
    return cells


def _cell(lab: course.Lab, node: "NotebookNode") -> Cell:
    meta = {k: v for k, v in node.metadata.items() if k not in ("lines_to_next_cell", "cell_marker")}
    if node.cell_type not in ("markdown", "code"):
        raise MasterError(f"不支持 {node.cell_type} 单元", "改成 markdown 或代码单元")
    if unknown := sorted(set(meta) - _KEYS):
        raise MasterError(
            f"标题行 (cell header) 里有不认识的键 {'、'.join(unknown)}",
            f"{nearest(unknown[0], _KEYS)}可用的是：{'、'.join(sorted(_KEYS))}",
        )
    tags = meta.get("tags", [])
    if unknown := sorted(set(tags) - set(TAGS)):
        raise MasterError(
            f"不认识的标签 (tag) {'、'.join(unknown)}",
            f"{nearest(unknown[0], TAGS)}可用的是：{'、'.join(TAGS)}",
        )
    names = {key: str(meta[key]) for key in ("exercise", "check", "name") if key in meta}
    if len(names) > 1:
        raise MasterError("exercise、check、name 只能写一个", "去掉多余的")
    for key, name in names.items():
        if not _NAME.fullmatch(name):
            raise MasterError(
                f'{key}="{name}" 不是合法的名字', "字母开头，只含字母、数字、下划线和连字符，至多 50 个字符"
            )
    source = node.source.rstrip("\n")
    _check_regions(node.cell_type, source, names)
    identity = next(("check_" * (key == "check") + name for key, name in names.items()), None)
    if identity is None:
        identity = hashlib.sha256(f"{lab.name}\n{node.cell_type}\n{source}".encode()).hexdigest()[:12]
    return Cell(
        identity, node.cell_type, source, names.get("exercise", ""), names.get("check", ""), tuple(tags)
    )


def _check_regions(kind: str, source: str, names: dict[str, str]) -> None:
    """Raise MasterError unless the nbgrader regions are closed, not nested, and in the right cell."""
    if kind == "markdown" and ("exercise" in names or "check" in names):
        raise MasterError("练习 (exercise) 和检查 (check) 必须是代码单元", "去掉标题行里的 [markdown]")
    markers = [line.strip() for line in source.split("\n") if line.strip() in MARKERS]
    for begin, end in zip(markers[::2], [*markers[1::2], ""], strict=False):
        if (begin, end) not in ((BEGIN_SOLUTION, END_SOLUTION), (BEGIN_HIDDEN, END_HIDDEN)):
            raise MasterError(f"{begin} 与 {end or '结尾'} 不成对 (BEGIN/END)", "补上缺的那一行")
    if ("exercise" in names) != (BEGIN_SOLUTION in markers):
        raise MasterError(
            f'{BEGIN_SOLUTION} 只能、也必须写在 exercise="…" 的单元里', "改标题行，或移动答案区"
        )
    if markers.count(BEGIN_SOLUTION) > 1:
        raise MasterError("一个练习 (exercise) 只能有一处答案区 (solution region)", "拆成两个练习")
    if BEGIN_HIDDEN in markers and "check" not in names:
        raise MasterError(f'{BEGIN_HIDDEN} 只能写在 check="…" 的单元里', "移到检查单元")


def student_source(cell: Cell) -> str:
    """The cell as the student gets it: a stub in place of the solution, hidden tests gone."""
    lines, inside = [], False
    for line in cell.source.split("\n"):
        marker = line.strip()
        if marker == BEGIN_SOLUTION:
            indent = line[: line.index("#")]
            lines.append(f"{indent}{BEGIN_STUB} {cell.exercise}{END_STUB}")
        if marker in MARKERS:
            inside = marker in (BEGIN_SOLUTION, BEGIN_HIDDEN)
        elif not inside:
            lines.append(line)
    return "\n".join(lines).rstrip("\n")


def notebook(lab: course.Lab, cells: list[Cell], student: bool) -> "NotebookNode":
    """The notebook made from `cells`, not executed. Raises MasterError for a check without points."""
    import nbformat.v4 as v4

    made = []
    for number, cell in enumerate(cells, 1):
        if cell.kind == "markdown":
            source = cell.source
            if number == 1:
                source = source.replace(CARD, course.card(lab.number).strip())
            made.append(v4.new_markdown_cell(_joined(source), id=cell.id))
        else:
            source = student_source(cell) if student else cell.source
            made.append(v4.new_code_cell(source, id=cell.id, metadata=_metadata(lab, cell, student)))
        if cell.kind == "markdown" and cell.tags:
            made[-1].metadata["tags"] = _tags(cell)
    nb = v4.new_notebook(cells=made, metadata=NOTEBOOK_METADATA)
    nb.nbformat, nb.nbformat_minor = 4, 5
    return nb


def _joined(source: str) -> str:
    """Prose with a line break between Chinese characters taken out: Markdown would show a space."""
    lines: list[str] = []
    for line in source.split("\n"):
        if (
            lines
            and not lines[-1].startswith(("#", "|"))
            and _CHINESE_END.search(lines[-1])
            and _CHINESE_START.match(line)
        ):
            lines[-1] += line
        else:
            lines.append(line)
    return "\n".join(lines)


def _tags(cell: Cell) -> list[str]:
    return [*cell.tags, *(TAGS[tag] for tag in cell.tags)]


def _metadata(lab: course.Lab, cell: Cell, student: bool) -> dict:
    meta: dict = {"tags": _tags(cell)} if cell.tags else {}
    if student and cell.check:
        # "Run All" goes on past an exercise that isn't done yet.
        meta["tags"] = [*meta.get("tags", []), "raises-exception"]
    if cell.exercise or cell.check:
        meta["nbgrader"] = {
            "schema_version": 3,
            "grade_id": cell.id,
            "grade": bool(cell.check),
            "locked": bool(cell.check),
            "solution": bool(cell.exercise),
            "task": False,
        }
    if cell.check:
        if cell.check not in lab.points:
            raise MasterError(
                f"练习 {cell.check} 在课程清单 (manifest.toml) 里没有分值 (points)", "在清单里写上"
            )
        meta["nbgrader"]["points"] = lab.points[cell.check]
    return meta


def cells_of(nb: "NotebookNode") -> list[Cell]:
    """The cells of a built notebook, exercises and checks recognized by their nbgrader metadata."""
    cells = []
    for node in nb.cells:
        grader = node.metadata.get("nbgrader", {})
        name = grader.get("grade_id", "")
        cells.append(
            Cell(
                node.get("id", ""),
                node.cell_type,
                node.source,
                exercise=name if grader.get("solution") else "",
                check=name.removeprefix("check_") if grader.get("grade") else "",
                tags=tuple(tag for tag in node.metadata.get("tags", []) if tag in TAGS),
            )
        )
    return cells


def load(path: Path) -> "NotebookNode":
    """The notebook at `path`. Raises MasterError when the file isn't a valid one."""
    import nbformat

    try:
        nb = nbformat.read(path, as_version=4)
        nbformat.validate(nb)
    except Exception as error:  # nbformat passes on whatever its JSON and schema libraries raise
        first = str(error).split("\n")[0]
        where = f"{path.parent.name}/{path.name}"
        raise MasterError(f"不是合法的笔记本 (notebook)：{first}", "请重新 labs build", where) from error
    return nb


def dumps(nb: "NotebookNode") -> str:
    """The one way a notebook is written: indent 1, Chinese as it is, a newline at the end."""
    import nbformat

    nbformat.validate(nb)
    return nbformat.writes(nb, version=nbformat.NO_CONVERT, indent=1, ensure_ascii=False).rstrip("\n") + "\n"
