"""Checks of lab 05: what a QLoRA run is given, what it does and how it is judged."""

import math
import random
from random import Random

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.data.loss_mask import IGNORE, make_labels, rows_without_labels
from lab_utils.swift.schedule import learning_rate_at, optimizer_steps


def qlora_flags(rank: int, alpha: int) -> dict:
    """The flags of `swift sft` that make a run QLoRA: 4-bit base, LoRA on all linear layers."""
    return {
        "tuner_type": "lora",
        "lora_rank": rank,
        "lora_alpha": alpha,
        "target_modules": "all-linear",
        "quant_method": "bnb",
        "quant_bits": 4,
    }


def paired_interval(before: list[bool], after: list[bool], seed: int) -> tuple[float, float, float]:
    """`(mean, low, high)`: mean of `after - before` and its 95 % bootstrap interval, 10,000 resamples of pairs.

    Uses `random.Random(seed)`; low and high are the values at 2.5 % and 97.5 % of the sorted means.
    """
    change = [a - b for a, b in zip(after, before, strict=True)]
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(change, k=len(change))) / len(change) for _ in range(10_000))
    return sum(change) / len(change), means[250], means[9749]


def _without(flags: dict, *keys: str, **other) -> dict:
    return {key: value for key, value in flags.items() if key not in keys} | other


def _draw_rank_and_alpha(rng: Random) -> tuple:
    return rng.randint(2, 2000), rng.randint(2001, 50_000)


QLORA_FLAGS = Check(
    "qlora_flags",
    qlora_flags,
    draw=_draw_rank_and_alpha,
    cases=(
        Case("r=16，α=32", (16, 32), "六个参数：三个说 LoRA，一个说放在哪些层，两个说 4 位量化"),
        Case("r=8，α=16", (8, 16), "lora_rank 和 lora_alpha 要用传入的值"),
    ),
    mistakes=(
        Mistake("没有量化", lambda r, a: _without(qlora_flags(r, a), "quant_method", "quant_bits"), "这是 LoRA；QLoRA 还要把底座量化成 4 位 (quant_method, quant_bits)"),
        Mistake("8 位", lambda r, a: _without(qlora_flags(r, a), quant_bits=8), "QLoRA 用 4 位 (NF4)，不是 8 位"),
        Mistake("旧参数 train_type", lambda r, a: _without(qlora_flags(r, a), "tuner_type", train_type="lora"), "ms-swift 4 把 train_type 改名为 tuner_type"),
        Mistake("tuner_type=qlora", lambda r, a: _without(qlora_flags(r, a), tuner_type="qlora"), "没有叫 qlora 的 tuner：QLoRA = lora + 4 位底座"),
        Mistake("r 和 α 对调", lambda r, a: qlora_flags(a, r), "lora_rank 是秩 r，lora_alpha 是缩放 α，写反了"),
        Mistake("写死的秩", lambda r, a: qlora_flags(16, 32), "用函数的参数 rank 和 alpha，不要写死"),
        Mistake("只有 q 和 v", lambda r, a: _without(qlora_flags(r, a), target_modules=["q_proj", "v_proj"]), "QLoRA 论文的做法是所有线性层：all-linear"),
    ),
)  # fmt: skip

_END, _PAD = 2, 0


def _labels_mistake(change):
    """The right example with its labels changed by `change(labels, prompt length, answer length)`."""

    def wrong(prompt, answer, end, length, pad):
        ids, labels = make_labels(prompt, answer, end, length, pad)
        return ids, change(list(labels), ids, len(prompt), len(answer), pad)

    return wrong


def _pad_supervised(labels, ids, prompt, answer, pad):
    return [IGNORE] * prompt + ids[prompt:]


def _end_masked(labels, ids, prompt, answer, pad):
    return [IGNORE if i == prompt + answer else label for i, label in enumerate(labels)]


def _prompt_supervised(labels, ids, prompt, answer, pad):
    return ids[:prompt] + labels[prompt:]


def _shifted(labels, ids, prompt, answer, pad):
    return [*labels[1:], IGNORE]


