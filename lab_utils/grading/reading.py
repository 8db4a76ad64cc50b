"""Read what was handed in without believing it: no link followed, no pipe waited for, no size taken on trust.

A zip is never unpacked. How long its directory says it is, or how large a member, is a claim of its sender; only so
much is read at a time, whatever it says.
"""

import errno
import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from lab_utils.errors import InvalidValue
from lab_utils.grading.notebook_file import MIB, Unreadable
from lab_utils.grading.text import clean, readable

FILE_LIMIT = 300 * MIB
ZIP_LIMIT = 2 * FILE_LIMIT
"""Bytes of a zip, and of all that its directory says is in it."""
DIRECTORY_LIMIT = 2 * MIB
"""Bytes of the directory of a zip; one of 5000 files with long names has 1.5 MiB."""
MEMBER_LIMIT = 5000
DEPTH_LIMIT = 50
"""Folders that a file in a zip may lie in; each is kept with its whole path."""
# No link is followed and no pipe waited for, where the system knows these flags (Windows doesn't).
_READ_ONLY = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
)
_FOLDER = _READ_ONLY | getattr(os, "O_DIRECTORY", 0)
_LINK = "是一个链接 (symlink)，不会被打开"


class Refused(InvalidValue):
    """The files play a trick: a link, a pipe, a path that leads out, a bomb. The message says which, in Chinese."""


@contextmanager
def open_file(root: Path, parts: Sequence[str], limit: int = FILE_LIMIT) -> Iterator[BinaryIO]:
    """The regular file `root`/`parts`, reached through no link below `root`.

    Raises Refused for a link, for what isn't a regular file, and for one of more than `limit` bytes; Unreadable when
    it can't be opened.
    """
    shown = readable(parts[-1])
    try:
        handle = _open(root, parts)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            raise Refused(f"{shown} {_LINK}") from None
        if error.errno == errno.ENOENT:
            raise Unreadable(f"没有文件 {shown}") from None
        raise Unreadable(f"{shown} 读不出来：{error.strerror}") from None
    if handle is None:
        raise Refused(f"{shown} 不是普通文件")
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Refused(f"{shown} 不是普通文件")
        if os.fstat(handle).st_size > limit:
            raise Refused(f"{shown} 太大，超过 {limit / MIB:g} MiB")
        yield file


def _open(root: Path, parts: Sequence[str]) -> int | None:
    """A descriptor of the file; None for a pipe, a device or a socket, which isn't even opened."""
    if os.open not in os.supports_dir_fd:
        path = root.joinpath(*parts)
        if path.is_symlink():
            raise OSError(errno.ELOOP, "link")
        return os.open(path, _READ_ONLY) if path.is_file() else None
    here = os.open(root, _FOLDER & ~getattr(os, "O_NOFOLLOW", 0))
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER, dir_fd=here)
            os.close(here)
            here = inner
        kind = os.stat(parts[-1], dir_fd=here, follow_symlinks=False).st_mode
        if stat.S_ISLNK(kind):
            raise OSError(errno.ELOOP, "link")
        return os.open(parts[-1], _READ_ONLY, dir_fd=here) if stat.S_ISREG(kind) else None
    finally:
        os.close(here)


def read_file(root: Path, parts: Sequence[str], limit: int = FILE_LIMIT) -> bytes:
    """The bytes of a regular file of at most `limit`. Raises what `open_file` raises."""
    with open_file(root, parts, limit) as file:
        return _read(file, limit, readable(parts[-1]))


def _read(file: Any, limit: int, shown: str) -> bytes:
    """All of a file, counted while reading. Raises Refused when it is longer than `limit`."""
    pieces, size = [], 0
    while piece := file.read(MIB):
        size += len(piece)
        if size > limit:
            raise Refused(f"{shown} 太大，超过 {limit / MIB:g} MiB (zip bomb)")
        pieces.append(piece)
    return b"".join(pieces)


# ---------------------------------------------------------------- zips


class _Bounded:
    """A file of which no more than DIRECTORY_LIMIT bytes are read at once, whatever is asked for."""

    def __init__(self, file: BinaryIO, shown: str):
        self._file, self._shown = file, shown
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        wanted = DIRECTORY_LIMIT + 1 if size is None or size < 0 else size
        if size is not None and size > DIRECTORY_LIMIT:
            raise Refused(f"{self._shown} 的目录太大，文件太多，超过 {MEMBER_LIMIT} 个 (zip bomb)")
        return self._file.read(wanted)


@contextmanager
def _opened_zip(root: Path, parts: Sequence[str]) -> Iterator[zipfile.ZipFile]:
    shown = readable(parts[-1])
    with open_file(root, parts, ZIP_LIMIT) as file:
        try:
            archive = zipfile.ZipFile(_Bounded(file, shown))
        except Refused:
            raise
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, MemoryError, OverflowError):
            raise Unreadable(f"{shown} 不是完整的 zip 文件", "请重新压缩，再交") from None
        with archive:
            yield archive


def zip_members(root: Path, parts: Sequence[str]) -> list[tuple[PurePosixPath, int]]:
    """The files in a zip, each with its number in the zip's directory.

    Raises Refused for a zip with links, paths that lead out, or bombs in it, and what `open_file` raises; Unreadable
    for what isn't a zip.
    """
    shown = readable(parts[-1])
    with _opened_zip(root, parts) as archive:
        members = archive.infolist()
    if len(members) > MEMBER_LIMIT:
        raise Refused(f"{shown} 里文件太多，超过 {MEMBER_LIMIT} 个")
    if sum(member.file_size for member in members) > ZIP_LIMIT:
        raise Refused(f"{shown} 解压后太大，超过 {ZIP_LIMIT // MIB} MiB (zip bomb)")
    files = []
    for number, member in enumerate(members):
        inner = PurePosixPath(member_name(member).replace("\\", "/"))
        if inner.is_absolute() or ".." in inner.parts or ":" in inner.parts[:1]:
            raise Refused(f"{shown} 里有通向外面的路径 (path traversal)")
        if len(inner.parts) > DEPTH_LIMIT:
            raise Refused(f"{shown} 里的文件夹套得太深，超过 {DEPTH_LIMIT} 层")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise Refused(f"{shown} 里有链接 (symlink)")
        if inner.parts and not member.filename.endswith("/"):
            files.append((inner, number))
    return files


def member_name(member: zipfile.ZipInfo) -> str:
    """The name, mended when a Chinese Windows wrote it in GBK without saying so."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("gbk")
    except UnicodeError:
        return member.filename


def read_member(root: Path, parts: Sequence[str], number: int, limit: int = FILE_LIMIT) -> bytes:
    """The bytes of a member, at most `limit`. Raises Refused or Unreadable."""
    shown = readable(parts[-1])
    with _opened_zip(root, parts) as archive:
        members = archive.infolist()
        if number >= len(members):
            raise Unreadable(f"{shown} 在读的时候变了")
        member = members[number]
        if member.flag_bits & 1:
            raise Unreadable(f"{shown} 有密码，打不开", "请压缩成没有密码的 zip")
        try:
            with archive.open(member) as file:
                return _read(
                    file, limit, f"{shown} 里的 {clean(PurePosixPath(member_name(member)).name, 60)}"
                )
        except Refused:
            raise
        except AssertionError:  # a fault of this program
            raise
        except Exception:  # what a decompressor makes of hostile bytes: zlib.error, LZMAError, EOFError …
            raise Unreadable(f"{shown} 已损坏，解不开", "请重新压缩，再交") from None
