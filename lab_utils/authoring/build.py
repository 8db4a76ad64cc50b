"""From a master to the student notebook and the executed solution notebook, and back: the comparison."""

import copy
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.authoring.master import Finding, MasterError
from lab_utils.authoring.run import Say, execute
from lab_utils.files import write_atomic

# nbval reads a carriage return the same way: what stands before it on its line is overwritten.
_OVERWRITTEN = re.compile(r"^.*\r(?=[^\n])", re.MULTILINE)
_PROGRESS_BAR = re.compile(r"^.*\d+%\|.*\n?", re.MULTILINE)
_CELL_FILE = re.compile(r"[^\s\"'<>]*ipykernel_\d+/\d+\.py")
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")


@dataclass(frozen=True)
class BuiltPair:
    """The two notebooks of a lab, and the files they were written to."""

    student: NotebookNode
    solution: NotebookNode
    student_path: Path
    solution_path: Path


def build(lab: course.Lab, run_cells: bool = True, say: Say = lambda text: None) -> BuiltPair:
    """Write labs/NN_slug.ipynb and, executed, solutions/NN_slug.ipynb.

    With `run_cells` false the outputs of the existing solution notebook are kept, which needs
    its code cells to be those of the master: MasterError otherwise. Raises CellFailed when a
    cell of the solution raises; then neither file is touched.
    """
    cells = master.read(lab)
    student = master.notebook(lab, cells, student=True)
    solution = master.notebook(lab, cells, student=False)
    pair = BuiltPair(student, solution, master.student_path(lab), master.solution_path(lab))
    if run_cells:
        execute(solution, say=say)
    else:
        _keep_outputs(solution, pair.solution_path)
    normalize(solution)
    texts = {pair.student_path: master.dumps(student), pair.solution_path: master.dumps(solution)}
    for path, text in texts.items():
        write_atomic(path, text)
    return pair


def _keep_outputs(solution: NotebookNode, path: Path) -> None:
    """Take outputs and execution counts from the notebook at `path`, cell by cell."""
    old = _code(master.load(path)) if path.is_file() else []
    new = _code(solution)
    if [cell.source for cell in old] != [cell.source for cell in new]:
        raise MasterError(
            f"solutions/{path.name} 的代码与母版不同，旧输出不能沿用", "去掉 --no-execute 重新执行"
        )
    for target, source in zip(new, old, strict=True):
        target.outputs, target.execution_count = source.outputs, source.execution_count


