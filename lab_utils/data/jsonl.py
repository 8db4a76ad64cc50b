"""JSON Lines, strictly: UTF-8, one object a line; what else a file holds is named by line, never skipped.

Leaves this module: `read_jsonl`, `write_jsonl`, and `DataError` with its `DataProblem`s, in which every check of
this package says what it found.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab_utils.errors import LabError
from lab_utils.files import write_atomic

SHOWN = 10  # problems listed in an error
OBJECT = '每行写一个对象 {"字段": 值}'


@dataclass(frozen=True)
class DataProblem:
    """What is wrong at a line (from 1; 0 for the whole file) and field, and how to mend it."""

    line: int
    field: str
    wrong: str
    fix: str

    def __str__(self) -> str:
        place = f"第 {self.line} 行" if self.line else "整个文件"
        if self.field:
            place += f" {self.field}"
        return f"{place}：{self.wrong}。改法：{self.fix}。"


class DataError(LabError, ValueError):
    """Data that can't be trained on. `path`: of the file; `problems`: all that were found."""

    def __init__(self, path: str | Path, problems: Sequence[DataProblem]):
        self.path, self.problems = Path(path), list(problems)
        lines = [f"数据文件 {self.path} 有 {len(self.problems)} 处问题，没有开始训练："]
        lines += [f"- {problem}" for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"- 还有 {len(self.problems) - SHOWN} 处，改完再查。")
        super().__init__("\n".join(lines))


def read_jsonl(path: str | Path) -> list[dict]:
    """Rows of a UTF-8 JSON Lines file, blank lines left out.

    Raises DataError naming each line that isn't a JSON object, or what encoding the file has.
    """
    rows, problems = read_lines(path)
    if problems:
        raise DataError(path, problems)
    return [row for _, row in rows]


def write_jsonl(path: str | Path, rows: Sequence[dict]) -> Path:
    """Write rows as UTF-8 JSON Lines; the file is complete or isn't touched. Returns its path.

    Raises TypeError for a row that JSON can't hold, ValueError for NaN or infinity in it.
    """
    path = Path(path)
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_atomic(path, text)
    return path


def read_lines(path: str | Path) -> tuple[list[tuple[int, dict]], list[DataProblem]]:
    """(line number from 1, object) of each good line of a file, and the problems of the others."""
    path = Path(path)
    if not path.is_file():
        return [], [DataProblem(0, "", "没有这个文件", "检查路径；相对路径从当前文件夹算起")]
    text, problem = _decode(path.read_bytes(), path.name)
    if problem:
        return [], [problem]
    if not text.strip():
        return [], [DataProblem(0, "", "文件是空的", OBJECT)]
    rows, problems = [], []
    if text.lstrip().startswith("["):
        return [], [
            DataProblem(
                1, "", "这是一个 JSON 数组，不是 JSON Lines", "去掉外层的 [ ]，每行写一个对象，行尾没有逗号"
            )
        ]
    for line, words in enumerate(text.split("\n"), 1):
        if not words.strip():
            continue
        try:
            row = json.loads(words)
        except json.JSONDecodeError as error:
            wrong = f"不是合法的 JSON (bad JSON)：第 {error.colno} 个字符处 {error.msg}"
            problems.append(
                DataProblem(line, "", wrong, "检查引号、逗号、括号是否成对；用 json.dumps 写文件不会出错")
            )
            continue
        if isinstance(row, dict):
            rows.append((line, row))
        else:
            problems.append(DataProblem(line, "", f"是 {type(row).__name__}，不是对象 (object)", OBJECT))
    return rows, problems


def _decode(data: bytes, name: str) -> tuple[str, DataProblem | None]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "", DataProblem(0, "", "编码是 UTF-16，不是 UTF-8", _convert("utf-16", name))
    if data.startswith(b"\xef\xbb\xbf"):
        return "", DataProblem(1, "", "开头有 BOM (UTF-8-SIG)，第一行会读不出来", _convert("utf-8-sig", name))
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
    for encoding, label in (("gb18030", "GBK/GB18030"), ("big5", "Big5")):
        try:
            data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return "", DataProblem(
            line, "", f"编码不是 UTF-8，看起来是 {label} (wrong encoding)", _convert(encoding, name)
        )
    return "", DataProblem(
        line, "", "编码不是 UTF-8，文件可能已损坏 (wrong encoding)", "从源头重新导出为 UTF-8"
    )


def _convert(encoding: str, name: str) -> str:
    return f"用 Path('{name}').write_text(Path('{name}').read_text('{encoding}'), 'utf-8') 转换"
