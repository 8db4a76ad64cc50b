"""Quantization from first principles: absmax integers, NF4, and double quantization of the scales.

NF4 and double quantization give the same codes and scales as bitsandbytes 0.50.2 on the CPU, bit for bit.
"""

from dataclasses import dataclass
from functools import cache
from math import prod

import torch
from torch import Tensor

BLOCK_SIZE = 64
"""Weights that share one scale (QLoRA, Dettmers et al. 2023, §3)."""
SCALE_BLOCK_SIZE = 256
"""Scales that share one second scale in double quantization (QLoRA, §3)."""
NORMAL_OFFSET = 0.9677083
"""Outermost probability of NF4: 1 - (1/32 + 1/30) / 2, to the seven digits bitsandbytes uses."""
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_TINY = 1e-38
"""Least scale that is divided by; bitsandbytes' guard for blocks of zeros."""
_CHUNK = 2**19
"""Weights worked on at a time: intermediate results stay small whatever the size of the tensor."""
_GRID = 2**16
"""Points to which bitsandbytes' 8-bit CPU kernel rounds before it looks up the nearest level."""


@dataclass(frozen=True, eq=False)
class QuantizedInt:
    """A tensor as integers: `codes[i] * absmax[i // block_size] / (2**(bits-1) - 1)`.

    codes: (n,) int8, one a byte whatever `bits` is; absmax: (blocks,) float32.
    """

    codes: Tensor
    absmax: Tensor
    shape: torch.Size
    dtype: torch.dtype
    bits: int
    block_size: int

    @property
    def bits_per_parameter(self) -> float:
        """Bits of a code plus the float32 scales' share; an int4 code counts 4, packed or not."""
        return self.bits + 32 * self.absmax.numel() / self.codes.numel()


