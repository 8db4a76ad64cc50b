"""Plain values as JSON, both ways, and frames on a socket. Nothing that is read here can run code.

A value is a JSON scalar, or an object with one key that names its kind: list, tuple, dict (pairs), int (hex),
float (nan, inf), complex, bytes, numpy, scalar, torch, other (only the name of the type). Arrays travel as base64
of their bytes with dtype and shape.
"""

import base64
import json
import math
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from numbers import Number
from typing import Any, cast

FRAME_LIMIT = 8 * 2**20
"""Bytes of the longest frame."""
VALUES = 200_000
"""Values, those inside others included, of the largest value."""
ODD_KEYS = 1000
"""Dict keys whose hashes a sender can choose, such as tuples and integers above 2**60, in one value."""
OTHERS = 50
"""Type names that one value may bring along."""
DEPTH_LIMIT = 40
TORCH_DTYPES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip
_NUMPY_KINDS = "biufc"
_PLAIN: tuple[Any, ...] = (bool, int, float, complex, str, bytes)


class WireError(ValueError):
    """A value or frame that is too large, too deep or not what this module writes."""


class Other:
    """Stands for a value that isn't plain data; each has a class of its own, named as the value's type was."""


def encode(value: Any) -> Any:
    """`value` as JSON data. Raises WireError when it is nested too deeply or holds too many values.

    Sequences and mappings of any kind become lists and dicts, as the checks don't tell them apart; numbers of other
    kinds become floats, subclasses of plain types the plain type.
    """
    return _Encoder().encode(value, 0)


