"""Checks of NF4: its levels, its codes, two codes a byte."""

from random import Random
from statistics import NormalDist

import torch
from torch import Tensor

from lab_utils import quant
from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.checks.inputs import normal

__all__ = [
    "NEAREST_CODES",
    "NORMAL_LEVELS",
    "PACK_NIBBLES",
    "UNPACK_NIBBLES",
    "nearest_codes",
    "normal_levels",
    "pack_nibbles",
    "unpack_nibbles",
]


def normal_levels(offset: float) -> list[float]:
    """The 16 levels of NF4 in rising order, from quantiles of the standard normal; QLoRA, §3."""

    def quantiles(count: int) -> list[float]:
        step = (offset - 0.5) / count
        return [NormalDist().inv_cdf(offset - i * step) for i in range(count)]

    levels = sorted([-q for q in quantiles(7)] + [0.0] + quantiles(8))
    return [level / levels[-1] for level in levels]


def nearest_codes(scaled: Tensor, levels: Tensor) -> Tensor:
    """Index of the nearest level for each value; uint8 of the shape of `scaled`. levels: rising."""
    middles = (levels[:-1] + levels[1:]) / 2
    return torch.bucketize(scaled, middles).to(torch.uint8)


def pack_nibbles(codes: Tensor) -> Tensor:
    """Two codes a byte, the first in the high half; an odd number is filled up with 7."""
    return quant.pack(codes)


def unpack_nibbles(packed: Tensor, count: int) -> Tensor:
    """The first `count` codes."""
    return quant.unpack(packed, count)


def _levels(negative: int, positive: int, zero: bool = True, divide: bool = True):
    """NF4's recipe with other counts."""

    def answer(offset):
        def quantiles(count):
            step = (offset - 0.5) / count
            return [NormalDist().inv_cdf(offset - i * step) for i in range(count)]

        levels = sorted([-q for q in quantiles(negative)] + [0.0] * zero + quantiles(positive))
        return [level / (levels[-1] if divide else 1) for level in levels]

    return answer


def _with_half(offset):
    """`linspace` to 0.5 and not up to it: both sides end at a zero."""

    def quantiles(count):
        step = (offset - 0.5) / (count - 1)
        return [NormalDist().inv_cdf(offset - i * step) for i in range(count)]

    levels = sorted([-q for q in quantiles(8)] + quantiles(8))
    return [level / levels[-1] for level in levels]


def _unsorted_levels(offset):
    levels = normal_levels(offset)
    return levels[6::-1] + levels[7:]


def _probabilities_for_quantiles(offset):
    negative = [-(0.5 - (0.5 - offset) * i / 7) for i in range(7)]
    return [*negative, 0.0, *(offset * i / 8 for i in range(1, 9))]


def _draw_offset(rng: Random) -> tuple:
    return (rng.uniform(0.93, 0.99),)


NORMAL_LEVELS = Check(
    "normal_levels",
    normal_levels,
    draw=_draw_offset,
    cases=(
        Case(
            "NF4 的 offset = 0.9677083",
            (0.9677083,),
            "正的一边 8 个分位数，负的一边 7 个，加上 0，一共 16 个；最后除以最大的",
        ),
        Case("offset = 0.95", (0.95,), "概率从 offset 均匀地走向 0.5，不取 0.5 本身"),
        Case("offset = 0.99", (0.99,), "两边的步长不同：一边分 8 步，一边分 7 步"),
    ),
    mistakes=(
        Mistake("两边各 8 个", _levels(8, 8), "两边各 8 个再加 0 是 17 个，4 位放不下"),
        Mistake(
            "没有 0", _levels(8, 8, zero=False), "0 要有自己的编码：填充和被剪掉的权重都是 0，必须准确还原"
        ),
        Mistake(
            "正负对调",
            lambda o: [-x for x in reversed(normal_levels(o))],
            "多出来的那一个在正的一边：正 8 个，负 7 个",
        ),
        Mistake("没有归一", _levels(7, 8, divide=False), "刻度的范围是 -1 到 1：除以最大的那个"),
        Mistake("取到了 0.5", _with_half, "0.5 的分位数就是 0，两边都取到它就有了两个 0；停在 0.5 之前"),
        Mistake(
            "均匀的刻度",
            lambda o: [i / 7 for i in range(-7, 0)] + [i / 8 for i in range(9)],
            "这是均匀的刻度；要用正态分布的分位数 NormalDist().inv_cdf(p)",
        ),
        Mistake("没有排序", _unsorted_levels, "从小到大排序，编码 0 是 -1，编码 15 是 1"),
        Mistake("直接用概率", _probabilities_for_quantiles, "概率还要换成分位数：NormalDist().inv_cdf(p)"),
    ),
)


