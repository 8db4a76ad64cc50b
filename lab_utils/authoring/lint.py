"""What is held about the writing of a lab: its master and its built notebooks.

Every rule has a code, and takes the cells of one file to `(cell number, message)` pairs.
"""

import ast
import io
import re
import shlex
import tokenize
from collections.abc import Iterator
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.authoring.master import Cell, Finding, MasterError
from lab_utils.authoring.terms import TERMS

Remarks = Iterator[tuple[int, str]]
"""Cell number and message of each place that breaks a rule."""

CARD_FIELDS = ("目标", "预计时间", "显存|内存", "难度", "前置")
ENDING = ("小结", "思考题", "下一步")
MAX_LINES = 25
MAX_COMMENT_LINES, MAX_CHINESE_COMMENT_LINES = 3, 2
CODE_WITHOUT_PROSE = 3  # code cells in a row

_HEADING = re.compile(r"^#{1,6}\s+(.*)$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_ABSOLUTE = re.compile(
    r"(?<![\w.:/~…-])/(?:home|root|Users|mnt|data|work|workspace|tmp|opt|var|etc|usr|srv|media|content|kaggle)/"
    r"|\b[A-Z]:\\(?:Users|Windows|Program)"
)
_RUN_FOLDER = re.compile(r"checkpoint-\d+|\bv\d+-\d{8}-\d{6}")
_UNFINISHED = re.compile(r"\b(?:TODO|FIXME)\b|待补充|待完善|待续写")
_SHELL_MAGIC = re.compile(r"^\s*(?:[\w, ]+=\s*)?(?:!|%(?:sx|system)\b)\s*(.*)$")
_SHELL_CELL = re.compile(r"^%%(?:bash|sh|script)\b.*\n")
_BLOCKING = re.compile(
    r"\bvllm\s+serve\b|\bvllm\.entrypoints\b|\bjupyter(?:-lab|-notebook)?\b|\bswift\s+(?:deploy|app|web-ui)\b"
    r"|\b(?:uvicorn|gunicorn|tensorboard|gradio|streamlit)\b|\bollama\s+(?:serve|run)\b"
    r"|\bllamafactory-cli\s+(?:api|chat|webui|webchat)\b|-m\s+http\.server\b"
)
_INSTALL = re.compile(r"^\s*[!%]*\s*(?:\S*python\S*\s+-m\s+|uv\s+)?(?:pip3?|conda|mamba)\s+install\b(.*)$")
_OPTION_WITH_VALUE = {
    "-r",
    "-c",
    "--requirement",
    "--constraint",
    "-i",
    "--index-url",
    "--extra-index-url",
    "-f",
}


