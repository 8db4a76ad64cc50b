"""Two values compared: what is wrong with the one that a student's function gave, and whether inputs are equal."""

import sys
from collections.abc import Hashable, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np

SHOWN = 120
"""Characters of a value that a message shows."""


def difference(got: Any, want: Any, tolerance: float, texts: Sequence[str] = ()) -> tuple[str, str] | None:
    """What is wrong with `got`, as `(stage, message)`, looked at in the order type, shape, dtype, value.

    `texts`: what a list's items answer to, one an item, to be named in the message. Never raises: what can't be
    compared is wrong.
    """
    try:
        return _difference(got, want, tolerance, texts)
    except Exception as error:  # a student's function may give anything
        return "type", f"返回的值不能和正确的值比较 ({type(error).__name__})"


def shown(value: Any) -> str:
    """`value` as a message shows it, cut to some length."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def value_key(value: Any) -> Hashable:
    """A key that is the same for equal values, whatever holds them: tensor or array, list or tuple."""
    if hasattr(value, "tolist"):
        return tuple(value.shape), value_key(value.tolist())
    if isinstance(value, Mapping):
        return frozenset((key, value_key(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(value_key(item) for item in value)
    return value if value == value else "nan"  # NaN equals nothing, not even itself


def _difference(got: Any, want: Any, tolerance: float, texts: Sequence[str] = ()) -> tuple[str, str] | None:
    for stage, compare in (("type", _type), ("shape", _shape), ("dtype", _dtype)):
        message = compare(got, want)
        if message:
            return stage, message
    return _value(got, want, tolerance, texts)


def _type(got: Any, want: Any) -> str | None:
    if got is None and want is not None:
        return "得到 None：函数没有 return，或者 return 的就是 None"
    if _kind(got) != _kind(want):
        return f"应返回 {_kind(want)}，得到 {type(got).__name__}"
    return None


def _kind(value: Any) -> str:
    """The kinds between which a check does tell: a list may be a tuple, a number any number."""
    if isinstance(value, (bool, np.bool_)):
        return "bool"
    if isinstance(value, (Number, np.number)):
        return "数 (number)"
    if isinstance(value, (str, bytes)):
        return type(value).__name__
    if isinstance(value, Mapping):
        return "dict"
    if isinstance(value, Sequence):
        return "list"
    return type(value).__name__


def _shape(got: Any, want: Any) -> str | None:
    if hasattr(want, "shape"):
        if tuple(got.shape) != tuple(want.shape):
            return f"形状 (shape) 应为 {tuple(want.shape)}，得到 {tuple(got.shape)}"
    elif isinstance(want, Mapping):
        missing, extra = sorted(set(want) - set(got), key=str), sorted(set(got) - set(want), key=str)
        if missing or extra:
            parts = [f"缺少键 (key) {', '.join(map(str, missing))}"] * bool(missing)
            return "；".join(parts + [f"多出键 {', '.join(map(str, extra))}"] * bool(extra))
    elif _kind(want) == "list" and len(got) != len(want):
        return f"长度 (length) 应为 {len(want)}，得到 {len(got)}"
    return None


def _dtype(got: Any, want: Any) -> str | None:
    if hasattr(want, "dtype") and hasattr(got, "dtype") and hasattr(want, "shape") and want.shape:
        return None if got.dtype == want.dtype else f"dtype 应为 {want.dtype}，得到 {got.dtype}"
    return None


def _value(got: Any, want: Any, tolerance: float, texts: Sequence[str]) -> tuple[str, str] | None:
    if isinstance(want, Mapping):
        pairs = [(f"键 {key} 的", got[key], want[key]) for key in want]
    elif _kind(want) == "list":
        labels = [f"第 {i + 1} 个" for i in range(len(want))]
        if len(texts) == len(want):
            labels = [f"{label}（{shown(text)}）的" for label, text in zip(labels, texts, strict=True)]
        pairs = list(zip(labels, got, want, strict=True))
    elif hasattr(want, "shape") and want.shape:
        wrong = ~np.isclose(_array(got), _array(want), rtol=tolerance, atol=tolerance, equal_nan=True)
        if not wrong.any():
            return None
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        return "value", f"有 {int(wrong.sum())} 个值不对，第一个在位置 {place}：得到 {_array(got)[place]:.6g}"
    else:
        return None if _equal(got, want, tolerance) else ("value", f"得到 {shown(got)}，不对")
    for label, one, other in pairs:
        wrong_item = _difference(one, other, tolerance)
        if wrong_item:
            return wrong_item[0], f"{label}值：{wrong_item[1]}"
    return None


def _equal(got: Any, want: Any, tolerance: float) -> bool:
    if isinstance(got, int) and isinstance(want, int) and not tolerance:
        return got == want  # exact, however large
    if _kind(want) == "数 (number)" or hasattr(want, "shape"):
        return bool(np.isclose(_array(got), _array(want), rtol=tolerance, atol=tolerance, equal_nan=True))
    return bool(got == want)


def _array(value: Any) -> np.ndarray:
    if "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor):
        value = value.detach().cpu().double()
    return np.asarray(value, dtype=float)
