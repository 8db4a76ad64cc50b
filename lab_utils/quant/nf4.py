"""NF4: sixteen levels at the quantiles of the normal distribution, one scale a block of weights (QLoRA, §3).

Codes and scales equal those of bitsandbytes 0.50.2 on the CPU, bit for bit.
"""

from dataclasses import dataclass
from functools import cache
from math import prod

import torch
from torch import Tensor

from lab_utils.errors import InvalidValue
from lab_utils.quant.inputs import TINY, require_block_size, require_finite_weights, require_floats
from lab_utils.quant.packing import pack

BLOCK_SIZE = 64
"""Weights that share one scale (QLoRA, Dettmers et al. 2023, §3)."""
NORMAL_OFFSET = 0.9677083
"""Outermost probability of NF4: 1 - (1/32 + 1/30) / 2, to the seven digits bitsandbytes uses."""
_CHUNK = 2**19
"""Weights worked on at a time: intermediate results stay small whatever the size of the tensor."""


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
            raise InvalidValue(
                f"NF4 数据不完整：形状 (shape) {tuple(self.shape)}、每块 {self.block_size} 个，应有 {want[0]} 个字节"
                f"的编码 (codes) 和 {want[1]} 个 absmax，却有 {got[0]} 和 {got[1]}",
                "请重新量化这个张量",
            )

    @property
    def bits_per_parameter(self) -> float:
        """Bits of the stored codes and scales for each weight: 4.5 for whole blocks of 64."""
        return 8 * (self.codes.nbytes + self.absmax.nbytes) / prod(self.shape)


def nf4_levels() -> Tensor:
    """The 16 levels of NF4 from -1 to 1, (16,) float32, equal to bitsandbytes' table.

    Quantiles of the standard normal at evenly spaced probabilities, eight on the positive side and seven on
    the negative, with zero between them, divided by the largest: QLoRA (Dettmers et al. 2023), §3, and the
    values in appendix E. Equation 4 there averages neighboring quantiles; the values, and this, don't.
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
    require_floats(tensor)
    require_block_size(block_size)
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
    require_finite_weights(tensor, scales)
    return QuantizedNF4(torch.cat(codes), scales, tensor.shape, tensor.dtype, block_size)


def _scaled(flat: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """`flat` (n,) float32 with each block divided by its absmax, and the absmax of the blocks.

    As bitsandbytes does it: whole blocks are multiplied by the reciprocal, a shorter last one is divided, and
    its absmax is kept at least 1e-38.
    """
    whole = flat.numel() // block_size * block_size
    blocks, rest = flat[:whole].view(-1, block_size), flat[whole:]
    absmax = blocks.abs().amax(1)
    scaled = (blocks * (1 / absmax.clamp(min=TINY)).unsqueeze(1)).view(-1)
    if rest.numel():
        last = rest.abs().amax().clamp(min=TINY)
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