def lint(path: Path, lab: course.Lab) -> list[Finding]:
    """The findings of one file of `lab`: its master (.py), or a built notebook (.ipynb).

    Problems come in the order of the rules. A file that can't be read is one finding.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        nb = master.load(path) if path.suffix == ".ipynb" else None
        cells = master.cells_of(nb) if nb else master.read(lab)
    except MasterError as error:
        return [Finding(name, "unreadable", 0, str(error))]
    remarks = [(code, *remark) for code, rule in RULES.items() for remark in rule(cells, lab)]
    if nb is not None and path.parent.name == "labs":
        remarks += [("output", *remark) for remark in _stored_outputs(nb)]
    elif nb is not None:
        remarks += [("absolute-path", *remark) for remark in _paths_in_outputs(nb)]
    return [Finding(name, code, number, message) for code, number, message in remarks]


def _code(cells: list[Cell]) -> Iterator[tuple[int, Cell]]:
    return ((number, cell) for number, cell in enumerate(cells, 1) if cell.kind == "code")


def _python(cell: Cell) -> str:
    """The cell as plain Python: magics and shell lines become calls."""
    return TransformerManager().transform_cell(cell.source)


def _tree(cell: Cell) -> ast.Module | None:
    """The cell's syntax tree; None when it doesn't parse, which `syntax` reports."""
    try:
        return ast.parse(_python(cell))
    except SyntaxError:
        return None


def _shell(cell: Cell) -> list[str]:
    """The lines of a code cell that a shell gets to see."""
    if _SHELL_CELL.match(cell.source):
        return _SHELL_CELL.sub("", cell.source).split("\n")
    matches = (_SHELL_MAGIC.match(line) for line in cell.source.split("\n"))
    return [match[1] for match in matches if match]


def _card(cells: list[Cell], lab: course.Lab) -> Remarks:
    text = cells[0].source if cells and cells[0].kind == "markdown" else ""
    if master.CARD in text:
        text = text.replace(master.CARD, course.card(lab.number))
    missing = [field.replace("|", "或") for field in CARD_FIELDS if not re.search(field, text)]
    if missing:
        yield 1, f"开头的卡片 (card) 不完整，缺 {'、'.join(missing)}；第一格写上 {master.CARD}"


def _ending(cells: list[Cell], lab: course.Lab) -> Remarks:
    prose = [_FENCE.sub("", cell.source) for cell in cells if cell.kind == "markdown"]
    headings = [heading for text in prose for heading in _HEADING.findall(text)][-len(ENDING) :]
    complete = len(headings) == len(ENDING) and all(
        word in h for word, h in zip(ENDING, headings, strict=True)
    )
    if not complete or cells[-1].kind != "markdown":
        yield len(cells), f"要以 {' / '.join(ENDING)} 三个标题结束，其后没有代码；最后的标题是 {headings}"


def _syntax(cells: list[Cell], lab: course.Lab) -> Remarks:
    for number, cell in _code(cells):
        try:
            ast.parse(_python(cell))
        except SyntaxError as error:
            yield number, f"语法错误 (syntax error)：第 {error.lineno} 行 {error.msg}"


def _background(cells: list[Cell], lab: course.Lab) -> Remarks:
    for number, cell in _code(cells):
        for line in _shell(cell):
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            try:
                background = "&" in list(lexer)
            except ValueError:  # an open quote: no shell would take it
                background = line.rstrip().endswith("&")
            if background:
                yield number, f"不要在后台运行 (cmd &)：{line.strip()}"


def _blocking(cells: list[Cell], lab: course.Lab) -> Remarks:
    for number, cell in _code(cells):
        for line in _shell(cell):
            if _BLOCKING.search(line):
                yield number, f"这条命令不会结束 (blocking server)，会卡住内核：{line.strip()}"


def _install(cells: list[Cell], lab: course.Lab) -> Remarks:
    for number, cell in _code(cells):
        lines = _shell(cell) + [line for line in cell.source.split("\n") if line.lstrip().startswith("%")]
        for line in lines:
            match = _INSTALL.match(line)
            if match and not _pinned(match[1]):
                yield number, f"安装没有锁定版本 (unpinned install)：{line.strip()}"


def _pinned(arguments: str) -> bool:
    """True when every requirement in the arguments of `pip install` names its version."""
    words, pinned = iter(arguments.split()), True
    for word in words:
        if word in _OPTION_WITH_VALUE:
            next(words, None)
        elif word in ("-U", "--upgrade") or not (word.startswith("-") or "==" in word):
            pinned = False
    return pinned


def _prose(cells: list[Cell], lab: course.Lab) -> Remarks:
    for number, cell in _code(cells):
        tree = _tree(cell)
        if tree is None:
            continue
        if all(isinstance(node, ast.Expr) and _is_text(node.value) for node in tree.body):
            yield number, "代码单元里只有注释或字符串；文字写到 markdown 单元"
        for run in _comment_runs(cell):
            chinese = sum(bool(_CHINESE.search(comment)) for comment in run)
            if len(run) > MAX_COMMENT_LINES or chinese > MAX_CHINESE_COMMENT_LINES:
                yield number, f"注释太长（连续 {len(run)} 行），写到 markdown 单元：{run[0]}"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _comment_runs(cell: Cell) -> list[list[str]]:
    """Comments that stand on consecutive lines of their own; nbgrader's markers are none."""
    runs: list[list[str]] = []
    last = None
    for token in tokenize.generate_tokens(io.StringIO(_python(cell)).readline):
        if (
            token.type != tokenize.COMMENT
            or token.line.strip() != token.string
            or token.string in master.MARKERS
        ):
            continue
        row = token.start[0]
        if last is not None and row == last + 1:
            runs[-1].append(token.string)
        else:
            runs.append([token.string])
        last = row
    return runs


def _absolute_path(cells: list[Cell], lab: course.Lab) -> Remarks:
    for number, cell in enumerate(cells, 1):
        if match := _ABSOLUTE.search(cell.source):
            yield number, f"绝对路径 (absolute path) 换一台机器就不存在：{_around(cell.source, match)}"


def _checkpoint(cells: list[Cell], lab: course.Lab) -> Remarks:
    for number, cell in _code(cells):
        if match := _RUN_FOLDER.search(cell.source):
            yield number, f"写死的运行目录 {match[0]}；用 lab_utils.swift 找检查点 (checkpoint)"


def _long_cell(cells: list[Cell], lab: course.Lab) -> Remarks:
    for number, cell in _code(cells):
        lines = sum(line.strip() not in master.MARKERS for line in cell.source.split("\n"))
        if lines > MAX_LINES:
            yield number, f"{lines} 行，超过 {MAX_LINES} 行；拆开，或把一部分放进 lab_utils"


