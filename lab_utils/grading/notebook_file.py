"""A notebook file as it was handed in: its bytes, read as cells. Nothing in it is run.

A file may be in UTF-8, UTF-16 or GBK, of an old format, or no notebook at all; then the error says what it seems to be.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab_utils.errors import InvalidValue

MIB = 2**20
QUICK_LIMIT = 4 * MIB
"""Up to this size a notebook is read here; a larger one in a process of its own, with limits."""
CLEAR_OUTPUTS = "请清除输出 (clear outputs)，再交"
CELL_LIMIT, SOURCE_LIMIT, CODE_LIMIT = 3000, 200_000, 1_000_000


class Unreadable(InvalidValue):
    """No notebook can be read from these bytes. The message says why, in Chinese."""


@dataclass(frozen=True)
class SubmittedCell:
    """A cell as handed in."""

    id: str
    grade_id: str
    kind: str
    source: str


@dataclass(frozen=True)
class Notebook:
    """What is taken of a submitted notebook: its cells' sources, and what was odd about the file."""

    cells: tuple[SubmittedCell, ...]
    notes: tuple[str, ...] = ()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_notebook(data: bytes) -> Notebook:
    """The cells of a notebook file. Raises Unreadable when it isn't one.

    A large file is read in a process with limits, so that no file can take this one down.
    """
    if len(data) <= QUICK_LIMIT:
        return parse(data)
    size = f"文件有 {len(data) // MIB} MiB"
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(Path(__file__).with_name("read_large.py"))],
            input=data,
            capture_output=True,
            timeout=120,
        )
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        raise Unreadable(f"{size}，读不动", CLEAR_OUTPUTS) from None
    if "what" in answer:
        raise Unreadable(answer["what"], answer["remedy"])
    notes = (*answer["notes"], f"{size}，多半是输出；{CLEAR_OUTPUTS}")
    return Notebook(tuple(SubmittedCell(*cell) for cell in answer["cells"]), notes)


def parse(data: bytes) -> Notebook:
    """The cells of a notebook in UTF-8, UTF-16 or GBK. Raises Unreadable."""
    if not data.strip(b"\0 \t\r\n"):
        raise Unreadable("文件是空的")
    text, notes = _text(data)
    try:
        nb = json.loads(text)
    except RecursionError:
        raise Unreadable("JSON 嵌套太深，不是正常的笔记本") from None
    except ValueError as error:
        raise Unreadable(_not_json(text, error)) from None
    raw = nb.get("cells") if isinstance(nb, dict) else None
    if raw is None and isinstance(nb, dict) and isinstance(nb.get("worksheets"), list):
        notes.append("这是旧格式 (nbformat 3) 的笔记本")
        sheets = [sheet.get("cells") for sheet in nb["worksheets"] if isinstance(sheet, dict)]
        raw = [cell for cells in sheets if isinstance(cells, list) for cell in cells]
    if not isinstance(raw, list):
        raise Unreadable("是 JSON，但不是笔记本 (notebook)：没有 cells")
    if not raw:
        raise Unreadable("笔记本里一个单元 (cell) 也没有")
    if len(raw) > CELL_LIMIT:
        raise Unreadable(f"单元 (cell) 太多，超过 {CELL_LIMIT} 个")
    cells = [cell for cell in (_cell(entry, notes) for entry in raw) if cell is not None]
    if sum(len(cell.source) for cell in cells if cell.kind == "code") > CODE_LIMIT:
        raise Unreadable(f"代码太长，超过 {CODE_LIMIT:,} 个字符")
    return Notebook(tuple(_bounded(cells)), tuple(dict.fromkeys(notes)))


def _bounded(cells: Iterable[SubmittedCell]) -> Iterator[SubmittedCell]:
    """The cells; of those that aren't code the text only up to a length, as nobody reads more of it."""
    left = CODE_LIMIT
    for cell in cells:
        left -= 0 if cell.kind == "code" else len(cell.source)
        yield cell if cell.kind == "code" or left >= 0 else replace(cell, source="")


def _text(data: bytes) -> tuple[str, list[str]]:
    """The decoded text, and a note when it isn't plain UTF-8."""
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    for mark, encoding in marks.items():
        if data.startswith(mark):
            return data.decode(encoding, "replace"), [f"文件的编码是 {encoding}，不是 UTF-8；已按它读"]
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError:
        pass
    for encoding in ("utf-16-le", "utf-16-be") if data.count(b"\0") > len(data) // 4 else ("gb18030",):
        try:
            return data.decode(encoding), [f"文件的编码是 {encoding}，不是 UTF-8；已按它读"]
        except UnicodeDecodeError:
            continue
    raise Unreadable("不是文本文件，编码 (encoding) 认不出来")


def _not_json(text: str, error: ValueError) -> str:
    """What a file that isn't JSON seems to be."""
    start = text.lstrip()[:400]
    if start.startswith("version https://git-lfs"):
        return "这是 Git LFS 的指针文件，不是笔记本本身"
    if start.startswith("<"):
        return "这是网页 (HTML)，不是笔记本；请下载 .ipynb 原文件"
    if start.startswith("PK"):
        return "这是压缩包，改了扩展名；请交 .ipynb 或 .zip"
    if "<<<<<<< " in text:
        return "文件里有 Git 合并冲突的标记 (merge conflict)"
    if start.startswith("{"):
        line = getattr(error, "lineno", 0)
        return f"JSON 不完整或被改坏了（第 {line} 行）；请在 Jupyter 里打开、保存，再交"
    return "不是笔记本：内容不是 JSON"


def _cell(entry: Any, notes: list[str]) -> SubmittedCell | None:
    if not isinstance(entry, dict):
        notes.append("有一个单元 (cell) 不是对象，略过了")
        return None
    source = entry.get("source", entry.get("input", ""))
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    if not isinstance(source, str):
        notes.append("有一个单元 (cell) 的内容不是文字，略过了")
        return None
    if len(source) > SOURCE_LIMIT:
        notes.append(f"有一个单元 (cell) 超过 {SOURCE_LIMIT:,} 个字符，略过了")
        return None
    metadata = entry.get("metadata")
    grader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    grade_id = (
        grader.get("grade_id") if isinstance(grader, dict) and grader.get("solution") is not False else ""
    )
    kind, name = entry.get("cell_type"), entry.get("id")
    return SubmittedCell(
        name[:100] if isinstance(name, str) else "",
        grade_id[:100] if isinstance(grade_id, str) else "",
        kind if kind in ("code", "markdown", "raw") else "raw",
        source.replace("\r\n", "\n").replace("\r", "\n"),
    )