class _Encoder:
    def __init__(self) -> None:
        self._left = VALUES

    def encode(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if depth > DEPTH_LIMIT:
            raise WireError("嵌套太深 (nested too deeply)")
        if self._left < 0:
            raise WireError(f"值太多 (more than {VALUES} values)")
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if abs(value) < 2**53 else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is complex:
            return {"complex": [repr(value.real), repr(value.imag)]}
        if kind is bytes:
            return {"bytes": base64.b64encode(value).decode()}
        numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return _encode_tensor(value, torch)
        if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
            return _encode_array(value, numpy)
        return self._encode_rest(value, depth)

    def _encode_rest(self, value: Any, depth: int) -> Any:
        for plain in _PLAIN:
            if isinstance(value, plain):
                return self.encode(plain(value), depth + 1)
        if isinstance(value, Mapping):
            pairs = value.items()
            return {"dict": [[self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in pairs]}
        if isinstance(value, Sequence):
            name = "tuple" if isinstance(value, tuple) else "list"
            return {name: [self.encode(item, depth + 1) for item in value]}
        if isinstance(value, Number):
            return self.encode(float(cast(Any, value)), depth + 1)
        return {"other": str(type(value).__name__)[:60]}


def _encode_array(value: Any, numpy: Any) -> Any:
    if value.dtype.kind in "US" and isinstance(value, numpy.generic):
        return encode(value.item())
    if value.dtype.kind not in _NUMPY_KINDS:
        return {"other": type(value).__name__}
    data = numpy.ascontiguousarray(value)
    form = "numpy" if isinstance(value, numpy.ndarray) else "scalar"
    return {
        form: [value.dtype.str, list(value.shape), base64.b64encode(data.tobytes()).decode()],
    }


def _encode_tensor(value: Any, torch: Any) -> Any:
    name = str(value.dtype).removeprefix("torch.")
    if name not in TORCH_DTYPES or value.layout is not torch.strided:
        return {"other": "Tensor"}
    flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return {"torch": [name, list(value.shape), base64.b64encode(data).decode()]}


def decode(data: Any) -> Any:
    """The value of JSON data that `encode` made, in time and memory that are bounded. Raises WireError for anything else."""
    try:
        return _Decoder().decode(data, 0)
    except WireError:
        raise
    except Exception as error:  # whatever odd data does to int(), base64 or numpy, it isn't a value
        raise WireError(f"{type(error).__name__}: {error}"[:200]) from None


class _Decoder:
    def __init__(self) -> None:
        self._left, self._odd_keys = VALUES, ODD_KEYS
        self._names: set[str] = set()

    def decode(self, data: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise WireError(f"值太多 (more than {VALUES} values)")
        if depth > DEPTH_LIMIT + 4:
            raise WireError("嵌套太深 (nested too deeply)")
        if data is None or isinstance(data, (bool, int, float, str)):
            return data
        if not isinstance(data, dict) or len(data) != 1:
            raise WireError("不是一个值 (not a value)")
        ((kind, body),) = data.items()
        if kind in ("list", "tuple"):
            items = [self.decode(item, depth + 1) for item in body]
            return tuple(items) if kind == "tuple" else items
        if kind == "dict":
            return {self._key(key, depth + 1): self.decode(value, depth + 1) for key, value in body}
        if kind == "other":
            return self._other(str(body))
        return _decode_plain(kind, body)

    def _key(self, data: Any, depth: int) -> Any:
        """A key of a dict. Equal hashes make a dict slow; those of texts and small integers can't be made equal."""
        key = self.decode(data, depth)
        if not isinstance(key, (str, bytes)) and not (isinstance(key, int) and abs(key) < 2**60):
            self._odd_keys -= 1
            if self._odd_keys < 0:
                raise WireError(
                    f"这样的键太多 (more than {ODD_KEYS} keys that are not texts or small integers)"
                )
        return key

    def _other(self, name: str) -> Other:
        if len(self._names) >= OTHERS and name not in self._names:
            name = "object"
        self._names.add(name)
        return _other_class(name)()


def _decode_plain(kind: str, body: Any) -> Any:
    if kind == "int" and len(body) < 2000:
        return int(body, 16)
    if kind == "float":
        return float(body)
    if kind == "complex":
        return complex(float(body[0]), float(body[1]))
    if kind == "bytes":
        return base64.b64decode(body, validate=True)
    if kind in ("numpy", "scalar", "torch"):
        return _decode_array(kind, *body)
    raise WireError("不认识的值 (unknown kind)")


@lru_cache(maxsize=4 * OTHERS)
def _other_class(name: str) -> type[Other]:
    """A subclass of `Other` that bears the name, unless that is the name of a type that is plain data."""
    plain = {"bool", "str", "bytes", "dict", "list", "tuple", "Tensor", "ndarray", "NoneType"}
    clean = "".join(c for c in name if c.isidentifier() or c.isdigit())[:60] or "object"
    return type(clean + "_" * (clean in plain), (Other,), {})


def _decode_array(kind: str, dtype: str, shape: list, text: str) -> Any:
    data = base64.b64decode(text, validate=True)
    if len(shape) > 16 or not all(type(n) is int and 0 <= n <= 2**31 for n in shape):
        raise WireError("形状不对 (bad shape)")
    count = math.prod(shape)
    if kind == "torch":
        import torch

        if count * TORCH_DTYPES[dtype] != len(data):
            raise WireError("形状与字节数不合 (shape and bytes disagree)")
        made = torch.frombuffer(bytearray(data), dtype=getattr(torch, dtype)) if count else None
        return torch.empty(shape, dtype=getattr(torch, dtype)) if made is None else made.reshape(shape)
    import numpy

    layout = numpy.dtype(dtype)
    if layout.kind not in _NUMPY_KINDS or count * layout.itemsize != len(data):
        raise WireError("形状与字节数不合 (shape and bytes disagree)")
    array = numpy.frombuffer(data, layout).copy().reshape(shape)
    return array[()] if kind == "scalar" else array


def send(channel: socket.socket, message: dict, until: float | None = None) -> None:
    """Write one frame: four bytes of length, then JSON.

    Raises WireError when it is longer than FRAME_LIMIT, TimeoutError when it isn't written by `until`, a time of
    `time.monotonic`.
    """
    body = json.dumps(message).encode()
    if len(body) > FRAME_LIMIT:
        raise WireError(f"结果太大 (too large): {len(body)} bytes")
    _set_timeout(channel, until)
    channel.sendall(struct.pack(">I", len(body)) + body)


def receive(channel: socket.socket, until: float | None = None) -> dict:
    """Read one frame, all of it by `until`.

    Raises EOFError at the end, WireError for what isn't a frame or holds too many values, TimeoutError when it is late.
    """
    (length,) = struct.unpack(">I", _exactly(channel, 4, until))
    if length > FRAME_LIMIT:
        raise WireError("消息太大 (frame too large)")
    body = _exactly(channel, length, until)
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > 8 * VALUES:  # before any of them takes memory
        raise WireError(f"值太多 (more than {VALUES} values)")
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireError(f"不是 JSON: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise WireError("不是 JSON 对象 (not an object)")
    return message


def _exactly(channel: socket.socket, count: int, until: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        _set_timeout(channel, until)
        part = channel.recv(min(count - len(parts), 2**16))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def _set_timeout(channel: socket.socket, until: float | None) -> None:
    if until is not None:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        channel.settimeout(left)