def _term(cells: list[Cell], lab: course.Lab) -> Remarks:
    for number, cell in enumerate(cells, 1):
        for term in TERMS:
            for pattern in term.rejected:
                if match := re.search(pattern, cell.source):
                    yield (
                        number,
                        f"“{match[0]}”应写“{term.preferred}”({term.english})：{_around(cell.source, match)}",
                    )


def _exercise_check(cells: list[Cell], lab: course.Lab) -> Remarks:
    waiting: tuple[int, str] | None = None
    for number, cell in enumerate(cells, 1):
        if cell.exercise:
            if waiting:
                yield waiting[0], f"练习 {waiting[1]} 在下一个练习之前没有检查单元 (check cell)"
            waiting = number, cell.exercise
        elif cell.check:
            if waiting is None or waiting[1] != cell.check:
                yield number, f"检查 {cell.check} 前面没有同名的练习 (exercise)"
            else:
                waiting = None
    if waiting:
        yield waiting[0], f"练习 {waiting[1]} 后面没有检查单元 (check cell)"


def _points(cells: list[Cell], lab: course.Lab) -> Remarks:
    for kind in ("exercise", "check"):
        numbers = {getattr(cell, kind): number for number, cell in enumerate(cells, 1) if getattr(cell, kind)}
        for name in sorted(numbers.keys() - lab.points.keys()):
            yield numbers[name], f"{kind} {name} 在课程清单 (manifest.toml) 里没有分值 (points)"
        for name in sorted(lab.points.keys() - numbers.keys()):
            yield 0, f"课程清单 (manifest.toml) 里的练习 {name} 没有对应的 {kind} 单元"


def _disabled(cells: list[Cell], lab: course.Lab) -> Remarks:
    for number, cell in _code(cells):
        for node in ast.walk(_tree(cell) or ast.Module([], [])):
            if (
                isinstance(node, (ast.If, ast.While))
                and isinstance(node.test, ast.Constant)
                and not node.test.value
            ):
                yield number, "永远不执行的代码 (if False)；删掉，或标成 optional"


def _todo(cells: list[Cell], lab: course.Lab) -> Remarks:
    for number, cell in enumerate(cells, 1):
        if match := _UNFINISHED.search(cell.source):
            yield number, f"没写完的内容：{_around(cell.source, match)}"


def _unexplained(cells: list[Cell], lab: course.Lab) -> Remarks:
    for number, _ in _code(cells):
        before = cells[max(0, number - 1 - CODE_WITHOUT_PROSE) : number - 1]
        if not any(cell.kind == "markdown" for cell in before):
            yield number, f"前面 {CODE_WITHOUT_PROSE} 格里没有说明 (markdown)"


def _semicolon(cells: list[Cell], lab: course.Lab) -> Remarks:
    for number, cell in _code(cells):
        if cell.source.rstrip().endswith(";") and "volatile" not in cell.tags:
            yield number, "末尾的分号 (;) 在 nbval 里不起作用，输出会对不上；写成 _ = …，或标成 volatile"


def _around(text: str, match: re.Match) -> str:
    """The match with a little of its own line on both sides."""
    begin = max(text.rfind("\n", 0, match.start()) + 1, match.start() - 15)
    return text[begin : match.end() + 20].split("\n")[0]


def _stored_outputs(nb: NotebookNode) -> Remarks:
    for number, cell in enumerate(nb.cells, 1):
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None):
            yield number, "学生版里存着输出 (output)；重新 labs build"


def _paths_in_outputs(nb: NotebookNode) -> Remarks:
    for number, cell in enumerate(nb.cells, 1):
        for output in cell.get("outputs", []):
            data = {
                mime: text for mime, text in output.get("data", {}).items() if not mime.startswith("image/")
            }
            text = (
                output.get("text", "")
                + "".join(output.get("traceback", []))
                + "\n".join(map(str, data.values()))
            )
            if match := _ABSOLUTE.search(text):
                yield number, f"输出里有绝对路径 (absolute path)：{_around(text, match)}"


RULES = {
    "card": _card,
    "ending": _ending,
    "syntax": _syntax,
    "background": _background,
    "blocking": _blocking,
    "install": _install,
    "prose": _prose,
    "absolute-path": _absolute_path,
    "checkpoint": _checkpoint,
    "long-cell": _long_cell,
    "term": _term,
    "exercise-check": _exercise_check,
    "points": _points,
    "disabled": _disabled,
    "todo": _todo,
    "unexplained": _unexplained,
    "semicolon": _semicolon,
}
