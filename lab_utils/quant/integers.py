"""Absmax quantization to evenly spaced integers, int8 and int4 among them: a scale a tensor, a row or a block."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lab_utils.errors import InvalidValue
from lab_utils.quant.inputs import TINY, require_finite_weights, require_floats


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


def quantize_int(tensor: Tensor, bits: int = 8, block: int | str = "tensor") -> QuantizedInt:
    """Absmax quantization to evenly spaced integers: `round(x * (2**(bits-1) - 1) / absmax)`.

    tensor: any shape, float32, bfloat16 or float16. `bits`: 2 to 8; for 8 the codes run from -127 to 127.
    `block`: weights that share a scale: "tensor", "row" (last dimension), or a number; the last block may be
    shorter. A block of zeros gets codes 0. Per row and 8 bits it equals bitsandbytes' `int8_vectorwise_quant`
    (LLM.int8(), Dettmers et al. 2022, §2).

    Raises TypeError for a tensor that isn't float; ValueError for an empty one, NaN or infinity, other
    `bits`, or a block that isn't positive.
    """
    require_floats(tensor)
    if bits not in range(2, 9):
        raise InvalidValue(f"位数 (bits) 应是 2 到 8 的整数，收到 {bits!r}")
    sizes: dict[int | str, int] = {"tensor": tensor.numel(), "row": tensor.shape[-1] if tensor.dim() else 1}
    block_size = sizes.get(block, block)
    if not isinstance(block_size, int) or block_size < 1:
        raise InvalidValue(f"块 (block) 应是 'tensor'、'row' 或正整数，收到 {block!r}")
    flat = tensor.detach().reshape(-1).float()
    short = -flat.numel() % block_size
    blocks = torch.nn.functional.pad(flat, (0, short)).view(-1, block_size)
    absmax = blocks.abs().amax(1)
    require_finite_weights(tensor, absmax)
    step = (2 ** (bits - 1) - 1) / absmax.clamp(min=100 * TINY)  # no overflow in a block of zeros
    codes = (blocks * step.unsqueeze(1)).round().to(torch.int8).view(-1)[: flat.numel()]
    return QuantizedInt(codes, absmax, tensor.shape, tensor.dtype, bits, block_size)


def dequantize_int(quantized: QuantizedInt) -> Tensor:
    """The tensor with its rounding error, in its own shape and dtype."""
    scales = (quantized.absmax / (2 ** (quantized.bits - 1) - 1)).repeat_interleave(quantized.block_size)
    values = quantized.codes.float() * scales[: quantized.codes.numel()]
    return values.view(quantized.shape).to(quantized.dtype)
