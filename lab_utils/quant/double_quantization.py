"""Double quantization: the scales of the blocks quantized too, to 8 bits in blocks of 256 (QLoRA, §3).

Codes and scales equal those of bitsandbytes 0.50.2 on the CPU, bit for bit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lab_utils.errors import InvalidValue
from lab_utils.quant.inputs import require_finite_weights, require_floats

SCALE_BLOCK_SIZE = 256
"""Scales that share one second scale in double quantization (QLoRA, §3)."""
_GRID = 2**16
"""Points to which bitsandbytes' 8-bit CPU kernel rounds before it looks up the nearest level."""


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
    require_floats(absmax, (torch.float32,))
    if absmax.dim() != 1:
        raise InvalidValue(f"absmax 应是一维的，每块一个数；收到形状 (shape) {tuple(absmax.shape)}")
    offset = absmax.mean()
    levels = dynamic_levels().to(absmax.device)
    midpoints = (levels[:-1] + levels[1:]) / 2
    short = -absmax.numel() % SCALE_BLOCK_SIZE
    centered = torch.nn.functional.pad(absmax - offset, (0, short)).view(-1, SCALE_BLOCK_SIZE)
    scales = centered.abs().amax(1)
    require_finite_weights(absmax, scales)
    scaled = (centered * torch.where(scales > 0, 1 / scales, 0).unsqueeze(1)).clamp(-1, 1)
    point = ((scaled + 1) * 0.5 * (_GRID - 1) + 0.5).int()
    codes = torch.bucketize(-1 + 2 * point.float() / (_GRID - 1), midpoints, out_int32=True).to(torch.uint8)
    codes[scales == 0] = 0
    return QuantizedScales(codes.view(-1)[: absmax.numel()], scales, offset)


def dequantize_scales(quantized: QuantizedScales) -> Tensor:
    """The scales with their rounding error; (n,) float32."""
    scales = quantized.absmax.repeat_interleave(SCALE_BLOCK_SIZE)[: quantized.codes.numel()]
    levels = dynamic_levels().to(scales.device)
    return levels[quantized.codes.int()] * scales + quantized.offset