def _masked_by_zero(labels, ids, prompt, answer, pad):
    return [0 if label == IGNORE else label for label in labels]


def _draw_example(rng: Random) -> tuple:
    """A prompt and an answer, either of which may hold the end and the padding too."""
    end, pad = rng.sample(range(150_000), k=2)
    prompt, answer = (rng.choices(range(150_000), k=rng.randint(2, 9)) for _ in range(2))
    for ids in (prompt, answer):
        if rng.random() < 0.3:
            ids[rng.randrange(len(ids))] = rng.choice((end, pad))
    return prompt, answer, end, len(prompt) + len(answer) + rng.randint(-1, 6), pad


MAKE_LABELS = Check(
    "make_labels",
    make_labels,
    draw=_draw_example,
    cases=(
        Case("提示 3 词元，回答 4 词元，补到 12", ([11, 12, 13], [21, 22, 23, 24], _END, 12, _PAD), "提示和填充处是 -100，回答和结束符处是它们自己的编号"),
        Case("正好不用填充", ([11, 12], [21, 22], _END, 5, _PAD), "长度正好时没有填充"),
        Case("回答里有一个词元与填充相同", ([11], [21, _PAD, 22], _END, 7, _PAD), "按位置决定，不要按编号是否等于 pad_id 决定", edge=True),
        Case("太长，要截断", ([11, 12, 13], [21, 22, 23], _END, 5, _PAD), "超过 length 的部分从末尾截掉，两个列表一样长", edge=True),
    ),
    mistakes=(
        Mistake("结束符没有监督", _labels_mistake(_end_masked), "结束符 <|im_end|> 也要计入损失，否则模型学不会停下来"),
        Mistake("提示也监督", _labels_mistake(_prompt_supervised), "提示 (prompt) 不该计入损失：它是用户写的，不是要学的回答"),
        Mistake("填充也监督", _labels_mistake(_pad_supervised), "填充 (padding) 处应为 -100，否则模型学着输出填充"),
        Mistake("左移一位", _labels_mistake(_shifted), "不用自己左移：模型内部会把标签错开一位"),
        Mistake("用 0 屏蔽", _labels_mistake(_masked_by_zero), "屏蔽用 -100；0 是一个真的词元编号"),
        Mistake("没有结束符", lambda p, a, e, n, d: (((p + a)[:n] + [d] * n)[:n], (([IGNORE] * len(p) + a)[:n] + [IGNORE] * n)[:n]), "序列里要有结束符：提示 + 回答 + 结束符"),
        Mistake("按编号找填充", lambda p, a, e, n, d: (lambda ids: (ids, [IGNORE if i < len(p) or t == d else t for i, t in enumerate(ids)]))(make_labels(p, a, e, n, d)[0]), "回答里也可能有编号等于 pad_id 的词元，要按位置屏蔽填充"),
    ),
)  # fmt: skip


def _draw_schedule(rng: Random) -> tuple:
    return rng.randint(50, 100_000), rng.randint(2, 16), rng.randint(2, 8), rng.randint(2, 5)