@dataclass(frozen=True, eq=False)
class QuantizedNF4:
    """A tensor in NF4: two codes a byte, the first in the high half, and one scale a block.

    codes: (ceil(n / 2),) uint8; absmax: (ceil(n / block_size),) float32. `shape` and `dtype` are those of
    the tensor that was quantized. Raises ValueError when the numbers of codes or scales don't fit `shape`.
    """

    codes: Tensor
    absmax: Tensor
    shape: torch.Size
    dtype: torch.dtype
    block_size: int = BLOCK_SIZE

    def __post_init__(self) -> None:
        n = prod(self.shape)
        want = (-(-n // 2), -(-n // self.block_size))
        got = (self.codes.numel(), self.absmax.numel())
        if got != want:
            raise ValueError(
                f"NF4 数据不完整：形状 (shape) {tuple(self.shape)}、每块 {self.block_size} 个，应有 {want[0]} 个字节"
                f"的编码 (codes) 和 {want[1]} 个 absmax，却有 {got[0]} 和 {got[1]}。请重新量化这个张量"
            )

    @property
    def bits_per_parameter(self) -> float:
        """Bits of the stored codes and scales for each weight: 4.5 for whole blocks of 64."""
        return 8 * (self.codes.nbytes + self.absmax.nbytes) / prod(self.shape)


@dataclass(frozen=True, eq=False)
class QuantizedScales:
    """Scales in 8 bits: `levels[codes[i]] * absmax[i // 256] + offset` with the dynamic map's levels.

    codes: (n,) uint8; absmax: (ceil(n / 256),) float32; offset: () float32, the mean of the scales.
    """

    codes: Tensor
    absmax: Tensor
    offset: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes stored, without the fixed table of 256 levels."""
        return self.codes.nbytes + self.absmax.nbytes + self.offset.nbytes


def quantize_int(tensor: Tensor, bits: int = 8, block: int | str = "tensor") -> QuantizedInt:
    """Absmax quantization to evenly spaced integers: `round(x * (2**(bits-1) - 1) / absmax)`.

    tensor: any shape, float32, bfloat16 or float16. `bits`: 2 to 8; for 8 the codes run from -127 to 127.
    `block`: weights that share a scale: "tensor", "row" (last dimension), or a number; the last block may be
    shorter. A block of zeros gets codes 0. Per row and 8 bits it equals bitsandbytes' `int8_vectorwise_quant`
    (LLM.int8(), Dettmers et al. 2022, §2).

    Raises TypeError for a tensor that isn't float; ValueError for an empty one, NaN or infinity, other
    `bits`, or a block that isn't positive.
    """
    _require_floats(tensor)
    if bits not in range(2, 9):
        raise ValueError(f"位数 (bits) 应是 2 到 8 的整数，收到 {bits!r}")
    block_size = {"tensor": tensor.numel(), "row": tensor.shape[-1] if tensor.dim() else 1}.get(block, block)
    if not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block 应是 'tensor'、'row' 或正整数，收到 {block!r}")
    flat = tensor.detach().reshape(-1).float()
    short = -flat.numel() % block_size
    blocks = torch.nn.functional.pad(flat, (0, short)).view(-1, block_size)
    absmax = blocks.abs().amax(1)
    _require_finite(tensor, absmax)
    step = (2 ** (bits - 1) - 1) / absmax.clamp(min=100 * _TINY)  # no overflow in a block of zeros
    codes = (blocks * step.unsqueeze(1)).round().to(torch.int8).view(-1)[: flat.numel()]
    return QuantizedInt(codes, absmax, tensor.shape, tensor.dtype, bits, block_size)


def dequantize_int(quantized: QuantizedInt) -> Tensor:
    """The tensor with its rounding error, in its own shape and dtype."""
    scales = (quantized.absmax / (2 ** (quantized.bits - 1) - 1)).repeat_interleave(quantized.block_size)
    values = quantized.codes.float() * scales[: quantized.codes.numel()]
    return values.view(quantized.shape).to(quantized.dtype)


def nf4_levels() -> Tensor:
    """The 16 levels of NF4 from -1 to 1, (16,) float32, equal to bitsandbytes' table.

    Quantiles of the standard normal at evenly spaced probabilities, eight on the positive side and seven on
    the negative, with zero between them, divided by the largest: QLoRA (Dettmers et al. 2023), §3, and the
    values in appendix E. Equation 4 there averages neighbouring quantiles; the values, and this, don't.
    """
    return _nf4_levels().clone()


@cache
def _nf4_levels() -> Tensor:
    from scipy.stats import norm

    def quantiles(count: int) -> Tensor:
        probabilities = torch.linspace(NORMAL_OFFSET, 0.5, count + 1)[:-1]  # float32, as bitsandbytes has it
        return torch.tensor(norm.ppf(probabilities.numpy().astype("float64")), dtype=torch.float32)

    levels = torch.cat([-quantiles(7), torch.zeros(1), quantiles(8)]).sort().values
    return levels / levels[-1]


def quantize_nf4(tensor: Tensor, block_size: int = BLOCK_SIZE) -> QuantizedNF4:
    """NF4 codes of a tensor, block by block: divide by the block's absmax, take the nearest of 16 levels.

    tensor: any shape, float32, bfloat16 or float16; one that isn't contiguous is read in its logical order.
    Blocks run over the flattened tensor, the last one may be shorter. A value midway between two levels gets
    the lower one; in a block of zeros every code is that of 0. An odd number of weights is filled up with
    the code of 0. Equal to `bitsandbytes.functional.quantize_nf4`, whose block sizes are 32 to 4096.

    Raises TypeError for a tensor that isn't float; ValueError for an empty one, NaN or infinity (how many,
    where), or a block size that isn't a power of two from 2 up.
    """
    _require_floats(tensor)
    _require_block_size(block_size)
    flat = tensor.detach().reshape(-1)
    levels = _nf4_levels().to(flat.device)
    midpoints = (levels[:-1] + levels[1:]) / 2
    codes, absmax = [], []
    for part in flat.split(max(_CHUNK, block_size)):
        scaled, scales = _scaled(part.float(), block_size)
        nearest = torch.bucketize(scaled, midpoints, out_int32=True).to(torch.uint8)
        codes.append(pack(nearest))
        absmax.append(scales)
    scales = torch.cat(absmax)
    _require_finite(tensor, scales)
    return QuantizedNF4(torch.cat(codes), scales, tensor.shape, tensor.dtype, block_size)


def _scaled(flat: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """`flat` (n,) float32 with each block divided by its absmax, and the absmax of the blocks.

    As bitsandbytes does it: whole blocks are multiplied by the reciprocal, a shorter last one is divided, and
    its absmax is kept at least 1e-38.
    """
    whole = flat.numel() // block_size * block_size
    blocks, rest = flat[:whole].view(-1, block_size), flat[whole:]
    absmax = blocks.abs().amax(1)
    scaled = (blocks * (1 / absmax.clamp(min=_TINY)).unsqueeze(1)).view(-1)
    if rest.numel():
        last = rest.abs().amax().clamp(min=_TINY)
        scaled, absmax = torch.cat([scaled, rest / last]), torch.cat([absmax, last.unsqueeze(0)])
    return scaled, absmax


def dequantize_nf4(quantized: QuantizedNF4) -> Tensor:
    """The tensor with its rounding error, in its own shape and dtype: `levels[code] * absmax` of each block.

    The product is taken in float32 and rounded once to the tensor's dtype, as bitsandbytes does.
    """
    levels = _nf4_levels().to(quantized.codes.device)
    byte = torch.arange(256, device=levels.device)
    pairs = torch.stack([levels[byte >> 4], levels[byte & 15]], dim=1)  # what each byte stands for
    words = pairs.view(torch.int64).view(-1)  # both float32 as one word: a copy of 8 bytes for two weights
    n, size = prod(quantized.shape), quantized.block_size
    out = torch.empty(n, dtype=quantized.dtype, device=levels.device)
    chunk = max(_CHUNK, size)
    for start in range(0, n, chunk):
        part = out[start : start + chunk]
        codes = quantized.codes[start // 2 : -(-(start + part.numel()) // 2)]
        values = words.index_select(0, codes.int()).view(torch.float32)[: part.numel()]
        whole = part.numel() // size * size
        scales = quantized.absmax[start // size :]
        blocks = values[:whole].view(-1, size)
        torch.mul(blocks, scales[: len(blocks)].unsqueeze(1), out=part[:whole].view(-1, size))
        if whole < part.numel():
            part[whole:] = values[whole:] * scales[len(blocks)]
    return out.view(quantized.shape)


def pack(codes: Tensor) -> Tensor:
    """Two 4-bit codes a byte, the first in the high half: (n,) uint8 to (ceil(n / 2),) uint8.

    codes: 0 to 15. An odd number of them is filled up with 7, the code of 0 in NF4.
    """
    if codes.numel() % 2:
        codes = torch.cat([codes, codes.new_full((1,), 7)])
    return (codes[0::2] << 4) | codes[1::2]


def unpack(packed: Tensor, count: int) -> Tensor:
    """The first `count` codes out of `packed`: the inverse of `pack`; (count,) uint8.

    Raises ValueError when there are fewer than `count`.
    """
    if not 0 <= count <= 2 * packed.numel():
        raise ValueError(
            f"{packed.numel()} 个字节里有 {2 * packed.numel()} 个编码 (codes)，取不出 {count} 个"
        )
    return torch.stack([packed >> 4, packed & 15], dim=1).view(-1)[:count]


def dynamic_levels() -> Tensor:
    """The 256 levels of the signed 8-bit dynamic map from -0.993 to 1; (256,) float32.

    Seven decades from 1e-7 to 1; the larger the decade, the more levels lie evenly in it: 1, 2, 4, … 64 on
    each side, and 0 and 1 (8-bit Optimizers via Block-wise Quantization, Dettmers et al. 2021, §1.3). Equal to
    bitsandbytes' `create_dynamic_map`.
    """
    levels = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        middles = (10.0 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2)).tolist()
        levels += middles + [-level for level in middles]
    return torch.tensor(sorted(levels))


def quantize_scales(absmax: Tensor) -> QuantizedScales:
    """Double quantization: the scales of the blocks, less their mean, to 8 bits in blocks of 256.

    absmax: (n,) float32. Equal to bitsandbytes with `compress_statistics=True`, whose CPU kernel rounds a
    value to a grid of 65,536 points before it looks up the nearest level; so does this. A block of zeros
    gets code 0 and scale 0 (QLoRA, §3 "Double Quantization").

    Raises TypeError unless it is float32; ValueError for another shape, none at all, NaN or infinity.
    """
    _require_floats(absmax, (torch.float32,))
    if absmax.dim() != 1:
        raise ValueError(f"absmax 应是一维的，每块一个数；收到形状 (shape) {tuple(absmax.shape)}")
    offset = absmax.mean()
    levels = dynamic_levels().to(absmax.device)
    midpoints = (levels[:-1] + levels[1:]) / 2
    short = -absmax.numel() % SCALE_BLOCK_SIZE
    centred = torch.nn.functional.pad(absmax - offset, (0, short)).view(-1, SCALE_BLOCK_SIZE)
    scales = centred.abs().amax(1)
    _require_finite(absmax, scales)
    scaled = (centred * torch.where(scales > 0, 1 / scales, 0).unsqueeze(1)).clamp(-1, 1)
    point = ((scaled + 1) * 0.5 * (_GRID - 1) + 0.5).int()
    codes = torch.bucketize(-1 + 2 * point.float() / (_GRID - 1), midpoints, out_int32=True).to(torch.uint8)
    codes[scales == 0] = 0
    return QuantizedScales(codes.view(-1)[: absmax.numel()], scales, offset)


def dequantize_scales(quantized: QuantizedScales) -> Tensor:
    """The scales with their rounding error; (n,) float32."""
    scales = quantized.absmax.repeat_interleave(SCALE_BLOCK_SIZE)[: quantized.codes.numel()]
    levels = dynamic_levels().to(scales.device)
    return levels[quantized.codes.int()] * scales + quantized.offset


def bits_per_parameter(bits: int = 4, block_size: int = BLOCK_SIZE, double: bool = False) -> float:
    """Bits stored for a weight: its code and its share of the scales (QLoRA, §3).

    One float32 scale a block costs 32 / block_size; in double quantization 8 bits a scale and one float32
    for every 256 of them: 8 / block_size + 32 / (256 * block_size).
    """
    if double:
        return bits + 8 / block_size + 32 / (block_size * SCALE_BLOCK_SIZE)
    return bits + 32 / block_size


def relative_error(original: Tensor, restored: Tensor) -> float:
    """Root mean square of the error over that of the original; 0 for an exact copy.

    Raises ValueError when the shapes differ or the original is all zero.
    """
    if original.shape != restored.shape:
        raise ValueError(
            f"形状 (shape) 不同，不能比较：{tuple(original.shape)} 和 {tuple(restored.shape)}。请先 reshape"
        )
    size = original.double().norm()
    if size == 0:
        raise ValueError("原来的张量全是 0，相对误差 (relative error) 没有意义")
    return float((restored.double() - original.double()).norm() / size)


def linear_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """Name -> weight (out, in) of every `nn.Linear` in `model` but the head that predicts tokens.

    These are the weights that QLoRA quantizes: embedding, norms and head keep their precision.
    """
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.split(".")[-1] != "lm_head"
    }


def _require_floats(tensor: Tensor, dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
    """Raise TypeError or ValueError unless `tensor` is a tensor of these dtypes that holds something."""
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"要量化的应是张量 (torch.Tensor)，收到 {type(tensor).__name__}。请先 torch.tensor(…)"
        )
    if tensor.dtype not in dtypes:
        names = "、".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(
            f"量化 (quantization) 的输入应是 {names}，收到 {tensor.dtype}。"
            "整数张量 (integer) 没有可量化的小数，别的浮点数请先 .float()"
        )
    if not tensor.numel():
        raise ValueError(f"要量化的张量是空的 (empty)，形状 {tuple(tensor.shape)}。请检查它是怎么切出来的")


def _require_finite(tensor: Tensor, absmax: Tensor) -> None:
    """Raise ValueError, saying how many and where, when the absmax shows that `tensor` isn't finite."""
    if absmax.isfinite().all():
        return
    wrong = ~tensor.isfinite()
    nan, first = int(tensor.isnan().sum()), tuple(wrong.nonzero()[0].tolist())
    raise ValueError(
        f"权重里有 {nan} 个 NaN、{int(wrong.sum()) - nan} 个无穷大 (inf)，第一个在位置 {first}。"
        "它们会毁掉整块的缩放，所以没有量化；请先查训练是否发散、文件是否读坏，或换掉这些值"
    )


def _require_block_size(block_size: int) -> None:
    if isinstance(block_size, bool) or not isinstance(block_size, int):
        raise TypeError(f"块大小 (block_size) 应是整数，收到 {block_size!r}")
    if block_size < 2 or block_size & (block_size - 1):
        raise ValueError(
            f"块大小 (block_size) 应是 2 的幂，如 64；收到 {block_size}。bitsandbytes 接受 32、64、…、4096"
        )