_NF4 = quant.nf4_levels()


def _scaled(seed: int, *shape: int) -> Tensor:
    values = normal(seed, *shape, scale=0.02)
    return values / values.abs().max()


def _draw_levels(rng: Random) -> tuple:
    """Values, and 16 levels from -1 to 1 at uneven distances."""
    levels = torch.tensor([rng.uniform(0.05, 0.3) for _ in range(16)]).cumsum(0)
    levels = 2 * (levels - levels[0]) / (levels[-1] - levels[0]) - 1
    return normal(rng, rng.randint(3, 6), rng.randint(7, 12), scale=0.4).clamp(-1, 1), levels


NEAREST_CODES = Check(
    "nearest_codes",
    nearest_codes,
    draw=_draw_levels,
    cases=(
        Case("64 个值，NF4 的刻度", (_scaled(0, 64), _NF4), "编码是离它最近的刻度的序号，0 到 15"),
        Case("正好在刻度上", (_NF4.clone(), _NF4), "第 i 个刻度的编码就是 i"),
        Case(
            "均匀的刻度", (_scaled(1, 32), torch.linspace(-1, 1, 16)), "刻度由参数 levels 给出，不一定是 NF4"
        ),
        Case("8×16 的矩阵", (_scaled(2, 8, 16), _NF4), "形状与 scaled 相同"),
        Case(
            "略微超出 ±1",
            (torch.tensor([1.0000001, -1.0000001, 2.0]), _NF4),
            "超出范围的归到两端的刻度",
            edge=True,
        ),
    ),
    mistakes=(
        Mistake(
            "用刻度当边界",
            lambda s, v: torch.bucketize(s, v).clamp(max=15).to(torch.uint8),
            "分界线在相邻两个刻度的正中间，不是刻度本身",
        ),
        Mistake(
            "向下取",
            lambda s, v: (torch.bucketize(s, v, right=True) - 1).clamp(0, 15).to(torch.uint8),
            "这是不大于它的刻度；要的是最近的，可能在上面",
        ),
        Mistake(
            "没有绝对值",
            lambda s, v: (s.unsqueeze(-1) - v).argmin(-1).to(torch.uint8),
            "距离要取绝对值，否则总是最大的刻度赢",
        ),
        Mistake(
            "最远的",
            lambda s, v: (s.unsqueeze(-1) - v).abs().argmax(-1).to(torch.uint8),
            "argmax 找的是最远的刻度；最近用 argmin",
        ),
        Mistake(
            "当作均匀",
            lambda s, v: ((s + 1) * 7.5).round().clamp(0, 15).to(torch.uint8),
            "NF4 的刻度不均匀，不能用一次乘法算出序号",
        ),
        Mistake("返回刻度", lambda s, v: v[nearest_codes(s, v).int()], "要的是序号（编码），不是刻度的值"),
        Mistake(
            "返回 int64",
            lambda s, v: nearest_codes(s, v).long(),
            "编码存成 uint8：.to(torch.uint8)，int64 每个要 8 字节",
        ),
        Mistake("从 1 数", lambda s, v: nearest_codes(s, v) + 1, "序号从 0 数起"),
    ),
)