def _code(nb: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def normalize(nb: NotebookNode) -> None:
    """Take out of the outputs, in place, what belongs to this machine or to this moment.

    The course's folder becomes `…`, the home folder `~`, a cell's temporary file `<cell>`, a
    memory address `0x…`. Overwritten parts of a line go; so do progress bars on stderr of
    cells tagged volatile, and widget views, whose state is not stored.
    """
    for cell in _code(nb):
        outputs: list[NotebookNode] = []
        for output in cell.outputs:
            if output.output_type == "stream":
                if outputs and outputs[-1].output_type == "stream" and outputs[-1].name == output.name:
                    outputs[-1].text += output.text
                else:
                    outputs.append(output)
                continue
            if "data" in output:
                output.data.pop("application/vnd.jupyter.widget-view+json", None)
                output.data = {mime: v if _binary(mime) else _portable(v) for mime, v in output.data.items()}
                if not output.data:
                    continue
            elif output.output_type == "error":
                output.evalue, output.traceback = _portable(output.evalue), _portable(output.traceback)
            outputs.append(output)
        volatile = "volatile" in cell.metadata.get("tags", [])
        for output in list(outputs):
            if output.output_type == "stream":
                output.text = _portable(_OVERWRITTEN.sub("", output.text))
                if volatile and output.name == "stderr":
                    output.text = _PROGRESS_BAR.sub("", output.text)
                    if not output.text.strip():
                        outputs = [o for o in outputs if o is not output]
        cell.outputs = outputs


def _binary(mime: str) -> bool:
    return mime.startswith("image/") and mime != "image/svg+xml"


def _portable(value: Any) -> Any:
    """`value` with machine paths replaced in every string inside it."""
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if not isinstance(value, str):
        return value
    value = _ADDRESS.sub("0x…", _CELL_FILE.sub("<cell>", value))
    for folder, short in ((course.root(), "…"), (course.root().resolve(), "…"), (Path.home(), "~")):
        if len(folder.parts) > 1:
            value = re.sub(rf"(?<![\w/.-]){re.escape(str(folder))}(?![\w.-])", short, value)
    return value


def check(lab: course.Lab) -> list[Finding]:
    """Compare the notebooks on disk with the master; nothing is executed.

    The student notebook must be a fresh build byte for byte. The solution notebook must have
    the master's cells, ids and metadata, every code cell executed in order without an error.
    """
    try:
        cells = master.read(lab)
        student, solution = (master.notebook(lab, cells, student) for student in (True, False))
    except MasterError as error:
        return [Finding(f"solutions/{lab.name}.py", "master", 0, str(error))]
    findings = _compare(master.student_path(lab), student, executed=False)
    return findings + _compare(master.solution_path(lab), solution, executed=True)


def strays(labs: Iterable[course.Lab]) -> list[Finding]:
    """Notebooks and masters that belong to none of `labs`."""
    names = {lab.name for lab in labs}
    paths = [p for folder in ("labs", "solutions") for p in sorted((course.root() / folder).glob("*.*"))]
    return [
        Finding(f"{path.parent.name}/{path.name}", "stray", 0, "课程清单 (manifest.toml) 里没有这个实验")
        for path in paths
        if path.suffix in (".ipynb", ".py") and path.stem not in names
    ]


def _compare(path: Path, fresh: NotebookNode, executed: bool) -> list[Finding]:
    """How the file differs from `fresh`; when `executed`, apart from the outputs it must have."""
    name = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        return [Finding(name, "missing", 0, "文件不存在；运行 labs build")]
    try:
        stored = master.load(path)
    except MasterError as error:
        return [Finding(name, "unreadable", 0, str(error))]
    expected = copy.deepcopy(fresh)
    if executed:
        kept = {cell.get("id"): cell for cell in _code(stored)}
        for cell in _code(expected):
            if cell.id in kept:
                cell.outputs, cell.execution_count = kept[cell.id].outputs, kept[cell.id].execution_count
    findings = _cell_differences(name, stored, expected)
    if executed:
        findings += _unexecuted(name, stored)
        normalize(expected)
    if not findings and path.read_text(encoding="utf-8") != master.dumps(expected):
        findings.append(Finding(name, "format", 0, "单元都对，但元数据、输出或 JSON 写法与重新生成的不同"))
    return findings


def _cell_differences(name: str, stored: NotebookNode, expected: NotebookNode) -> list[Finding]:
    findings = []
    ids = [cell.get("id", "") for cell in stored.cells]
    wanted = [cell.id for cell in expected.cells]
    for number, cell in enumerate(expected.cells, 1):
        if cell.id not in ids:
            findings.append(Finding(name, "missing-cell", number, f"缺少单元 {cell.id}：{_first(cell)}"))
            continue
        other = stored.cells[ids.index(cell.id)]
        if other.source != cell.source:
            findings.append(Finding(name, "source", number, _diff(other.source, cell.source)))
        findings += [
            Finding(name, part, number, f"单元 {cell.id} 的 {part} 与母版生成的不同")
            for part in ("cell_type", "metadata", "execution_count", "outputs")
            if other.get(part) != cell.get(part)
        ]
    for number, cell in enumerate(stored.cells, 1):
        if ids[number - 1] not in wanted:
            findings.append(Finding(name, "extra-cell", number, f"母版里没有这一格：{_first(cell)}"))
    if not findings and ids != wanted:
        findings.append(Finding(name, "order", 0, "单元的次序与母版不同"))
    return findings


def _first(cell: NotebookNode) -> str:
    return cell.source.split("\n")[0][:60]


def _diff(stored: str, expected: str) -> str:
    lines = list(
        difflib.unified_diff(stored.split("\n"), expected.split("\n"), "文件", "母版", lineterm="", n=0)
    )[2:]
    shown = [f"    {line}" for line in lines if not line.startswith("@@")][:6]
    return "内容与母版不同（- 文件，+ 母版）\n" + "\n".join(shown)


def _unexecuted(name: str, nb: NotebookNode) -> list[Finding]:
    findings, expected = [], 0
    for number, cell in enumerate(nb.cells, 1):
        if cell.cell_type != "code":
            continue
        tags = cell.metadata.get("tags", [])
        if "optional" in tags:
            continue
        expected += 1
        if cell.execution_count != expected:
            message = (
                f"执行序号 (execution_count) 应为 {expected}，是 {cell.execution_count}；重新 labs build"
            )
            findings.append(Finding(name, "unexecuted", number, message))
        raised = any(output.output_type == "error" for output in cell.outputs)
        if raised and "raises-exception" not in tags:
            findings.append(Finding(name, "error-output", number, "存着一个报错的输出"))
    return findings
