"""Checks of what is stored for a weight, and what training holds."""

from random import Random

from lab_utils import quant
from lab_utils.checks.frame import Case, Check, Mistake

__all__ = ["BITS_PER_PARAMETER", "TRAINING_PARTS", "bits_per_parameter", "training_parts"]


def bits_per_parameter(block_size: int, double: bool) -> float:
    """Bits stored for a weight in NF4, with or without double quantization."""
    return quant.bits_per_parameter(4, block_size, double)


def training_parts(parameters: int, weight_bits: float, adapters: int) -> dict[str, float]:
    """GB (10**9 bytes) that training holds whatever the batch: weights, adapters, gradients, optimizer.

    Without adapters all weights are trained in 16 bits; with them, only the adapters, in 32 bits.
    AdamW keeps two numbers for each trained one, of its size.
    """
    trained = 4 * adapters if adapters else 2 * parameters
    return {
        "weights": parameters * weight_bits / 8 / 1e9,
        "adapters": 4 * adapters / 1e9,
        "gradients": trained / 1e9,
        "optimizer": 2 * trained / 1e9,
    }


def _draw_block_size(rng: Random) -> tuple:
    """Any size, since powers of two are too few; the check's tolerance fits the smallest share of a scale."""
    return rng.randint(9, 4_000_000), rng.random() < 0.5


BITS_PER_PARAMETER = Check(
    "bits_per_parameter",
    bits_per_parameter,
    draw=_draw_block_size,
    cases=(
        Case("块大小 64", (64, False), "4 位编码，加上每块一个 32 位的 absmax 摊到 64 个权重上"),
        Case("块大小 64，双重量化", (64, True), "每块的 absmax 变成 8 位；每 256 块另有一个 32 位的缩放"),
        Case("块大小 128", (128, False), "块越大，摊到每个权重上的越少"),
        Case("块大小 32，双重量化", (32, True), "第二级的缩放管 256 块，也就是 256 × 块大小 个权重"),
    ),
    mistakes=(
        Mistake("只算常数", lambda b, d: bits_per_parameter(b, d) - 4, "还要加上编码本身的 4 位"),
        Mistake("忘了 absmax", lambda b, d: 4.0, "每块的 absmax 也要存，摊到每个权重上"),
        Mistake("忽略双重量化", lambda b, d: 4 + 32 / b, "double 为真时，absmax 从 32 位变成 8 位"),
        Mistake(
            "第二级没有摊",
            lambda b, d: 4 + (8 / b + 32 / 256 if d else 32 / b),
            "第二级的 32 位由 256 个块分摊，每块又有 block_size 个权重",
        ),
        Mistake(
            "忘了第二级",
            lambda b, d: 4 + (8 if d else 32) / b,
            "8 位的 absmax 自己也要缩放：每 256 个一个 32 位的数",
        ),
        Mistake(
            "absmax 用 16 位",
            lambda b, d: 4 + (8 / b + 16 / (256 * b) if d else 16 / b),
            "bitsandbytes 的 absmax 是 32 位的 (float32)",
        ),
        Mistake("单位是字节", lambda b, d: bits_per_parameter(b, d) / 8, "要的是位 (bit)，不用除以 8"),
        Mistake(
            "除以 256",
            lambda b, d: 4 + (8 / b + 32 / 256 / 256 if d else 32 / b),
            "第二级管 256 块，每块 block_size 个权重，不总是 256",
        ),
    ),
    tolerance=1e-9,
)


def _changed(**parts):
    """`training_parts` with some parts worked out by other functions of the right parts and the arguments."""

    def answer(parameters, weight_bits, adapters):
        right = training_parts(parameters, weight_bits, adapters)
        wrong = {name: part(right, parameters, weight_bits, adapters) for name, part in parts.items()}
        return right | wrong

    return answer


def _draw_training(rng: Random) -> tuple:
    if rng.random() < 0.4:
        return rng.randint(10**8, 10**11), 16, 0
    return rng.randint(10**8, 10**11), rng.choice((16, 8, 4.5)), rng.randint(10**6, 10**8)


TRAINING_PARTS = Check(
    "training_parts",
    training_parts,
    draw=_draw_training,
    cases=(
        Case(
            "7B 全参，16 位", (7_000_000_000, 16, 0), "全参数训练：权重、梯度各 2 字节，AdamW 再加两份 2 字节"
        ),
        Case(
            "7B LoRA，适配器 20 M",
            (7_000_000_000, 16, 20_000_000),
            "只有适配器有梯度和优化器状态，而且是 4 字节的 float32",
        ),
        Case(
            "7B QLoRA，每个权重 4.127 位",
            (7_000_000_000, 4.127, 20_000_000),
            "权重的位数可以不是整数；8 位是 1 字节",
        ),
        Case("小模型全参", (6_240_256, 16, 0), "adapters 为 0 时，所有的权重都训练"),
    ),
    mistakes=(
        Mistake(
            "一份动量",
            _changed(optimizer=lambda r, *_: r["gradients"]),
            "AdamW 每个参数记两个数：一阶矩和二阶矩",
        ),
        Mistake(
            "梯度给所有权重",
            _changed(gradients=lambda r, p, b, a: 2 * p / 1e9),
            "冻结的权重没有梯度；只有训练的那些才有",
        ),
        Mistake(
            "优化器给所有权重",
            _changed(optimizer=lambda r, p, b, a: 4 * p / 1e9),
            "冻结的权重不更新，优化器不为它们记任何东西",
        ),
        Mistake(
            "位当字节", _changed(weights=lambda r, p, b, a: p * b / 1e9), "weight_bits 是位 (bit)，先除以 8"
        ),
        Mistake(
            "GiB",
            lambda p, b, a: {k: v * 1e9 / 2**30 for k, v in training_parts(p, b, a).items()},
            "这里的 GB 是 10**9 字节；除以 2**30 得到的是 GiB",
        ),
        Mistake(
            "适配器 16 位",
            _changed(adapters=lambda r, p, b, a: 2 * a / 1e9),
            "peft 里的适配器是 float32，每个 4 字节",
        ),
        Mistake("忘了适配器", _changed(adapters=lambda r, *_: 0.0), "适配器自己也是要放进显存的权重"),
        Mistake(
            "训练的也按 4 位",
            _changed(gradients=lambda r, p, b, a: (a or p) * b / 8 / 1e9),
            "梯度不量化：它的大小由训练的参数决定，与底座存成几位无关",
        ),
        Mistake(
            "总和", lambda p, b, a: sum(training_parts(p, b, a).values()), "返回四个部分的字典，不是总和"
        ),
    ),
)
