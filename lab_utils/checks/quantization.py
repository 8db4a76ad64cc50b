"""Checks of lab 03: quantize by hand, block by block, to NF4; count bits and bytes."""

from random import Random
from statistics import NormalDist

import torch
from torch import Tensor
from torch.nn import functional

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.checks.inputs import normal
from lab_utils.quant import bits_per_parameter as formula
from lab_utils.quant import nf4_levels, pack, unpack


def absmax_quantize(weights: Tensor, bits: int) -> tuple[Tensor, float]:
    """`(codes, scale)`: int8 codes of the shape of `weights`, and the size of a step; codes * scale ≈ weights."""
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
    return pack(codes)


def unpack_nibbles(packed: Tensor, count: int) -> Tensor:
    """The first `count` codes."""
    return unpack(packed, count)


def bits_per_parameter(block_size: int, double: bool) -> float:
    """Bits stored for a weight in NF4, with or without double quantization."""
    return formula(4, block_size, double)


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
        Case("8 个权重，8 位", (_weights(0, 8), 8), "scale 是最大绝对值 ÷ 127；编码是 weights ÷ scale 四舍五入"),
        Case("全是负数，8 位", (_LOW, 8), "最大绝对值 (absmax) 要先取绝对值再求最大"),
        Case("4×6 的矩阵，4 位", (_weights(2, 4, 6), 4), "4 位的编码从 -7 到 7，形状不变"),
        Case("3 位", (_weights(3, 10), 3), "最大的编码是 2 的 (bits-1) 次方再减 1"),
        Case("全是 0", (torch.zeros(5), 8), "全是 0 时编码都是 0，scale 是 0.0，不要除以零", edge=True),
    ),
    mistakes=(
        Mistake("截断", _by(_symmetric, torch.trunc), "直接转成整数会去掉小数部分 (truncation)，先 .round()"),
        Mistake("除以 128", _by(lambda b: 2 ** (b - 1)), "正数那边最大的编码是 127，不是 128；128 在 int8 里会变成 -128"),
        Mistake("除以 255", _by(lambda b: 2**b - 1), "一位要留给正负号：8 位有符号整数最大 127，4 位最大 7"),
        Mistake("没有绝对值", _by(_symmetric, largest=lambda w: w.max()), "全是负数的时候 max() 找到的是最小的那个；先 .abs()"),
        Mistake("最小到最大", _from_minimum, "这是 min–max 量化，零点 (zero point) 不在 0；absmax 量化里 0 的编码就是 0"),
        Mistake("scale 反了", lambda w, b: (absmax_quantize(w, b)[0], 1 / absmax_quantize(w, b)[1]), "返回的 scale 是一步有多大：codes × scale 要还原成权重"),
        Mistake("返回浮点编码", lambda w, b: (absmax_quantize(w, b)[0].float(), absmax_quantize(w, b)[1]), "编码要真的存成整数：.to(torch.int8)，否则一位也没省"),
        Mistake("返回还原后的权重", lambda w, b: (absmax_quantize(w, b)[0] * absmax_quantize(w, b)[1], absmax_quantize(w, b)[1]), "这已经是反量化 (dequantize) 的结果了；要的是编码"),
        Mistake("除以零", _by_reciprocal, "全是 0 时 absmax 是 0，先判断再除"),
    ),
)  # fmt: skip


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
        Case("200 个权重，每块 64", (_weights(2, 200), 64), "最后一块只有 8 个，也要有自己的最大绝对值", edge=True),
        Case("比一块还少", (_weights(3, 5), 64), "不满一块的也算一块", edge=True),
    ),
    mistakes=(
        Mistake("丢了最后一块", _dropped, "不满一块的尾巴也是权重，丢了它就还原不出来"),
        Mistake("没有绝对值", lambda w, b: torch.stack([part.max() for part in w.reshape(-1).split(b)]), "负得多的权重也要放得进范围：先 .abs()"),
        Mistake("整个张量", lambda w, b: w.abs().max().repeat(-(-w.numel() // b)), "每一块各有各的最大值，不是整个张量的"),
        Mistake("每行一个", lambda w, b: w.abs().amax(-1), "这是每行一个 (per row)；块与行的长度无关，先展平"),
        Mistake("隔着取", _strided, "view(block_size, -1) 把不相邻的权重放进一块；块是连续的：view(-1, block_size)"),
        Mistake("带正负号", _signed, "返回的是绝对值，不带符号；NF4 的刻度自己有正负"),
        Mistake("平均", lambda w, b: torch.stack([part.abs().mean() for part in w.reshape(-1).split(b)]), "用平均值会让大的权重超出范围；要最大值"),
    ),
)  # fmt: skip


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


def _draw_offset(rng: Random) -> tuple:
    return (rng.uniform(0.93, 0.99),)


NORMAL_LEVELS = Check(
    "normal_levels",
    normal_levels,
    draw=_draw_offset,
    cases=(
        Case("NF4 的 offset = 0.9677083", (0.9677083,), "正的一边 8 个分位数，负的一边 7 个，加上 0，一共 16 个；最后除以最大的"),
        Case("offset = 0.95", (0.95,), "概率从 offset 均匀地走向 0.5，不取 0.5 本身"),
        Case("offset = 0.99", (0.99,), "两边的步长不同：一边分 8 步，一边分 7 步"),
    ),
    mistakes=(
        Mistake("两边各 8 个", _levels(8, 8), "两边各 8 个再加 0 是 17 个，4 位放不下"),
        Mistake("没有 0", _levels(8, 8, zero=False), "0 要有自己的编码：填充和被剪掉的权重都是 0，必须准确还原"),
        Mistake("正负对调", lambda o: [-x for x in reversed(normal_levels(o))], "多出来的那一个在正的一边：正 8 个，负 7 个"),
        Mistake("没有归一", _levels(7, 8, divide=False), "刻度的范围是 -1 到 1：除以最大的那个"),
        Mistake("取到了 0.5", _with_half, "0.5 的分位数就是 0，两边都取到它就有了两个 0；停在 0.5 之前"),
        Mistake("均匀的刻度", lambda o: [i / 7 for i in range(-7, 0)] + [i / 8 for i in range(9)], "这是均匀的刻度；要用正态分布的分位数 NormalDist().inv_cdf(p)"),
        Mistake("没有排序", lambda o: [-x for x in normal_levels(o)[:0:-1] if x < 0] + normal_levels(o)[:7] + normal_levels(o)[7:], "从小到大排序，编码 0 是 -1，编码 15 是 1"),
        Mistake("直接用概率", lambda o: [-(0.5 - (0.5 - o) * i / 7) for i in range(7)] + [0.0] + [o * i / 8 for i in range(1, 9)], "概率还要换成分位数：NormalDist().inv_cdf(p)"),
    ),
)  # fmt: skip

_NF4 = nf4_levels()


def _scaled(seed: int, *shape: int) -> Tensor:
    values = _weights(seed, *shape)
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
        Case("均匀的刻度", (_scaled(1, 32), torch.linspace(-1, 1, 16)), "刻度由参数 levels 给出，不一定是 NF4"),
        Case("8×16 的矩阵", (_scaled(2, 8, 16), _NF4), "形状与 scaled 相同"),
        Case("略微超出 ±1", (torch.tensor([1.0000001, -1.0000001, 2.0]), _NF4), "超出范围的归到两端的刻度", edge=True),
    ),
    mistakes=(
        Mistake("用刻度当边界", lambda s, v: torch.bucketize(s, v).clamp(max=15).to(torch.uint8), "分界线在相邻两个刻度的正中间，不是刻度本身"),
        Mistake("向下取", lambda s, v: (torch.bucketize(s, v, right=True) - 1).clamp(0, 15).to(torch.uint8), "这是不大于它的刻度；要的是最近的，可能在上面"),
        Mistake("没有绝对值", lambda s, v: (s.unsqueeze(-1) - v).argmin(-1).to(torch.uint8), "距离要取绝对值，否则总是最大的刻度赢"),
        Mistake("最远的", lambda s, v: (s.unsqueeze(-1) - v).abs().argmax(-1).to(torch.uint8), "argmax 找的是最远的刻度；最近用 argmin"),
        Mistake("当作均匀", lambda s, v: ((s + 1) * 7.5).round().clamp(0, 15).to(torch.uint8), "NF4 的刻度不均匀，不能用一次乘法算出序号"),
        Mistake("返回刻度", lambda s, v: v[nearest_codes(s, v).int()], "要的是序号（编码），不是刻度的值"),
        Mistake("返回 int64", lambda s, v: nearest_codes(s, v).long(), "编码存成 uint8：.to(torch.uint8)，int64 每个要 8 字节"),
        Mistake("从 1 数", lambda s, v: nearest_codes(s, v) + 1, "序号从 0 数起"),
    ),
)  # fmt: skip


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
        Case("[1, 2, 15, 0]", (torch.tensor([1, 2, 15, 0], dtype=torch.uint8),), "0x12 和 0xF0，也就是 18 和 240"),
        Case("64 个编码", (_codes(1, 64),), "第一个在高 4 位，第二个在低 4 位，依次两两一组"),
        Case("全是 15", (torch.full((6,), 15, dtype=torch.uint8),), "每个字节都是 0xFF = 255"),
        Case("7 个编码", (_codes(2, 7),), "个数是奇数时，最后补一个 7（NF4 里 0 的编码）", edge=True),
    ),
    mistakes=(
        Mistake("高低反了", lambda c: (_even(c)[1::2] << 4) | _even(c)[0::2], "bitsandbytes 的顺序：第一个编码放在高 4 位"),
        Mistake("前半配后半", _halves, "相邻的两个放进一个字节，不是前一半配后一半"),
        Mistake("没有移位", lambda c: _even(c)[0::2] | _even(c)[1::2], "先把第一个左移 4 位 (<< 4)，再与第二个合起来"),
        Mistake("移 3 位", lambda c: (_even(c)[0::2] << 3) | _even(c)[1::2], "每个编码占 4 位，要左移 4 位"),
        Mistake("乘 10", lambda c: _even(c)[0::2] * 10 + _even(c)[1::2], "十六进制里一位是 16，不是 10"),
        Mistake("补 0", lambda c: (_even(c, 0)[0::2] << 4) | _even(c, 0)[1::2], "编码 0 代表 -1，不是 0；补的应是 0 的编码 7"),
        Mistake("奇数出错", lambda c: (c[0::2] << 4) | c[1::2], "个数是奇数时两半不一样长，先补一个"),
        Mistake("丢了最后一个", lambda c: pack(c[: len(c) // 2 * 2]), "个数是奇数时不能丢掉最后一个编码"),
        Mistake("返回 int64", lambda c: pack(c).long(), "结果要是 uint8，一个字节一个；int64 反而更大"),
    ),
)  # fmt: skip


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
        Case("32 个字节", (pack(_codes(3, 64)), 64), "高 4 位用 >> 4，低 4 位用 & 15，交错放回"),
        Case("只有 1 个字节", (torch.tensor([0x9C], dtype=torch.uint8), 2), "一个字节里有两个编码"),
        Case("7 个编码", (pack(_codes(2, 7)), 7), "最后一个字节里只有一个编码是真的，只返回前 count 个", edge=True),
    ),
    mistakes=(
        Mistake("低的在前", lambda p, n: _cut(p & 15, p >> 4, n), "高 4 位 (>> 4) 是第一个编码"),
        Mistake("没有交错", lambda p, n: torch.cat([p >> 4, p & 15])[:n], "两半要交错：高、低、高、低……，torch.stack(…, 1).view(-1)"),
        Mistake("没有截到 count", lambda p, n: _cut(p >> 4, p & 15, None), "填充的那个编码不要返回：[:count]"),
        Mistake("高位没有移", lambda p, n: _cut(p & 0xF0, p & 15, n), "& 0xF0 之后还要右移 4 位，才是 0 到 15"),
        Mistake("掩码错", lambda p, n: _cut(p >> 4, p & 7, n), "4 位的掩码是 15（二进制 1111），7 只有 3 位"),
        Mistake("除以 10", lambda p, n: _cut(p // 10, p % 10, n), "一个十六进制位是 16：用 // 16 和 % 16，或移位和掩码"),
        Mistake("移 3 位", lambda p, n: _cut((p >> 3) & 15, p & 15, n), "每个编码占 4 位，要右移 4 位"),
    ),
)  # fmt: skip


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
        Mistake("第二级没有摊", lambda b, d: 4 + (8 / b + 32 / 256 if d else 32 / b), "第二级的 32 位由 256 个块分摊，每块又有 block_size 个权重"),
        Mistake("忘了第二级", lambda b, d: 4 + (8 if d else 32) / b, "8 位的 absmax 自己也要缩放：每 256 个一个 32 位的数"),
        Mistake("absmax 用 16 位", lambda b, d: 4 + (8 / b + 16 / (256 * b) if d else 16 / b), "bitsandbytes 的 absmax 是 32 位的 (float32)"),
        Mistake("单位是字节", lambda b, d: bits_per_parameter(b, d) / 8, "要的是位 (bit)，不用除以 8"),
        Mistake("除以 256", lambda b, d: 4 + (8 / b + 32 / 256 / 256 if d else 32 / b), "第二级管 256 块，每块 block_size 个权重，不总是 256"),
    ),
    tolerance=1e-9,
)  # fmt: skip


