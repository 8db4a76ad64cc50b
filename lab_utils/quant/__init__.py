"""Quantization from first principles: weights in few bits, what that costs and what it loses. One module a format.

integers             absmax to evenly spaced integers: int8, int4
nf4                  NF4, the 4-bit format of QLoRA
double_quantization  the scales in 8 bits too
packing              two 4-bit codes a byte
cost                 bits for each parameter, relative error
inputs               what can be quantized
"""

from lab_utils.quant.cost import bits_per_parameter, relative_error
from lab_utils.quant.double_quantization import (
    SCALE_BLOCK_SIZE,
    QuantizedScales,
    dequantize_scales,
    dynamic_levels,
    quantize_scales,
)
from lab_utils.quant.inputs import FLOATS
from lab_utils.quant.integers import QuantizedInt, dequantize_int, quantize_int
from lab_utils.quant.nf4 import (
    BLOCK_SIZE,
    NORMAL_OFFSET,
    QuantizedNF4,
    dequantize_nf4,
    nf4_levels,
    quantize_nf4,
)
from lab_utils.quant.packing import pack, unpack

__all__ = [
    "BLOCK_SIZE",
    "FLOATS",
    "NORMAL_OFFSET",
    "SCALE_BLOCK_SIZE",
    "QuantizedInt",
    "QuantizedNF4",
    "QuantizedScales",
    "bits_per_parameter",
    "dequantize_int",
    "dequantize_nf4",
    "dequantize_scales",
    "dynamic_levels",
    "nf4_levels",
    "pack",
    "quantize_int",
    "quantize_nf4",
    "quantize_scales",
    "relative_error",
    "unpack",
]
