"""Check a file of conversations before it is trained on, by line and field.

ms-swift drops a bad or over-long row and goes on; here it is a `DataError` that says where and how to mend it.
Preference pairs have a check of their own, `preference.validate_pairs`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab_utils.data.formats import MESSAGES_SHAPE, OTHER_ROLES, ROLES, messages_remedy
from lab_utils.data.jsonl import DataError, DataProblem, read_lines
from lab_utils.data.loss_mask import IGNORE, cut, encode


@dataclass(frozen=True)
class MessagesReport:
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


def validate_messages(
    path: str | Path, tokenizer=None, max_length: int | None = None, truncation: str = "delete"
) -> MessagesReport:
    """Check a file of conversations for supervised fine-tuning.

    With a `tokenizer`, also that every row keeps at least one supervised token when cut to
    `max_length` tokens the way ms-swift's `truncation_strategy` does: `delete` (its default)
    drops a longer row, `left` and `right` cut that side. Raises DataError with all problems.
    """
    path = Path(path)
    rows, problems = read_lines(path)
    for line, row in rows:
        problems += _row_problems(line, row)
    if problems:
        raise DataError(path, sorted(problems, key=lambda p: p.line))
    turns = sum(m["role"] == "assistant" for _, row in rows for m in row["messages"])
    if tokenizer is None:
        return MessagesReport(len(rows), turns)
    lengths, learned = [], []
    for line, row in rows:
        ids, labels = encode(tokenizer, row["messages"])
        lengths.append(len(ids))
        learned.append(sum(label != IGNORE for label in cut(ids, labels, max_length, truncation)[1]))
        if not learned[-1]:
            problems.append(_unsupervised(line, len(ids), max_length, truncation))
    if problems:
        raise DataError(path, problems)
    return MessagesReport(len(rows), turns, max(lengths), sum(lengths), sum(learned))


def _unsupervised(line: int, length: int, max_length: int | None, truncation: str) -> DataProblem:
    if max_length is None or length <= max_length:
        return DataProblem(
            line, "messages", "没有一个要学习的词元 (zero supervised tokens)", "补上 assistant 的回答"
        )
    what = "整行会被丢弃" if truncation == "delete" else "截断后没有一个要学习的词元 (zero supervised tokens)"
    fix = f"把 max_length 调到 {length} 以上，或缩短这一行" + (
        "，或设 truncation_strategy" if truncation == "delete" else ""
    )
    return DataProblem(line, "messages", f"有 {length} 个词元，超过 max_length={max_length}，{what}", fix)


def _row_problems(line: int, row: dict) -> list[DataProblem]:
    if "messages" not in row:
        wrong = f"缺少字段 messages，这一行有 {'、'.join(row) or '空对象'}"
        return [DataProblem(line, "messages", wrong, messages_remedy(row))]
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        return [DataProblem(line, "messages", "应为非空的列表 (list)", f"写成 {MESSAGES_SHAPE}")]
    problems = [
        problem for i, message in enumerate(messages) for problem in _message_problems(line, i, message)
    ]
    return problems or list(_order_problems(line, [m["role"] for m in messages]))


def _message_problems(line: int, i: int, message) -> Iterator[DataProblem]:
    where = f"messages[{i}]"
    if not isinstance(message, dict):
        yield DataProblem(
            line, where, f"是 {type(message).__name__}，不是对象", '写成 {"role": "user", "content": "…"}'
        )
        return
    role = message.get("role")
    if "role" not in message:
        hint = "把 from/value 改成 role/content" if "from" in message else 'role 写 "user" 或 "assistant"'
        yield DataProblem(line, f"{where}.role", "缺少字段 role (missing role)", hint)
    elif role not in ROLES:
        better = OTHER_ROLES.get(str(role).lower())
        fix = f'改成 "{better}"' if better else f"只能是 {'、'.join(ROLES)}"
        yield DataProblem(line, f"{where}.role", f"不认识的角色 (unknown role){role!r}", fix)
    content = message.get("content")
    if "content" not in message:
        yield DataProblem(line, f"{where}.content", "缺少字段 content", "补上这一轮的文字")
    elif not isinstance(content, str):
        yield DataProblem(
            line,
            f"{where}.content",
            f"是 {type(content).__name__}，不是文字 (string)",
            "content 写成一个字符串",
        )
    elif not content.strip() and role == "assistant":
        yield DataProblem(
            line, f"{where}.content", "assistant 的回答是空的 (empty assistant)", "补上回答，或删掉这一行"
        )
    elif not content.strip():
        yield DataProblem(line, f"{where}.content", "内容是空的", "补上文字，或删掉这一轮")


def _order_problems(line: int, roles: list[str]) -> Iterator[DataProblem]:
    for i, role in enumerate(roles):
        if role == "system" and i:
            yield DataProblem(line, f"messages[{i}].role", "system 只能放在最前面", "移到 messages 的开头")
        elif i and role == roles[i - 1] and role != "tool":
            yield DataProblem(
                line, f"messages[{i}].role", f"连着两轮都是 {role}", "合并成一轮，或补上中间缺的一轮"
            )
    talk = [role for role in roles if role != "system"]
    if talk and talk[0] != "user":
        yield DataProblem(
            line, f"messages[{roles.index(talk[0])}].role", f"对话从 {talk[0]} 开始", "第一轮应是 user"
        )
    if roles[-1] != "assistant":
        yield DataProblem(
            line,
            f"messages[{len(roles) - 1}].role",
            f"最后一轮是 {roles[-1]}，没有要学习的回答",
            "最后一轮应是 assistant",
        )