def _codes(seed: int, count: int) -> Tensor:
    return torch.randint(0, 16, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def _even(codes: Tensor, fill: int = 7) -> Tensor:
    return torch.cat([codes, codes.new_full((len(codes) % 2,), fill)])


def _halves(codes):
    first, second = _even(codes).chunk(2)
    return (first << 4) | second


def _draw_codes(rng: Random) -> tuple:
    return (torch.tensor(rng.choices(range(16), k=rng.randint(9, 40)), dtype=torch.uint8),)


PACK_NIBBLES = Check(
    "pack_nibbles",
    pack_nibbles,
    draw=_draw_codes,
    cases=(
        Case(
            "[1, 2, 15, 0]",
            (torch.tensor([1, 2, 15, 0], dtype=torch.uint8),),
            "0x12 和 0xF0，也就是 18 和 240",
        ),
        Case("64 个编码", (_codes(1, 64),), "第一个在高 4 位，第二个在低 4 位，依次两两一组"),
        Case("全是 15", (torch.full((6,), 15, dtype=torch.uint8),), "每个字节都是 0xFF = 255"),
        Case("7 个编码", (_codes(2, 7),), "个数是奇数时，最后补一个 7（NF4 里 0 的编码）", edge=True),
    ),
    mistakes=(
        Mistake(
            "高低反了",
            lambda c: (_even(c)[1::2] << 4) | _even(c)[0::2],
            "bitsandbytes 的顺序：第一个编码放在高 4 位",
        ),
        Mistake("前半配后半", _halves, "相邻的两个放进一个字节，不是前一半配后一半"),
        Mistake(
            "没有移位",
            lambda c: _even(c)[0::2] | _even(c)[1::2],
            "先把第一个左移 4 位 (<< 4)，再与第二个合起来",
        ),
        Mistake("移 3 位", lambda c: (_even(c)[0::2] << 3) | _even(c)[1::2], "每个编码占 4 位，要左移 4 位"),
        Mistake("乘 10", lambda c: _even(c)[0::2] * 10 + _even(c)[1::2], "十六进制里一位是 16，不是 10"),
        Mistake(
            "补 0",
            lambda c: (_even(c, 0)[0::2] << 4) | _even(c, 0)[1::2],
            "编码 0 代表 -1，不是 0；补的应是 0 的编码 7",
        ),
        Mistake("奇数出错", lambda c: (c[0::2] << 4) | c[1::2], "个数是奇数时两半不一样长，先补一个"),
        Mistake(
            "丢了最后一个", lambda c: quant.pack(c[: len(c) // 2 * 2]), "个数是奇数时不能丢掉最后一个编码"
        ),
        Mistake("返回 int64", lambda c: quant.pack(c).long(), "结果要是 uint8，一个字节一个；int64 反而更大"),
    ),
)


def _cut(high, low, count):
    return torch.stack([high, low], 1).view(-1)[:count]


def _draw_packed(rng: Random) -> tuple:
    count = rng.randint(9, 40)
    return torch.tensor(rng.choices(range(256), k=(count + 1) // 2), dtype=torch.uint8), count


UNPACK_NIBBLES = Check(
    "unpack_nibbles",
    unpack_nibbles,
    draw=_draw_packed,
    cases=(
        Case("0x12 和 0xF0", (torch.tensor([0x12, 0xF0], dtype=torch.uint8), 4), "高 4 位在前：1、2、15、0"),
        Case("32 个字节", (quant.pack(_codes(3, 64)), 64), "高 4 位用 >> 4，低 4 位用 & 15，交错放回"),
        Case("只有 1 个字节", (torch.tensor([0x9C], dtype=torch.uint8), 2), "一个字节里有两个编码"),
        Case(
            "7 个编码",
            (quant.pack(_codes(2, 7)), 7),
            "最后一个字节里只有一个编码是真的，只返回前 count 个",
            edge=True,
        ),
    ),
    mistakes=(
        Mistake("低的在前", lambda p, n: _cut(p & 15, p >> 4, n), "高 4 位 (>> 4) 是第一个编码"),
        Mistake(
            "没有交错",
            lambda p, n: torch.cat([p >> 4, p & 15])[:n],
            "两半要交错：高、低、高、低……，torch.stack(…, 1).view(-1)",
        ),
        Mistake(
            "没有截到 count", lambda p, n: _cut(p >> 4, p & 15, None), "填充的那个编码不要返回：[:count]"
        ),
        Mistake(
            "高位没有移", lambda p, n: _cut(p & 0xF0, p & 15, n), "& 0xF0 之后还要右移 4 位，才是 0 到 15"
        ),
        Mistake("掩码错", lambda p, n: _cut(p >> 4, p & 7, n), "4 位的掩码是 15（二进制 1111），7 只有 3 位"),
        Mistake(
            "除以 10",
            lambda p, n: _cut(p // 10, p % 10, n),
            "一个十六进制位是 16：用 // 16 和 % 16，或移位和掩码",
        ),
        Mistake("移 3 位", lambda p, n: _cut((p >> 3) & 15, p & 15, n), "每个编码占 4 位，要右移 4 位"),
    ),
)
