"""The figures that a lab measures while it runs, kept as JSON when somebody asks for them."""

import json
import math
import os
from pathlib import Path
from typing import Any

from lab_utils.errors import InvalidValue
from lab_utils.files import write_atomic


def record(**figures: Any) -> None:
    """Merge measured figures into the JSON file `$LAB_FIGURES`; does nothing more when it isn't set.

    Values: numbers, strings, booleans, None, lists and dicts of these; numpy scalars and arrays
    are converted. A figure recorded again replaces the earlier one. Raises InvalidValue for NaN,
    infinity, a value JSON can't hold, or a file that isn't a JSON object; the file is then untouched.
    """
    plain = {name: _plain(value, name) for name, value in figures.items()}
    target = os.environ.get("LAB_FIGURES")
    if not target:
        return
    path = Path(target)
    merged = _read(path) | plain
    write_atomic(path, json.dumps(merged, ensure_ascii=False, indent=1, allow_nan=False))


def _read(path: Path) -> dict[str, Any]:
    """The figures recorded so far; empty when the file doesn't exist. InvalidValue when it isn't a JSON object."""
    if not path.exists():
        return {}
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidValue(f"不是完整的 JSON（{error}）", "请删掉它再运行", str(path)) from error
    if not isinstance(figures, dict):
        raise InvalidValue(
            f"里面应该是一个 JSON 对象 (object)，却是 {type(figures).__name__}", "请删掉它再运行", str(path)
        )
    return figures


def _plain(value: Any, where: str) -> Any:
    """`value` as plain JSON data; InvalidValue naming `where` when it can't be."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidValue(
                f"{where} 是 {value}，JSON 不能存 NaN 或无穷大", "请先找出它是怎么算出来的", "record"
            )
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise InvalidValue(
                    f"{where} 的键 {key!r} 不是字符串 (str)，JSON 存不了", "请先转换：str(键)", "record"
                )
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise InvalidValue(
        f"{where} 的类型是 {type(value).__name__}，JSON 存不了", "请先变成数、字符串或它们的列表", "record"
    )
