"""What every function of this package asks of its inputs, and how it says so."""

import math

import torch

from lab_utils.errors import InvalidType, InvalidValue

_SHAPES = {0: "()，一个数", 1: "(batch,)，每条序列一个数", 2: "(batch, time)，每个词元一个数"}


def require_tensors(dimensions: int | None, **tensors: torch.Tensor) -> None:
    """Raise unless all are finite tensors of one shape with `dimensions` dimensions: 0, 1, 2
    or, for None, any number.

    InvalidType for what isn't a tensor; InvalidValue for a wrong or differing shape, NaN or inf.
    """
    first = next(iter(tensors))
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise InvalidType(
                f"{name} 应为张量 (torch.Tensor)，收到 {type(tensor).__name__}", "用 torch.tensor(…) 转换"
            )
        if dimensions is not None and tensor.dim() != dimensions:
            raise InvalidValue(
                f"{name} 的形状 (shape) 是 {tuple(tensor.shape)}，应为 {_SHAPES[dimensions]}",
                "看它少了还是多了哪一维",
            )
        if tensor.shape != tensors[first].shape:
            raise InvalidValue(
                f"形状 (shape) 不同：{first} 是 {tuple(tensors[first].shape)}，{name} 是 {tuple(tensor.shape)}",
                "两者应逐个对应",
            )
        require_finite(name, tensor)


def require_finite(name: str, tensor: torch.Tensor) -> None:
    """Raise InvalidValue that names the first place with NaN or inf."""
    wrong = ~torch.isfinite(tensor)
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        raise InvalidValue(
            f"{name} 在位置 {at} 的值是 {tensor[at].item()}，不是有限的数 (NaN 或 inf)",
            "先找出它从哪里来，再算损失",
        )


def require_constant(**tensors: torch.Tensor) -> None:
    """Raise InvalidValue when a gradient would flow into what the loss takes as given."""
    for name, tensor in tensors.items():
        if tensor.requires_grad:
            raise InvalidValue(
                f"{name} 还连着计算图 (requires_grad)：它在这个损失里是常数",
                "请在 torch.no_grad() 里计算，或用 .detach()",
            )


def require_mask(mask: torch.Tensor, values: torch.Tensor, least: int = 1) -> torch.Tensor:
    """`mask` in the dtype of `values`. Raises InvalidValue unless it has the shape of `values`,
    holds only 0 and 1 (or booleans) and keeps at least `least` positions."""
    if mask.shape != values.shape:
        raise InvalidValue(
            f"mask 的形状 (shape) 是 {tuple(mask.shape)}，应与数值的 {tuple(values.shape)} 相同",
            "逐个词元给出 0 或 1",
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise InvalidValue("mask 只能含 0 和 1（或布尔值）", "1 是要计入的词元，0 是提示或填充 (padding)")
    if mask.sum() < least:
        raise InvalidValue(
            f"mask 里只有 {int(mask.sum())} 个 1，至少要有 {least} 个计入的词元", "检查它是怎么来的"
        )
    return mask.to(values.dtype)


def require_positive(**numbers: float) -> None:
    """Raise InvalidValue unless every number is finite and above zero."""
    for name, number in numbers.items():
        if not (math.isfinite(number) and number > 0):
            raise InvalidValue(f"{name} 应大于 0，收到 {number}", "改成大于 0 的有限的数")


def require_between(low: float, high: float, **numbers: float) -> None:
    """Raise InvalidValue unless `low <= number <= high` for every number."""
    for name, number in numbers.items():
        if not low <= number <= high:
            raise InvalidValue(f"{name} 应在 {low} 到 {high} 之间，收到 {number}", "改到这个范围里")
