"""Preference pairs as JSON Lines, one prompt with a better and a worse answer: read, check, convert.

One line is TRL's conversational format, other columns after it:
`{"prompt": [{"role": "user", …}], "chosen": [{"role": "assistant", …}], "rejected": [{"role":
"assistant", …}]}`. Problems are found before training, since DPO trains on a swapped or an identical
pair without a word.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from lab_utils.data.formats import PAIR_FIELDS, PAIR_SHAPE, pair_remedy
from lab_utils.data.jsonl import DataError, DataProblem, read_jsonl, read_lines
from lab_utils.data.loss_mask import encode
from lab_utils.errors import InvalidValue

IN_MEMORY = Path("（内存中的数据）")
ANOTHER_ANSWER = "换一个更差的回答，或删掉这一行"


@dataclass(frozen=True)
class PairReport:
    """Clean pairs. `prompts`: different ones. `chosen_length`, `rejected_length`: mean characters.
    `chosen_longer`: share of pairs whose chosen text is longer; far from one half, DPO may learn
    length. `longest`: tokens of the longest prompt with answer, None without a tokenizer. `ties`:
    pairs to which the judge gave the same score, None without a judge."""

    rows: int
    prompts: int
    chosen_length: float
    rejected_length: float
    chosen_longer: float
    longest: int | None = None
    ties: int | None = None

    def __str__(self) -> str:
        text = (
            f"{self.rows} 对，{self.prompts} 个不同的提示，格式正确；chosen 平均 {self.chosen_length:.1f} 字，"
            f"rejected 平均 {self.rejected_length:.1f} 字，chosen 更长的占 {self.chosen_longer:.0%}"
        )
        if self.longest is not None:
            text += f"；最长一条 {self.longest} 个词元"
        return text if self.ties is None else f"{text}；评判 (judge) 分不出高下的 {self.ties} 对"


def read_pairs(path: str | Path) -> list[dict]:
    """The rows of a file of preference pairs. Raises DataError as `validate_pairs` does."""
    validate_pairs(path)
    return read_jsonl(path)


def validate_pairs(
    source: str | Path | Sequence[dict], tokenizer=None, judge: Callable[[dict, str], float] | None = None
) -> PairReport:
    """Check preference pairs, a file or rows in memory (then line 1 is the first row).

    Every row needs a prompt that ends with a user turn, one chosen and one rejected assistant
    turn, none of them empty. The two answers must differ, in more than white space and, with a
    `tokenizer`, in their tokens. No pair may stand twice, nor the other way round under the same
    prompt. With a `judge`, higher is better, rejected may not score above chosen. Raises DataError
    with all problems; InvalidValue when the judge returns something that isn't a finite number.
    """
    path, numbered = _numbered(source)
    problems = [problem for line, row in numbered for problem in _row_problems(line, row)]
    if not numbered:
        problems.append(DataProblem(0, "", "一对数据也没有", f"每行写一个对象 {PAIR_SHAPE}"))
    if problems:
        raise DataError(path, problems)
    problems += _repeat_problems(numbered)
    ties = _judge_all(numbered, judge, problems)
    longest = _encode_all(numbered, tokenizer, problems)
    if problems:
        raise DataError(path, sorted(problems, key=lambda p: p.line))
    pairs = [_texts(row) for _, row in numbered]
    return PairReport(
        rows=len(pairs),
        prompts=len({_squeeze(prompt) for prompt, _, _ in pairs}),
        chosen_length=fmean(len(chosen) for _, chosen, _ in pairs),
        rejected_length=fmean(len(rejected) for _, _, rejected in pairs),
        chosen_longer=fmean(len(chosen) > len(rejected) for _, chosen, rejected in pairs),
        longest=longest,
        ties=ties,
    )


def leaks(
    train: str | Path | Sequence[dict], test: str | Path | Sequence[dict], key: str = "theme"
) -> list[DataProblem]:
    """Rows of `test` whose `key` is in `train` too, each with the line in `train`; [] when none is.

    `key` is a column, or "prompt" for the text of the prompt, white space aside. Raises InvalidValue
    when a row lacks it.
    """
    seen: dict[str, int] = {}
    for line, row in _numbered(train)[1]:
        seen.setdefault(_key(row, key, "train", line), line)
    problems = []
    for line, row in _numbered(test)[1]:
        value = _key(row, key, "test", line)
        if value in seen:
            shown = value if len(value) <= 40 else value[:40] + "…"
            wrong = f"{shown} 也在训练集第 {seen[value]} 行 (train/test leak)"
            problems.append(DataProblem(line, key, wrong, "从其中一个文件里删掉，先分题目再造数据"))
    return problems


def to_swift(rows: Sequence[dict]) -> list[dict]:
    """Rows in ms-swift's format for DPO: `messages` with the chosen answer last, and
    `rejected_response`; the other columns stay.

    Raises DataError for rows that aren't good pairs, InvalidValue when a column already has one of
    the two names.
    """
    validate_pairs(rows)
    made = []
    for i, row in enumerate(rows, 1):
        others = {key: value for key, value in row.items() if key not in PAIR_FIELDS}
        taken = others.keys() & {"messages", "rejected_response"}
        if taken:
            raise InvalidValue(
                f"第 {i} 行已有 {'、'.join(sorted(taken))} 列，转换会盖掉它", "先给这一列改名或删掉它"
            )
        messages = [dict(message) for message in [*row["prompt"], *row["chosen"]]]
        made.append({"messages": messages, "rejected_response": row["rejected"][0]["content"], **others})
    return made


def in_batches(rows: Sequence[dict], size: int, key: str, seed: int = 0) -> list[dict]:
    """The same rows in another order: each batch of `size`, taken in order, has one value of `key`.

    For a key that goes with length, such as the form of a poem: rows of one length need no padding. Rows and batches
    are shuffled; the rows that fill no batch come last, shuffled too.
    """
    groups, rng = defaultdict(list), random.Random(seed)
    for row in rows:
        groups[row[key]].append(row)
    batches, rest = [], []
    for group in groups.values():
        rng.shuffle(group)
        full = len(group) // size * size
        batches += [group[start : start + size] for start in range(0, full, size)]
        rest += group[full:]
    rng.shuffle(batches)
    rng.shuffle(rest)
    return [row for batch in batches for row in batch] + rest


def _numbered(source: str | Path | Sequence[dict]) -> tuple[Path, list[tuple[int, dict]]]:
    """The source's path, and its rows with their line numbers. Raises DataError for a line that can't be read."""
    if not isinstance(source, (str, Path)):
        return IN_MEMORY, list(enumerate(source, 1))
    rows, problems = read_lines(source)
    if problems:
        raise DataError(source, problems)
    return Path(source), rows


def _row_problems(line: int, row: dict) -> Iterator[DataProblem]:
    if not isinstance(row, dict):
        yield DataProblem(
            line, "", f"是 {type(row).__name__}，不是对象 (object)", f"每行写一个对象 {PAIR_SHAPE}"
        )
        return
    missing = [key for key in PAIR_FIELDS if key not in row]
    for key in missing:
        hint = pair_remedy(row)
        yield DataProblem(
            line, key, f"缺少字段 {key} (missing key)，这一行有 {'、'.join(row) or '空对象'}", hint
        )
    problems = [p for key in PAIR_FIELDS if key not in missing for p in _turn_problems(line, key, row[key])]
    yield from problems
    if missing or problems:
        return
    _, chosen, rejected = _texts(row)
    if chosen == rejected:
        yield DataProblem(line, "rejected", "与 chosen 一字不差 (identical)，学不到偏好", ANOTHER_ANSWER)
    elif _squeeze(chosen) == _squeeze(rejected):
        yield DataProblem(line, "rejected", "与 chosen 只差空白 (whitespace)", ANOTHER_ANSWER)


def _turn_problems(line: int, key: str, turns) -> Iterator[DataProblem]:
    """What is wrong with the conversation under one of `PAIR_FIELDS`."""
    role = "user" if key == "prompt" else "assistant"
    shape = f'[{{"role": "{role}", "content": "…"}}]'
    if isinstance(turns, str) and not turns.strip():
        yield DataProblem(line, key, "是空的 (empty)", f"补上文字，写成 {shape}")
        return
    if not isinstance(turns, list) or not turns:
        yield DataProblem(line, key, f"应为非空的列表，收到 {type(turns).__name__}", f"写成对话 {shape}")
        return
    if key != "prompt" and len(turns) > 1:
        fix = "前面的对话放进 prompt，这里只留最后一轮 assistant"
        yield DataProblem(line, key, f"有 {len(turns)} 轮，应只有一轮回答", fix)
        return
    for i, turn in enumerate(turns):
        where = f"{key}[{i}]"
        if not isinstance(turn, dict):
            yield DataProblem(line, where, f"是 {type(turn).__name__}，不是对象", f"写成 {shape[1:-1]}")
        elif turn.get("role") not in _roles(key, i, len(turns)):
            wanted = " 或 ".join(_roles(key, i, len(turns)))
            yield DataProblem(
                line, f"{where}.role", f"角色是 {turn.get('role')!r} (wrong role)", f"应为 {wanted}"
            )
        elif not isinstance(turn.get("content"), str):
            kind = type(turn.get("content")).__name__
            yield DataProblem(line, f"{where}.content", f"是 {kind}，不是文字 (string)", "写成一个字符串")
        elif not turn["content"].strip():
            yield DataProblem(line, f"{where}.content", "是空的 (empty)", "补上文字，或删掉这一行")


def _roles(key: str, i: int, count: int) -> tuple[str, ...]:
    """Roles that may stand at place `i` of `count`: a prompt ends with the user."""
    if key != "prompt":
        return ("assistant",)
    if i == count - 1:
        return ("user",)
    return ("system", "user") if i == 0 else ("user", "assistant")


def _repeat_problems(numbered: list[tuple[int, dict]]) -> Iterator[DataProblem]:
    """Pairs that stand twice, and pairs that stand the other way round under the same prompt."""
    first: dict[tuple[str, ...], int] = {}
    for line, row in numbered:
        prompt, chosen, rejected = map(_squeeze, _texts(row))
        same, swapped = first.get((prompt, chosen, rejected)), first.get((prompt, rejected, chosen))
        if same:
            yield DataProblem(line, "", f"与第 {same} 行重复 (duplicate)", "删掉其中一行")
        if swapped:
            wrong = f"与第 {swapped} 行的 chosen、rejected 正好相反 (contradiction)"
            yield DataProblem(line, "chosen", wrong, "看哪一行对，删掉另一行")
        first.setdefault((prompt, chosen, rejected), line)


def _judge_all(numbered, judge, problems: list[DataProblem]) -> int | None:
    """Append a problem for each pair that the judge finds swapped; the number of ties."""
    if judge is None:
        return None
    ties = 0
    for line, row in numbered:
        _, *answers = _texts(row)
        better, worse = scores = [judge(row, text) for text in answers]
        if not all(isinstance(score, (int, float)) and math.isfinite(score) for score in scores):
            raise InvalidValue(
                f"评判函数 (judge) 对第 {line} 行给出 {scores}", "让它给每个回答一个有限的数，越大越好"
            )
        if worse > better:
            wrong = f"评判给 rejected {worse:g} 分，高于 chosen 的 {better:g} 分，像是放反了 (swapped)"
            problems.append(DataProblem(line, "chosen", wrong, "对调 chosen 与 rejected，或删掉这一行"))
        ties += worse == better
    return ties


def _encode_all(numbered, tokenizer, problems: list[DataProblem]) -> int | None:
    """Append a problem for each pair whose answers are the same tokens; tokens of the longest text."""
    if tokenizer is None:
        return None
    longest = 0
    for line, row in numbered:
        chosen, rejected = (encode(tokenizer, row["prompt"] + row[key])[0] for key in PAIR_FIELDS[1:])
        longest = max(longest, len(chosen), len(rejected))
        if chosen == rejected:
            wrong = "与 chosen 分词后一样 (same tokens)，学不到偏好"
            problems.append(DataProblem(line, "rejected", wrong, ANOTHER_ANSWER))
    return longest


def _texts(row: dict) -> tuple[str, str, str]:
    """Prompt, chosen and rejected as texts; a prompt of several turns is joined."""
    prompt = "\n".join(turn["content"] for turn in row["prompt"])
    return prompt, row["chosen"][0]["content"], row["rejected"][0]["content"]


def _squeeze(text: str) -> str:
    """The text without white space, for comparing."""
    return "".join(text.split())


def _key(row: dict, key: str, name: str, line: int) -> str:
    if not isinstance(row, dict) or key not in row:
        raise InvalidValue(f"{name} 第 {line} 行没有 {key} 列", "leaks 的 key 要写两份数据都有的列名")
    return _squeeze(_texts(row)[0]) if key == "prompt" else str(row[key])
