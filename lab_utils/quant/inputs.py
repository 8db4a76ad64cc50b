"""What can be quantized, and the messages for what can't: tensors of floats, all finite, in blocks."""

import torch
from torch import Tensor

from lab_utils.errors import InvalidType, InvalidValue

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
TINY = 1e-38
"""Least scale that is divided by; bitsandbytes' guard for blocks of zeros."""


def require_floats(tensor: Tensor, dtypes: tuple[torch.dtype, ...] = FLOATS) -> None:
    """Raise InvalidType or InvalidValue unless `tensor` is a tensor of these dtypes that holds something."""
    if not isinstance(tensor, Tensor):
        raise InvalidType(
            f"要量化的应是张量 (torch.Tensor)，收到 {type(tensor).__name__}", "请先 torch.tensor(…)"
        )
    if tensor.dtype not in dtypes:
        names = "、".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise InvalidType(
            f"量化 (quantization) 的输入应是 {names}，收到 {tensor.dtype}",
            "整数张量 (integer) 没有可量化的小数，别的浮点数请先 .float()",
        )
    if not tensor.numel():
        raise InvalidValue(
            f"要量化的张量是空的 (empty)，形状 {tuple(tensor.shape)}", "请检查它是怎么切出来的"
        )


def require_finite_weights(tensor: Tensor, absmax: Tensor) -> None:
    """Raise InvalidValue, saying how many and where, when the absmax shows that `tensor` isn't finite."""
    if absmax.isfinite().all():
        return
    wrong = ~tensor.isfinite()
    nan, first = int(tensor.isnan().sum()), tuple(wrong.nonzero()[0].tolist())
    raise InvalidValue(
        f"权重里有 {nan} 个 NaN、{int(wrong.sum()) - nan} 个无穷大 (inf)，第一个在位置 {first}",
        "它们会毁掉整块的缩放，所以没有量化；请先查训练是否发散、文件是否读坏，或换掉这些值",
    )


def require_block_size(block_size: int) -> None:
    """Raise InvalidType or InvalidValue unless `block_size` is a power of two from 2 up."""
    if isinstance(block_size, bool) or not isinstance(block_size, int):
        raise InvalidType(f"块大小 (block_size) 应是整数，收到 {block_size!r}", "例如 64")
    if block_size < 2 or block_size & (block_size - 1):
        raise InvalidValue(
            f"块大小 (block_size) 应是 2 的幂，如 64；收到 {block_size}", "bitsandbytes 接受 32、64、…、4096"
        )
