"""The parity gate: is what is deployed the very model that was trained?

Three stages, in the order in which things go wrong: the same prompt token ids, the same
log-probabilities of the next token within a tolerance, the same greedy text with the same end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab_utils.errors import InvalidValue
from lab_utils.evaluation.candidate import Candidate, Messages, local
from lab_utils.models.generation import Completion

TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 2e-1}
"""By dtype: how far log-probabilities may lie apart, in nats, when nothing but the order of sums differs."""
STAGES = {
    "prompt": "提示词的词元 (prompt token ids)",
    "logits": "下一个词元的对数概率 (log-probabilities)",
    "text": "贪心解码的文字 (greedy text)",
    "end": "回答的结束 (end token)",
}


Side = str | Path | tuple[str | Path, str | Path] | Candidate
"""A model folder or a registered model's name, a pair (base, adapter or run folder), or any candidate."""


@dataclass(frozen=True)
class Difference:
    """Where two candidates first part: `stage` (a key of `STAGES`); `prompt`: number of the prompt from 0;
    `position`: token of the prompt, token id of the log-probability, or character of the text, from 0;
    `a`, `b`: what each has there; `hint`: the likely cause, in Chinese."""

    stage: str
    prompt: int
    position: int
    a: object
    b: object
    hint: str

    def __str__(self) -> str:
        place = {"prompt": "提示里的第 {} 个词元起", "logits": "提示之后，编号 {} 的词元"}
        where = place.get(self.stage, "回答的第 {} 个字起").format(self.position)
        a, b = (f"{side:.4f}" if isinstance(side, float) else side for side in (self.a, self.b))
        return (
            f"{STAGES[self.stage]}，第 {self.prompt} 条提示（都从 0 数），{where}\n"
            f"  a：{a}\n  b：{b}\n  可能的原因：{self.hint}"
        )


@dataclass(frozen=True)
class Parity:
    """Outcome of the gate over `prompts` prompts. Counts say how many were the same at each stage;
    `max_logprob_difference` in nats, None when a candidate gives no log-probabilities."""

    a: str
    b: str
    prompts: int
    same_ids: int
    same_text: int
    max_logprob_difference: float | None
    tolerance: float
    first_difference: Difference | None

    @property
    def equal(self) -> bool:
        return self.first_difference is None

    def __bool__(self) -> bool:
        return self.equal

    def __str__(self) -> str:
        worst = self.max_logprob_difference
        lines = [
            f"{'✅ 是同一个模型' if self.equal else '❌ 不是同一个模型'}：a = {self.a}，b = {self.b}",
            f"提示词元相同 {self.same_ids}/{self.prompts}，贪心文字相同 {self.same_text}/{self.prompts}，"
            + (
                "对数概率没有比较（服务没有给出）"
                if worst is None
                else f"对数概率最多相差 {worst:.2g} 纳特（容差 {self.tolerance:g}）"
            ),
        ]
        return "\n".join(lines + ([f"最早的差别：{self.first_difference}"] if self.first_difference else []))


def parity(
    a: Side,
    b: Side,
    prompts: Sequence[str | Messages],
    max_new_tokens: int = 64,
    dtype: str = "float32",
) -> Parity:
    """Compare two candidates on `prompts`: user messages, or whole conversations.

    A candidate is, for example, `served(…)` or llama.cpp's. Folders are loaded in `dtype`; it also sets the tolerance, so
    it is the dtype that `b` is supposed to have. Where prompts differ, each candidate is asked with
    its own. Raises InvalidValue for no prompts or a folder that can't be compared.
    """
    if not prompts:
        raise InvalidValue("没有提示 (prompts)，什么也比不了", "至少给一条，最好 50 条以上")
    if dtype not in TOLERANCE:
        raise InvalidValue(f"不认识 dtype {dtype!r}", f"可用的是：{'、'.join(TOLERANCE)}")
    chats = [[{"role": "user", "content": p}] if isinstance(p, str) else list(p) for p in prompts]
    left, right = (_candidate(side, dtype) for side in (a, b))
    ids = [[side.prompt_ids(chat) for chat in chats] for side in (left, right)]
    probabilities = [side.next_logprobs(batch) for side, batch in zip((left, right), ids, strict=True)]
    texts = [side.greedy(batch, max_new_tokens) for side, batch in zip((left, right), ids, strict=True)]
    wrong = _prompt_difference(*ids)
    worst = None
    if None not in probabilities:
        rows = [logprob_difference(x, y) for x, y in zip(*probabilities, strict=True)]
        worst = max(row[0] for row in rows)
        wrong = wrong or _logprob_stage(probabilities, rows, TOLERANCE[dtype])
    wrong = wrong or _text_difference(*texts)
    same_ids = sum(x == y for x, y in zip(*ids, strict=True))
    same_text = sum(x == y for x, y in zip(*texts, strict=True))
    return Parity(left.name, right.name, len(chats), same_ids, same_text, worst, TOLERANCE[dtype], wrong)


