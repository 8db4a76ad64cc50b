"""The two files of an adapter folder, read once, without following links and without waiting for pipes."""

from pathlib import Path

from lab_utils.errors import InvalidValue
from lab_utils.grading import reading
from lab_utils.grading.notebook_file import Unreadable
from lab_utils.grading.reading import Refused

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LIMITS = {CONFIG: 64 * 2**10, WEIGHTS: 16 * 2**20}
"""Bytes that each file may have; a rank-64 adapter of every linear layer in float32 takes 7.5 MB."""
_REMEDY = "请交检查点 (checkpoint) 文件夹本身，适配器只有几兆，权重要存成 safetensors"


class AdapterFault(InvalidValue):
    """An adapter that can't be judged. The message, Chinese, says what is wrong with it and what to do."""


def read_files(folder: Path, within: Path | None = None) -> dict[str, bytes]:
    """The bytes of the two files of an adapter folder, read once. Other files in it are not looked at.

    Raises AdapterFault for a missing file, a link in the folder or on the way to it from `within` (default: the folder
    that it lies in), something that isn't a plain file, or one that is too large; ValueError when `folder` is not
    inside `within`.
    """
    root = within or folder.parent
    parts = folder.relative_to(root).parts
    if ".." in parts:
        raise ValueError(f"{folder} 不在 {root} 里")
    try:
        return {name: reading.read_file(root, (*parts, name), limit) for name, limit in LIMITS.items()}
    except (Refused, Unreadable) as problem:
        raise AdapterFault(problem.what, problem.remedy or _REMEDY) from None