def _changed(**change):
    """The right parts with some of them worked out otherwise: name -> function of the right parts and arguments."""

    def answer(parameters, weight_bits, adapters):
        right = training_parts(parameters, weight_bits, adapters)
        return right | {name: how(right, parameters, weight_bits, adapters) for name, how in change.items()}

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
        Case("7B 全参，16 位", (7_000_000_000, 16, 0), "全参数训练：权重、梯度各 2 字节，AdamW 再加两份 2 字节"),
        Case("7B LoRA，适配器 20 M", (7_000_000_000, 16, 20_000_000), "只有适配器有梯度和优化器状态，而且是 4 字节的 float32"),
        Case("7B QLoRA，每个权重 4.127 位", (7_000_000_000, 4.127, 20_000_000), "权重的位数可以不是整数；8 位是 1 字节"),
        Case("小模型全参", (6_240_256, 16, 0), "adapters 为 0 时，所有的权重都训练"),
    ),
    mistakes=(
        Mistake("一份动量", _changed(optimizer=lambda r, *_: r["gradients"]), "AdamW 每个参数记两个数：一阶矩和二阶矩"),
        Mistake("梯度给所有权重", _changed(gradients=lambda r, p, b, a: 2 * p / 1e9), "冻结的权重没有梯度；只有训练的那些才有"),
        Mistake("优化器给所有权重", _changed(optimizer=lambda r, p, b, a: 4 * p / 1e9), "冻结的权重不更新，优化器不为它们记任何东西"),
        Mistake("位当字节", _changed(weights=lambda r, p, b, a: p * b / 1e9), "weight_bits 是位 (bit)，先除以 8"),
        Mistake("GiB", lambda p, b, a: {k: v * 1e9 / 2**30 for k, v in training_parts(p, b, a).items()}, "这里的 GB 是 10**9 字节；除以 2**30 得到的是 GiB"),
        Mistake("适配器 16 位", _changed(adapters=lambda r, p, b, a: 2 * a / 1e9), "peft 里的适配器是 float32，每个 4 字节"),
        Mistake("忘了适配器", _changed(adapters=lambda r, *_: 0.0), "适配器自己也是要放进显存的权重"),
        Mistake("训练的也按 4 位", _changed(gradients=lambda r, p, b, a: (a or p) * b / 8 / 1e9), "梯度不量化：它的大小由训练的参数决定，与底座存成几位无关"),
        Mistake("总和", lambda p, b, a: sum(training_parts(p, b, a).values()), "返回四个部分的字典，不是总和"),
    ),
)  # fmt: skip
