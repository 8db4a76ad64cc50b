"""What a quantization costs and loses: bits for each parameter, and the relative error."""

from torch import Tensor

from lab_utils.errors import InvalidValue
from lab_utils.quant.double_quantization import SCALE_BLOCK_SIZE
from lab_utils.quant.nf4 import BLOCK_SIZE


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
        raise InvalidValue(
            f"形状 (shape) 不同，不能比较：{tuple(original.shape)} 和 {tuple(restored.shape)}", "请先 reshape"
        )
    size = original.double().norm()
    if size == 0:
        raise InvalidValue("原来的张量全是 0，相对误差 (relative error) 没有意义")
    return float((restored.double() - original.double()).norm() / size)
