"""Training data as JSON Lines of `messages`: read it, check it, see what of it is learned.

One line is `{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}`,
an optional `system` message first. Problems are found before training, by line and field, since
ms-swift drops a bad or over-long row and goes on.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab_utils.data.loss_mask import IGNORE
from lab_utils.files import write_atomic

ROLES = ("system", "user", "assistant", "tool")
OTHER_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
}
OTHER_FIELDS = {
    "message": "字段名多半是 messages 写漏了 s",
    "conversations": "这像 ShareGPT 格式：conversations/from/value 改成 messages/role/content，human 改 user，gpt 改 assistant",
    "instruction": "这像 Alpaca 格式：instruction 与 input 拼成 user 的 content，output 作 assistant 的 content",
    "prompt": "prompt 作 user 的 content，回答作 assistant 的 content",
    "query": "query 作 user 的 content，response 作 assistant 的 content",
}
SHAPE = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'

SHOWN = 10  # problems listed in an error


@dataclass(frozen=True)
class Problem:
    """What is wrong at a line (from 1; 0 for the whole file) and field, and how to mend it."""

    line: int
    field: str
    wrong: str
    fix: str

    def __str__(self) -> str:
        where = f"第 {self.line} 行" if self.line else "整个文件"
        return (
            f"{where} {self.field}：{self.wrong}。改法：{self.fix}。"
            if self.field
            else f"{where}：{self.wrong}。改法：{self.fix}。"
        )


class DataError(ValueError):
    """A data file can't be trained on. `problems`: all that were found."""

    def __init__(self, path: Path, problems: list[Problem]):
        self.path, self.problems = Path(path), problems
        super().__init__(str(path))

    def __str__(self) -> str:
        lines = [f"数据文件 {self.path} 有 {len(self.problems)} 处问题，没有开始训练："]
        lines += [f"- {problem}" for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"- 还有 {len(self.problems) - SHOWN} 处，改完再查。")
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """A clean file: rows, assistant turns and, when a tokenizer was given, token counts."""

    rows: int
    turns: int
    longest: int | None = None
    tokens: int | None = None
    supervised: int | None = None

    def __str__(self) -> str:
        text = f"{self.rows} 行，{self.turns} 轮回答，格式正确"
        if self.tokens is None:
            return text
        return (
            f"{text}；共 {self.tokens} 个词元，最长一行 {self.longest} 个，其中要学习的 {self.supervised} 个"
        )


def read_jsonl(path: str | Path) -> list[dict]:
    """Rows of a UTF-8 JSON Lines file, blank lines left out.

    Raises DataError naming each line that isn't a JSON object, or what encoding the file has.
    """
    rows, problems = _parse(Path(path))
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


def validate_messages(
    path: str | Path, tokenizer=None, max_length: int | None = None, truncation: str = "delete"
) -> Report:
    """Check a file of conversations for supervised fine-tuning.

    With a `tokenizer`, also that every row keeps at least one supervised token when cut to
    `max_length` tokens the way ms-swift's `truncation_strategy` does: `delete` (its default)
    drops a longer row, `left` and `right` cut that side. Raises DataError with all problems.
    """
    path = Path(path)
    rows, problems = _parse(path)
    for line, row in rows:
        problems += _row_problems(line, row)
    if problems:
        raise DataError(path, sorted(problems, key=lambda p: p.line))
    turns = sum(m["role"] == "assistant" for _, row in rows for m in row["messages"])
    if tokenizer is None:
        return Report(len(rows), turns)
    lengths, learned = [], []
    for line, row in rows:
        ids, labels = encode(tokenizer, row["messages"])
        lengths.append(len(ids))
        learned.append(sum(label != IGNORE for label in cut(ids, labels, max_length, truncation)[1]))
        if not learned[-1]:
            problems.append(_unsupervised(line, len(ids), max_length, truncation))
    if problems:
        raise DataError(path, problems)
    return Report(len(rows), turns, max(lengths), sum(lengths), sum(learned))


