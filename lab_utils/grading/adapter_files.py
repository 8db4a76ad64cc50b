"""The two files of an adapter folder, read once, without following links and without waiting for pipes."""

import errno
import os
import stat
from pathlib import Path

from lab_utils.errors import InvalidValue

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LIMITS = {CONFIG: 64 * 2**10, WEIGHTS: 16 * 2**20}
"""Bytes that each file may have; a rank-64 adapter of every linear layer in float32 takes 7.5 MB."""


class AdapterFault(InvalidValue):
    """An adapter that can't be judged. The message, Chinese, says what is wrong with it and what to do."""


def read_files(folder: str | Path, within: str | Path | None = None) -> dict[str, bytes]:
    """The bytes of the two files of an adapter folder, read once. Other files in it are not looked at.

    Raises AdapterFault for a missing file, a link, something that isn't a plain file, or one that is too large;
    ValueError when `folder` is not inside `within`.
    """
    directory = _open_folder(Path(folder), Path(within) if within else None)
    try:
        return {name: _read(directory, name, limit) for name, limit in LIMITS.items()}
    finally:
        os.close(directory)


def _open_folder(folder: Path, within: Path | None) -> int:
    """A descriptor of the folder, got at without following a link in it or, given `within`, on the way to it."""
    start = within or folder.parent
    parts = folder.relative_to(start).parts if within else (folder.name,)
    if ".." in parts:
        raise ValueError(f"{folder} 不在 {within} 里")
    here = os.open(start, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in parts:
        try:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        except OSError as error:
            raise AdapterFault(_cannot_open(part, error, "文件夹")) from None
        finally:
            os.close(here)
        here = inner
    return here


def _read(directory: int, name: str, limit: int) -> bytes:
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise AdapterFault(_cannot_open(name, error, "文件")) from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise AdapterFault(f"{name} 不是普通文件 (regular file)")
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(handle)
    if len(data) > limit:
        raise AdapterFault(
            f"{name} 太大，超过 {limit / 2**20:g} MiB：适配器 (adapter) 只有几兆，是不是交了整个模型？"
        )
    return data


def _cannot_open(name: str, error: OSError, kind: str) -> str:
    if error.errno == errno.ENOENT:
        advice = (
            "请交检查点 (checkpoint) 文件夹，权重要存成 safetensors" if kind == "文件" else "请检查交的位置"
        )
        return f"没有{kind} {name}：{advice}"
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return f"{name} 是链接 (symlink) 或不是{kind}：请交真正的{kind}"
    return f"{name} 打不开：{error.strerror}"