OPTIMIZER_STEPS = Check(
    "optimizer_steps",
    optimizer_steps,
    draw=_draw_schedule,
    cases=(
        Case("1000 条，批 16，累积 1，1 轮", (1000, 16, 1, 1), "最后不满一批的也算一步"),
        Case("2048 条，批 8，累积 4，3 轮", (2048, 8, 4, 3), "每 accumulation 个小批更新一次"),
        Case("100 条，批 8，累积 4，2 轮", (100, 8, 4, 2), "每轮末尾不足 accumulation 个小批也更新一次"),
        Case("数据比一批还少", (3, 16, 4, 5), "每轮至少一步", edge=True),
    ),
    mistakes=(
        Mistake("忘了累积", lambda n, b, a, e: math.ceil(n / b) * e, "梯度累积 (gradient accumulation)：a 个小批才更新一次"),
        Mistake("忘了轮数", lambda n, b, a, e: math.ceil(math.ceil(n / b) / a), "还要乘上轮数 (epochs)"),
        Mistake("向下取整", lambda n, b, a, e: n // (b * a) * e, "不满一批、不满一次累积的也会更新，要向上取整"),
        Mistake("先乘轮数再取整", lambda n, b, a, e: math.ceil(n * e / (b * a)), "每一轮各自取整，再乘轮数"),
        Mistake("乘累积", lambda n, b, a, e: math.ceil(n / b) * a * e, "累积使更新变少，应该除以 a"),
    ),
)  # fmt: skip


def _draw_step(rng: Random) -> tuple:
    total = rng.randint(60, 400)
    return rng.randint(1, total - 1), total, rng.uniform(1e-4, 2e-3), rng.randint(3, total // 3)


LEARNING_RATE_AT = Check(
    "learning_rate_at",
    learning_rate_at,
    draw=_draw_step,
    cases=(
        Case("开始之前", (0, 100, 1e-3, 10), "第 0 步还没有升温，学习率为 0"),
        Case("升温一半", (5, 100, 1e-3, 10), "升温 (warm-up) 阶段按步数线性增加"),
        Case("升温结束", (10, 100, 1e-3, 10), "升温结束时正好是峰值"),
        Case("余弦中点", (55, 100, 1e-3, 10), "升温之后剩下 90 步，走到一半时是峰值的一半"),
        Case("四分之三", (78, 100, 2e-3, 10), "余弦：peak × (1 + cos(π·进度)) / 2"),
        Case("结束", (100, 100, 1e-3, 10), "最后一步降到 0"),
        Case("没有升温", (0, 50, 1e-3, 0), "warmup 为 0 时，第 0 步就是峰值，不要除以零", edge=True),
    ),
    tolerance=1e-9,
    mistakes=(
        Mistake("没有升温", lambda s, t, p, w: p * 0.5 * (1 + math.cos(math.pi * s / t)), "前 warmup 步要线性升温"),
        Mistake("进度没减升温", lambda s, t, p, w: p * s / w if s < w else p * 0.5 * (1 + math.cos(math.pi * s / t)), "余弦的进度从升温结束算起：(step - warmup) / (total - warmup)"),
        Mistake("线性下降", lambda s, t, p, w: p * s / w if s < w else p * (t - s) / max(1, t - w), "这是线性衰减 (linear)，这里要余弦 (cosine)"),
        Mistake("整个余弦", lambda s, t, p, w: p * s / w if s < w else p * 0.5 * (1 + math.cos(2 * math.pi * (s - w) / max(1, t - w))), "只走半个余弦：cos 的角度从 0 到 π"),
        Mistake("忘了一半", lambda s, t, p, w: p * s / w if s < w else p * (1 + math.cos(math.pi * (s - w) / max(1, t - w))), "1 + cos 最大是 2，要乘 0.5"),
        Mistake("除以零", lambda s, t, p, w: p * s / w if s <= w else learning_rate_at(s, t, p, w), "warmup 可能为 0，先判断 step < warmup"),
    ),
)  # fmt: skip


def _draw_batch(rng: Random) -> tuple:
    """Rows of one width; labels lie between a prompt and padding, or are missing."""
    width, batch = rng.randint(5, 9), []
    for _ in range(rng.randint(4, 9)):
        row = [IGNORE] * width
        if rng.random() < 0.6:
            begin, end = rng.randint(1, 3), width - rng.randint(0, 1)
            row[begin:end] = rng.choices(range(150_000), k=end - begin)
        batch.append(row)
    batch.insert(rng.randrange(len(batch) + 1), [IGNORE, *rng.choices(range(150_000), k=width - 1)])
    return (batch,)


ROWS_WITHOUT_LABELS = Check(
    "rows_without_labels",
    rows_without_labels,
    draw=_draw_batch,
    cases=(
        Case("第二行全是 -100", ([[IGNORE, 5, 2], [IGNORE] * 3, [IGNORE, IGNORE, 2]],), "一行里只要有一个标签不是 -100，就不算"),
        Case("都有标签", ([[IGNORE, 7], [3, 2]],), "没有这样的行时返回空列表"),
        Case("标签里有 0", ([[IGNORE, 0], [IGNORE, IGNORE]],), "0 是词元编号，不是屏蔽"),
        Case("空的批", ([],), "空的批返回空列表", edge=True),
    ),
    mistakes=(
        Mistake("any", lambda b: [i for i, row in enumerate(b) if any(x == IGNORE for x in row)], "有 -100 的行很正常（提示）；要找的是全部为 -100 的行"),
        Mistake("从 1 数", lambda b: [i + 1 for i in rows_without_labels(b)], "行号从 0 数起"),
        Mistake("返回个数", lambda b: len(rows_without_labels(b)), "要的是行号的列表，不是个数"),
        Mistake("看总和", lambda b: [i for i, row in enumerate(b) if sum(x for x in row if x > 0) == 0], "编号为 0 的词元也是标签，用 == -100 判断"),
        Mistake("返回行", lambda b: [b[i] for i in rows_without_labels(b)], "要行号，不是行的内容"),
    ),
)  # fmt: skip


def _scores(seed: int, n: int, gain: float) -> tuple[list[float], list[float]]:
    rng = random.Random(seed)
    before = [rng.gauss(0, 1) for _ in range(n)]
    return before, [b + rng.gauss(gain, 1) for b in before]


def _outcomes(seed: int, n: int, low: float, high: float) -> tuple[list[bool], list[bool]]:
    rng = random.Random(seed)
    before = [rng.random() < low for _ in range(n)]
    return before, [b or rng.random() < high for b in before]


def _unpaired(before, after, seed):
    rng = random.Random(seed)
    n = len(before)
    means = sorted((sum(rng.choices(after, k=n)) - sum(rng.choices(before, k=n))) / n for _ in range(10_000))
    return (sum(after) - sum(before)) / n, means[250], means[9749]


def _ninety(before, after, seed):
    change = [a - b for a, b in zip(after, before, strict=True)]
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(change, k=len(change))) / len(change) for _ in range(10_000))
    return sum(change) / len(change), means[500], means[9499]