def encode(tokenizer, messages: list[dict]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and its labels, both (seq,): the label is the id where an
    assistant turn (its end token included) is learned and -100 elsewhere.

    From the tokenizer's own chat template; equal to what ms-swift makes of `--template chatml`
    for a ChatML tokenizer. Raises ValueError when the template renders a turn differently once
    more turns follow, since then no token can be told to be the assistant's.
    """
    ids = _render(tokenizer, messages, False)
    labels = [IGNORE] * len(ids)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start, end = _render(tokenizer, messages[:i], True), _render(tokenizer, messages[: i + 1], False)
        if end[: len(start)] != start or ids[: len(end)] != end:
            raise ValueError("这个对话模板（chat template）会改写前文，无法从它推出哪些词元要学习。")
        labels[len(start) : len(end)] = end[len(start) :]
    return ids, labels


def cut(
    ids: list[int], labels: list[int], max_length: int | None, truncation: str
) -> tuple[list[int], list[int]]:
    """What ms-swift keeps of a row longer than `max_length` tokens: nothing (`delete`, its
    default), the end (`left`) or the start (`right`). A first token left by a cut isn't learned,
    as nothing stands before it."""
    if max_length is None or len(ids) <= max_length:
        return ids, labels
    kept = {"delete": slice(0, 0), "left": slice(-max_length, None), "right": slice(max_length)}[truncation]
    return ids[kept], [IGNORE, *labels[kept][1:]] if ids[kept] else []


def supervised(tokenizer, messages: list[dict]) -> list[tuple[str, bool]]:
    """Each token's text and whether it is learned, in order."""
    ids, labels = encode(tokenizer, messages)
    return [(tokenizer.decode([i]), label != IGNORE) for i, label in zip(ids, labels, strict=True)]


def _render(tokenizer, messages: list[dict], prompt: bool) -> list[int]:
    return tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)


def _unsupervised(line: int, length: int, max_length: int | None, truncation: str) -> Problem:
    if max_length is None or length <= max_length:
        return Problem(
            line, "messages", "没有一个要学习的词元（zero supervised tokens）", "补上 assistant 的回答"
        )
    what = (
        "整行会被丢弃" if truncation == "delete" else "截断后没有一个要学习的词元（zero supervised tokens）"
    )
    fix = f"把 max_length 调到 {length} 以上，或缩短这一行" + (
        "，或设 truncation_strategy" if truncation == "delete" else ""
    )
    return Problem(line, "messages", f"有 {length} 个词元，超过 max_length={max_length}，{what}", fix)


def _parse(path: Path) -> tuple[list[tuple[int, dict]], list[Problem]]:
    """(line number, object) of each good line, and the problems of the others."""
    if not path.is_file():
        return [], [Problem(0, "", "没有这个文件", "检查路径；相对路径从当前文件夹算起")]
    text, problem = _decode(path.read_bytes(), path.name)
    if problem:
        return [], [problem]
    if not text.strip():
        return [], [Problem(0, "", "文件是空的", f"每行写一个对象 {SHAPE}")]
    rows, problems = [], []
    if text.lstrip().startswith("["):
        return [], [
            Problem(
                1, "", "这是一个 JSON 数组，不是 JSON Lines", "去掉外层的 [ ]，每行写一个对象，行尾没有逗号"
            )
        ]
    for line, words in enumerate(text.split("\n"), 1):
        if not words.strip():
            continue
        try:
            row = json.loads(words)
        except json.JSONDecodeError as error:
            wrong = f"不是合法的 JSON（bad JSON）：第 {error.colno} 个字符处 {error.msg}"
            problems.append(
                Problem(line, "", wrong, "检查引号、逗号、括号是否成对；用 json.dumps 写文件不会出错")
            )
            continue
        if isinstance(row, dict):
            rows.append((line, row))
        else:
            problems.append(
                Problem(line, "", f"是 {type(row).__name__}，不是对象（object）", f"每行写一个对象 {SHAPE}")
            )
    return rows, problems


