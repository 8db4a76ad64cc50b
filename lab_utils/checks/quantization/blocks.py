"""Checks of absmax quantization, of a tensor and block by block."""

from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.checks.inputs import normal

__all__ = ["ABSMAX_QUANTIZE", "BLOCK_ABSMAX", "absmax_quantize", "block_absmax"]


def absmax_quantize(weights: Tensor, bits: int) -> tuple[Tensor, float]:
    """`(codes, scale)`: int8 codes of the shape of `weights`, and the step; codes * scale ≈ weights."""
    top = 2 ** (bits - 1) - 1
    scale = float(weights.abs().max()) / top
    if scale == 0:
        return torch.zeros_like(weights, dtype=torch.int8), 0.0
    return (weights / scale).round().to(torch.int8), scale


def block_absmax(weights: Tensor, block_size: int) -> Tensor:
    """Largest magnitude in each block of the flattened weights; (ceil(n / block_size),) float32."""
    flat = weights.reshape(-1)
    padded = functional.pad(flat, (0, -len(flat) % block_size))
    return padded.view(-1, block_size).abs().amax(1)


def _weights(seed: int, *shape: int) -> Tensor:
    return normal(seed, *shape, scale=0.02)


_LOW = -_weights(1, 12).abs().sort().values
"""All negative: the largest magnitude belongs to the smallest number."""


def _by(top, rounding=torch.round, largest=lambda w: w.abs().max()):
    """Quantization with other steps, rounding or range; int8 wraps round as it does for students."""

    def answer(weights, bits):
        scale = float(largest(weights)) / top(bits)
        return rounding(weights / scale).to(torch.int32).to(torch.int8), scale

    return answer


def _from_minimum(weights, bits):
    scale = float(weights.max() - weights.min()) / (2**bits - 1)
    return ((weights - weights.min()) / scale).round().to(torch.int32).to(torch.int8), scale


def _by_reciprocal(weights, bits):
    steps = (2 ** (bits - 1) - 1) / float(weights.abs().max())
    return (weights * steps).round().to(torch.int8), 1 / steps


def _symmetric(bits):
    return 2 ** (bits - 1) - 1


def _draw_weights(rng: Random) -> tuple:
    return normal(rng, rng.randint(3, 6), rng.randint(5, 9), scale=0.03), rng.choice((3, 4, 5, 8))


ABSMAX_QUANTIZE = Check(
    "absmax_quantize",
    absmax_quantize,
    draw=_draw_weights,
    cases=(
        Case(
            "8 个权重，8 位", (_weights(0, 8), 8), "scale 是最大绝对值 ÷ 127；编码是 weights ÷ scale 四舍五入"
        ),
        Case("全是负数，8 位", (_LOW, 8), "最大绝对值 (absmax) 要先取绝对值再求最大"),
        Case("4×6 的矩阵，4 位", (_weights(2, 4, 6), 4), "4 位的编码从 -7 到 7，形状不变"),
        Case("3 位", (_weights(3, 10), 3), "最大的编码是 2 的 (bits-1) 次方再减 1"),
        Case("全是 0", (torch.zeros(5), 8), "全是 0 时编码都是 0，scale 是 0.0，不要除以零", edge=True),
    ),
    mistakes=(
        Mistake("截断", _by(_symmetric, torch.trunc), "直接转成整数会去掉小数部分 (truncation)，先 .round()"),
        Mistake(
            "除以 128",
            _by(lambda b: 2 ** (b - 1)),
            "正数那边最大的编码是 127，不是 128；128 在 int8 里会变成 -128",
        ),
        Mistake("除以 255", _by(lambda b: 2**b - 1), "一位要留给正负号：8 位有符号整数最大 127，4 位最大 7"),
        Mistake(
            "没有绝对值",
            _by(_symmetric, largest=lambda w: w.max()),
            "全是负数的时候 max() 找到的是最小的那个；先 .abs()",
        ),
        Mistake(
            "最小到最大",
            _from_minimum,
            "这是 min–max 量化，零点 (zero point) 不在 0；absmax 量化里 0 的编码就是 0",
        ),
        Mistake(
            "scale 反了",
            lambda w, b: (absmax_quantize(w, b)[0], 1 / absmax_quantize(w, b)[1]),
            "返回的 scale 是一步有多大：codes × scale 要还原成权重",
        ),
        Mistake(
            "返回浮点编码",
            lambda w, b: (absmax_quantize(w, b)[0].float(), absmax_quantize(w, b)[1]),
            "编码要真的存成整数：.to(torch.int8)，否则一位也没省",
        ),
        Mistake(
            "返回还原后的权重",
            lambda w, b: (absmax_quantize(w, b)[0] * absmax_quantize(w, b)[1], absmax_quantize(w, b)[1]),
            "这已经是反量化 (dequantize) 的结果了；要的是编码",
        ),
        Mistake("除以零", _by_reciprocal, "全是 0 时 absmax 是 0，先判断再除"),
    ),
)


def _dropped(weights, block_size):
    flat = weights.reshape(-1)
    return block_absmax(flat[: len(flat) // block_size * block_size], block_size)


def _strided(weights, block_size):
    flat = functional.pad(weights.reshape(-1), (0, -weights.numel() % block_size))
    return flat.view(block_size, -1).abs().amax(0)


def _signed(weights, block_size):
    parts = weights.reshape(-1).split(block_size)
    return torch.stack([part[part.abs().argmax()] for part in parts])


def _draw_blocks(rng: Random) -> tuple:
    return normal(rng, rng.randint(2, 5), rng.randint(30, 90)), rng.choice((16, 32, 48))


BLOCK_ABSMAX = Check(
    "block_absmax",
    block_absmax,
    draw=_draw_blocks,
    cases=(
        Case("256 个权重，每块 64", (_weights(0, 256), 64), "按顺序每 64 个一块，每块一个最大绝对值"),
        Case("4×96 的矩阵，每块 64", (_weights(1, 4, 96), 64), "先展平 (flatten) 再切块，块可以跨过行的边界"),
        Case("全是负数", (_LOW.reshape(3, 4), 4), "要的是绝对值的最大值"),
        Case(
            "200 个权重，每块 64",
            (_weights(2, 200), 64),
            "最后一块只有 8 个，也要有自己的最大绝对值",
            edge=True,
        ),
        Case("比一块还少", (_weights(3, 5), 64), "不满一块的也算一块", edge=True),
    ),
    mistakes=(
        Mistake("丢了最后一块", _dropped, "不满一块的尾巴也是权重，丢了它就还原不出来"),
        Mistake(
            "没有绝对值",
            lambda w, b: torch.stack([part.max() for part in w.reshape(-1).split(b)]),
            "负得多的权重也要放得进范围：先 .abs()",
        ),
        Mistake(
            "整个张量",
            lambda w, b: w.abs().max().repeat(-(-w.numel() // b)),
            "每一块各有各的最大值，不是整个张量的",
        ),
        Mistake(
            "每行一个", lambda w, b: w.abs().amax(-1), "这是每行一个 (per row)；块与行的长度无关，先展平"
        ),
        Mistake(
            "隔着取",
            _strided,
            "view(block_size, -1) 把不相邻的权重放进一块；块是连续的：view(-1, block_size)",
        ),
        Mistake("带正负号", _signed, "返回的是绝对值，不带符号；NF4 的刻度自己有正负"),
        Mistake(
            "平均",
            lambda w, b: torch.stack([part.abs().mean() for part in w.reshape(-1).split(b)]),
            "用平均值会让大的权重超出范围；要最大值",
        ),
    ),
)