def _spread_of_values(before, after, seed):
    change = sorted(a - b for a, b in zip(after, before, strict=True))
    n = len(change)
    return sum(change) / n, change[int(0.025 * n)], change[int(0.975 * n)]


def _draw_scores(rng: Random) -> tuple:
    before = [rng.gauss(0, 1) for _ in range(100)]
    gain = rng.uniform(-0.3, 0.3)
    return before, [score + rng.gauss(gain, 1) for score in before], rng.randrange(1000)


PAIRED_INTERVAL = Check(
    "paired_interval",
    paired_interval,
    draw=_draw_scores,
    cases=(
        Case("100 对，底座很少通过", (*_outcomes(1, 100, 0.02, 0.85), 0), "每次有放回地抽 n 个差值，求平均；10000 个平均数排序后取 2.5% 和 97.5% 处"),
        Case("100 对实数分数，差别小", (*_scores(2, 100, 0.2), 0), "先求每一对的差，再抽样"),
        Case("没有变化", ([True, False] * 20, [True, False] * 20, 0), "每一对都一样时，区间就是 0 到 0", edge=True),
    ),
    tolerance=0.015,  # two bootstraps of one sample differ by less, 90 % and 95 % bounds by more
    mistakes=(
        Mistake("不配对", _unpaired, "before 和 after 是同一批题目：先求每题的差，再对差值抽样，不要分开抽"),
        Mistake("90% 区间", _ninety, "这是 5% 到 95%，即 90% 区间；95% 区间取 2.5% 和 97.5%"),
        Mistake("个体的分布", _spread_of_values, "这是单个差值的分布，不是平均数的分布：要先重抽样求平均"),
        Mistake("方向反了", lambda b, a, s: tuple(-x for x in paired_interval(b, a, s)), "差是 after - before，正数表示变好"),
        Mistake("只有平均", lambda b, a, s: paired_interval(b, a, s)[0], "返回三个数：(平均, 下界, 上界)"),
    ),
)  # fmt: skip
