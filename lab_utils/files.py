"""Files and folders are written whole or not at all; a file that grows is read by what is new in it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either its old content or all of the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


class GrowingFile:
    """A file that another process appends to; each look reads only what is new."""

    def __init__(self, path: Path):
        self.path, self.offset = path, 0

    def read_new(self) -> bytes:
        """What was appended since the last look; empty while there is no file. A file that has become shorter
        was begun anew, and is read from its beginning."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self.offset:
                    self.offset = 0
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return b""
        self.offset += len(data)
        return data


@contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """The path at which to make what becomes `file` when the block ends, by whatever program writes it.

    Until then nothing of it can be seen, and a block that raises leaves the old file. Its folder is
    created. Raises FileNotFoundError when the block has made nothing.
    """
    with _workshop(file) as made:
        yield made
        os.replace(made, file)


@contextmanager
def atomic_folder(folder: Path, replace: bool = True) -> Iterator[Path]:
    """The path at which to make what becomes `folder` when the block ends; the block creates it.

    Until then nothing of it can be seen. A folder that is there by then is replaced, or kept when not
    `replace`; it stays as it was when the block raises. What the block leaves beside the path is removed. Raises FileNotFoundError when
    the block has made nothing.
    """
    with _workshop(folder) as made:
        yield made
        if folder.exists() and not replace:
            return
        if folder.exists():
            made.stat()  # nothing made: nothing replaced
            os.replace(folder, made.with_name(f"{made.name}.replaced"))
        os.replace(made, folder)


@contextmanager
def _workshop(target: Path) -> Iterator[Path]:
    """A path with the name of `target` in a hidden folder beside it, which goes when the block ends."""
    target.parent.mkdir(parents=True, exist_ok=True)
    place = tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        yield Path(place, target.name)
    finally:
        shutil.rmtree(place, ignore_errors=True)