def _decode(data: bytes, name: str) -> tuple[str, Problem | None]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "", Problem(0, "", "编码是 UTF-16，不是 UTF-8", _convert("utf-16", name))
    if data.startswith(b"\xef\xbb\xbf"):
        return "", Problem(1, "", "开头有 BOM（UTF-8-SIG），第一行会读不出来", _convert("utf-8-sig", name))
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
    for encoding, called in (("gb18030", "GBK/GB18030"), ("big5", "Big5")):
        try:
            data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return "", Problem(
            line, "", f"编码不是 UTF-8，看起来是 {called}（wrong encoding）", _convert(encoding, name)
        )
    return "", Problem(line, "", "编码不是 UTF-8，文件可能已损坏（wrong encoding）", "从源头重新导出为 UTF-8")


def _convert(encoding: str, name: str) -> str:
    return f"用 Path('{name}').write_text(Path('{name}').read_text('{encoding}'), 'utf-8') 转换"


def _row_problems(line: int, row: dict) -> list[Problem]:
    if "messages" not in row:
        hint = next((fix for name, fix in OTHER_FIELDS.items() if name in row), f"写成 {SHAPE}")
        return [Problem(line, "messages", f"缺少字段 messages，这一行有 {'、'.join(row) or '空对象'}", hint)]
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        return [Problem(line, "messages", "必须是非空的列表（list）", f"写成 {SHAPE}")]
    problems = [
        problem for i, message in enumerate(messages) for problem in _message_problems(line, i, message)
    ]
    return problems or list(_order_problems(line, [m["role"] for m in messages]))


def _message_problems(line: int, i: int, message) -> Iterator[Problem]:
    where = f"messages[{i}]"
    if not isinstance(message, dict):
        yield Problem(
            line, where, f"是 {type(message).__name__}，不是对象", '写成 {"role": "user", "content": "…"}'
        )
        return
    role = message.get("role")
    if "role" not in message:
        hint = "把 from/value 改成 role/content" if "from" in message else 'role 写 "user" 或 "assistant"'
        yield Problem(line, f"{where}.role", "缺少字段 role（missing role）", hint)
    elif role not in ROLES:
        better = OTHER_ROLES.get(str(role).lower())
        fix = f'改成 "{better}"' if better else f"只能是 {'、'.join(ROLES)}"
        yield Problem(line, f"{where}.role", f"不认识的角色（unknown role）{role!r}", fix)
    content = message.get("content")
    if "content" not in message:
        yield Problem(line, f"{where}.content", "缺少字段 content", "补上这一轮的文字")
    elif not isinstance(content, str):
        yield Problem(
            line,
            f"{where}.content",
            f"是 {type(content).__name__}，不是文字（string）",
            "content 写成一个字符串",
        )
    elif not content.strip() and role == "assistant":
        yield Problem(
            line, f"{where}.content", "assistant 的回答是空的（empty assistant）", "补上回答，或删掉这一行"
        )
    elif not content.strip():
        yield Problem(line, f"{where}.content", "内容是空的", "补上文字，或删掉这一轮")


def _order_problems(line: int, roles: list[str]) -> Iterator[Problem]:
    for i, role in enumerate(roles):
        if role == "system" and i:
            yield Problem(line, f"messages[{i}].role", "system 只能放在最前面", "移到 messages 的开头")
        elif i and role == roles[i - 1] and role != "tool":
            yield Problem(
                line, f"messages[{i}].role", f"连着两轮都是 {role}", "合并成一轮，或补上中间缺的一轮"
            )
    talk = [role for role in roles if role != "system"]
    if talk and talk[0] != "user":
        yield Problem(
            line, f"messages[{roles.index(talk[0])}].role", f"对话从 {talk[0]} 开始", "第一轮应是 user"
        )
    if roles[-1] != "assistant":
        yield Problem(
            line,
            f"messages[{len(roles) - 1}].role",
            f"最后一轮是 {roles[-1]}，没有要学习的回答",
            "最后一轮应是 assistant",
        )