def first_difference(a: Sequence, b: Sequence) -> int | None:
    """First place, from 0, at which two sequences differ; where one ends and the other goes on counts."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))


def logprob_difference(a: dict[int, float], b: dict[int, float]) -> tuple[float, int]:
    """Largest distance between two lists of likeliest tokens, in nats, and the token id it is at.

    Only tokens in both lists can be compared. When the likeliest of one isn't in the other's list
    at all, that is no rounding: the distance is infinite.
    """
    for mine, other in ((a, b), (b, a)):
        best = max(mine, key=lambda token: mine[token])
        if best not in other:
            return float("inf"), best
    return max((abs(a[token] - b[token]), token) for token in a.keys() & b.keys())


def _candidate(side: Side, dtype: str) -> Candidate:
    if isinstance(side, tuple):
        model, adapter = side
        return local(model, adapter, dtype)
    return local(side, dtype=dtype) if isinstance(side, (str, Path)) else side


def _prompt_difference(a: list[list[int]], b: list[list[int]]) -> Difference | None:
    for n, (x, y) in enumerate(zip(a, b, strict=True)):
        at = first_difference(x, y)
        if at is not None:
            hint = "对话模板 (chat template) 或分词器 (tokenizer) 不同；合并、部署时要用训练时的那一份"
            return Difference("prompt", n, at, x[at : at + 8], y[at : at + 8], hint)
    return None


def _logprob_stage(probabilities, rows, tolerance: float) -> Difference | None:
    for n, (distance, token) in enumerate(rows):
        if not distance <= tolerance:  # NaN is a difference too
            x, y = (side[n].get(token, "不在最可能的词元里") for side in probabilities)
            return Difference("logits", n, token, x, y, _logprob_hint(max(row[0] for row in rows)))
    return None


def _logprob_hint(worst: float) -> str:
    if worst > 1.0:
        return "差得很远：装的多半不是同一个模型。是不是把底座当成了微调后的模型，或适配器没有装上？"
    return "差得不多：计算或存储的精度 (dtype) 不同，或合并时底座是 4 位的"


def _text_difference(a: list[Completion], b: list[Completion]) -> Difference | None:
    for n, (x, y) in enumerate(zip(a, b, strict=True)):
        if x == y:
            continue
        at = first_difference(x.text, y.text)
        shorter = min(x, y, key=lambda one: len(one.text))
        if at is None or (at == len(shorter.text) and x.ended != y.ended):
            hint = "一边停下来了，一边没有：结束符 (eos_token_id) 不同，看 generation_config.json"
            at = len(shorter.text) if at is None else at
            return Difference("end", n, at, _ending(x, at), _ending(y, at), hint)
        hint = "概率相近而文字不同：看这里是不是两个词元几乎一样可能，再看采样参数是不是真的贪心"
        return Difference("text", n, at, x.text[at : at + 12], y.text[at : at + 12], hint)
    return None


def _ending(one: Completion, at: int) -> str:
    rest = one.text[at : at + 12]
    return f"{'自己停下' if one.ended else '没有停下'}，此处之后：{rest!r}"
