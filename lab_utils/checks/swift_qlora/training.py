"""Checks of a run: its flags, its steps, its learning rate."""

import math
from random import Random

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.swift.schedule import learning_rate_at, optimizer_steps

__all__ = ["LEARNING_RATE_AT", "OPTIMIZER_STEPS", "QLORA_FLAGS", "qlora_flags"]


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
        Mistake(
            "没有量化",
            lambda r, a: _without(qlora_flags(r, a), "quant_method", "quant_bits"),
            "这是 LoRA；QLoRA 还要把底座量化成 4 位 (quant_method, quant_bits)",
        ),
        Mistake(
            "8 位", lambda r, a: _without(qlora_flags(r, a), quant_bits=8), "QLoRA 用 4 位 (NF4)，不是 8 位"
        ),
        Mistake(
            "旧参数 train_type",
            lambda r, a: _without(qlora_flags(r, a), "tuner_type", train_type="lora"),
            "ms-swift 4 把 train_type 改名为 tuner_type",
        ),
        Mistake(
            "tuner_type=qlora",
            lambda r, a: _without(qlora_flags(r, a), tuner_type="qlora"),
            "没有叫 qlora 的 tuner：QLoRA = lora + 4 位底座",
        ),
        Mistake(
            "r 和 α 对调", lambda r, a: qlora_flags(a, r), "lora_rank 是秩 r，lora_alpha 是缩放 α，写反了"
        ),
        Mistake("写死的秩", lambda r, a: qlora_flags(16, 32), "用函数的参数 rank 和 alpha，不要写死"),
        Mistake(
            "只有 q 和 v",
            lambda r, a: _without(qlora_flags(r, a), target_modules=["q_proj", "v_proj"]),
            "QLoRA 论文的做法是所有线性层：all-linear",
        ),
    ),
)


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
        Mistake(
            "忘了累积",
            lambda n, b, a, e: math.ceil(n / b) * e,
            "梯度累积 (gradient accumulation)：a 个小批才更新一次",
        ),
        Mistake("忘了轮数", lambda n, b, a, e: math.ceil(math.ceil(n / b) / a), "还要乘上轮数 (epochs)"),
        Mistake(
            "向下取整", lambda n, b, a, e: n // (b * a) * e, "不满一批、不满一次累积的也会更新，要向上取整"
        ),
        Mistake("先乘轮数再取整", lambda n, b, a, e: math.ceil(n * e / (b * a)), "每一轮各自取整，再乘轮数"),
        Mistake("乘累积", lambda n, b, a, e: math.ceil(n / b) * a * e, "累积使更新变少，应该除以 a"),
    ),
)


def _whole_cosine(step, total, peak, warmup):
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(2 * math.pi * (step - warmup) / max(1, total - warmup)))


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
        Mistake(
            "没有升温", lambda s, t, p, w: p * 0.5 * (1 + math.cos(math.pi * s / t)), "前 warmup 步要线性升温"
        ),
        Mistake(
            "进度没减升温",
            lambda s, t, p, w: p * s / w if s < w else p * 0.5 * (1 + math.cos(math.pi * s / t)),
            "余弦的进度从升温结束算起：(step - warmup) / (total - warmup)",
        ),
        Mistake(
            "线性下降",
            lambda s, t, p, w: p * s / w if s < w else p * (t - s) / max(1, t - w),
            "这是线性衰减 (linear)，这里要余弦 (cosine)",
        ),
        Mistake("整个余弦", _whole_cosine, "只走半个余弦：cos 的角度从 0 到 π"),
        Mistake(
            "忘了一半",
            lambda s, t, p, w: p * s / w if s < w else p * (1 + math.cos(math.pi * (s - w) / max(1, t - w))),
            "1 + cos 最大是 2，要乘 0.5",
        ),
        Mistake(
            "除以零",
            lambda s, t, p, w: p * s / w if s <= w else learning_rate_at(s, t, p, w),
            "warmup 可能为 0，先判断 step < warmup",
        ),
    ),
)
