"""The files that a class handed in: which are whose, and which may be a version of which lab. Nothing is unpacked.

Layout: `SUBMISSIONS/STUDENT/NN_name.ipynb`, or `SUBMISSIONS/STUDENT.zip`, or a zip in a student's folder. Zips are
never extracted. Of several versions of a notebook the one with the largest number in its name counts, after
`NN_name` itself, which counts as 0; a copy without a number (副本, Copy) counts as 1.
"""

import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lab_utils import course
from lab_utils.grading.notebook_file import MIB, Unreadable

FILE_LIMIT = 300 * MIB
# No link is followed and no pipe waited for, where the system knows these flags (Windows doesn't).
_READ_ONLY = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
)
MEMBER_LIMIT = 5000
_IGNORED = {"__MACOSX", ".ipynb_checkpoints"}
_COPY = re.compile(r"副本|复制|copy|new|final|最终|终版", re.IGNORECASE)
_OTHER_ARCHIVES = {".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz"}


class Refused(ValueError):
    """The files play a trick: a link, a path that leads out, a bomb. The message says which, in Chinese."""


@dataclass(frozen=True)
class Candidate:
    """A file that may be a student's version of a lab. `read` gives its bytes, or raises Refused or Unreadable."""

    lab: str
    name: str
    order: tuple
    read: Callable[[], bytes] = field(repr=False)


@dataclass(frozen=True)
class Student:
    """One student's files: per lab the versions found, the newest last; and what could not be looked into."""

    name: str
    versions: dict[str, list[Candidate]]
    problems: list[Exception]


def students(root: Path, labs: tuple[course.Lab, ...] = course.LABS) -> Iterator[Student]:
    """Every student under `root`, by name. Raises FileNotFoundError when there is no such folder."""
    for name, found in places(root).items():
        yield student(name, found, labs)


def places(root: Path) -> dict[str, list[Path]]:
    """Student -> the folder, zips and files that are theirs, by name. Raises FileNotFoundError without `root`."""
    if not root.is_dir():
        raise FileNotFoundError(f"找不到作业文件夹 (submissions)：{root}")
    found: dict[str, list[Path]] = {}
    for entry in sorted(root.iterdir(), key=lambda path: path.name):
        if ignored(entry.name):
            continue
        name = entry.name if entry.is_symlink() or entry.is_dir() else entry.stem
        found.setdefault(name, []).append(entry)
    return dict(sorted(found.items()))


def ignored(name: str) -> bool:
    """Whether a file or folder of this name is never looked at: hidden, or left there by a system."""
    return name.startswith(".") or name in _IGNORED


def student(name: str, places: list[Path], labs: tuple[course.Lab, ...] = course.LABS) -> Student:
    """What is in `places`, files, zips and folders of the student `name`; a faulty one is a problem, not raised."""
    versions: dict[str, list[Candidate]] = {}
    problems: list[Exception] = []
    for place in places:
        try:
            for candidate in _look_into(place, labs, problems):
                versions.setdefault(candidate.lab, []).append(candidate)
        except (Refused, Unreadable) as problem:
            problems.append(problem)
        except OSError as problem:
            problems.append(
                Unreadable(f"{place.name} 读不出来：{problem.strerror or type(problem).__name__}")
            )
    for found in versions.values():
        found.sort(key=lambda candidate: candidate.order)
    return Student(name, versions, problems)


def _look_into(place: Path, labs: tuple[course.Lab, ...], problems: list[Exception]) -> Iterator[Candidate]:
    """The candidates in a folder, in a zip, or a single file."""
    if place.is_symlink():
        raise Refused(f"{place.name} 是一个链接 (symlink)，不会被打开")
    if not place.is_dir():
        yield from _file(place, place.name, labs, problems)
        return
    seen = 0
    for folder, folders, files in os.walk(place, followlinks=False):
        for sub in list(folders):
            if ignored(sub):
                folders.remove(sub)
            elif Path(folder, sub).is_symlink():
                problems.append(Refused(f"文件夹 {sub} 是一个链接 (symlink)，不会被打开"))
        folders.sort()
        seen += len(files) + len(folders)
        if seen > MEMBER_LIMIT:
            raise Refused(f"文件太多，超过 {MEMBER_LIMIT} 个")
        for file in sorted(files):
            path = Path(folder, file)
            yield from _file(path, str(path.relative_to(place)), labs, problems)


def _file(
    path: Path, shown: str, labs: tuple[course.Lab, ...], problems: list[Exception]
) -> Iterator[Candidate]:
    suffix = path.suffix.lower()
    if path.name.startswith("."):
        return
    if suffix == ".zip":
        try:
            yield from _zip(path, labs)
        except (Refused, Unreadable) as problem:
            problems.append(problem)
    elif suffix in _OTHER_ARCHIVES:
        problems.append(Unreadable(f"{path.name} 是 {suffix} 压缩包，请改用 zip 或文件夹"))
    elif suffix == ".ipynb":
        lab = lab_of(path.name, labs)
        if lab is None:
            problems.append(
                Unreadable(f"{path.name} 的名字里看不出是哪个实验 (lab)，应形如 05_swift_qlora.ipynb")
            )
        else:
            yield Candidate(lab.number, shown, _order(path.name, lab, shown), lambda: _bytes(path))


def _bytes(path: Path) -> bytes:
    """The bytes of a regular file that isn't reached through a link. Raises Refused otherwise, or when too large."""
    try:
        handle = os.open(path, _READ_ONLY)
    except OSError as error:
        if path.is_symlink():
            raise Refused(f"{path.name} 是一个链接 (symlink)，不会被打开") from None
        raise Unreadable(f"{path.name} 读不出来：{error.strerror}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Refused(f"{path.name} 不是普通文件")
    with os.fdopen(handle, "rb") as file:
        data = file.read(FILE_LIMIT + 1)
    if len(data) > FILE_LIMIT:
        raise Refused(f"{path.name} 太大，超过 {FILE_LIMIT // MIB} MiB")
    return data


def zip_members(path: Path) -> list[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """The files in a zip. Raises Refused for a link, or a zip with links, paths that lead out, or bombs in it;
    Unreadable for what isn't a zip."""
    if path.is_symlink():
        raise Refused(f"{path.name} 是一个链接 (symlink)，不会被打开")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        raise Unreadable(f"{path.name} 不是完整的 zip 文件") from None
    if len(members) > MEMBER_LIMIT:
        raise Refused(f"{path.name} 里文件太多，超过 {MEMBER_LIMIT} 个")
    if sum(member.file_size for member in members) > 2 * FILE_LIMIT:
        raise Refused(f"{path.name} 解压后太大，超过 {2 * FILE_LIMIT // MIB} MiB (zip bomb)")
    found = [(PurePosixPath(_member_name(member).replace("\\", "/")), member) for member in members]
    for pure, member in found:
        if pure.is_absolute() or ".." in pure.parts or ":" in pure.parts[:1]:
            raise Refused(f"{path.name} 里有通向外面的路径 (path traversal)")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise Refused(f"{path.name} 里有链接 (symlink)")
    return [
        (pure, member)
        for pure, member in found
        if not (member.is_dir() or _IGNORED & set(pure.parts) or pure.name.startswith("."))
    ]


def _zip(path: Path, labs: tuple[course.Lab, ...]) -> Iterator[Candidate]:
    """The candidates in a zip. Raises what `zip_members` raises."""
    for pure, member in zip_members(path):
        if pure.suffix.lower() != ".ipynb":
            continue
        lab = lab_of(pure.name, labs)
        if lab is not None:
            shown = f"{path.name}/{pure}"
            order = _order(pure.name, lab, shown)
            yield Candidate(lab.number, shown, order, lambda member=member: member_bytes(path, member))


def _member_name(member: zipfile.ZipInfo) -> str:
    """The name, mended when a Chinese Windows wrote it in GBK without saying so."""
    if member.flag_bits & 0x800:
        return member.filename
    try:
        return member.filename.encode("cp437").decode("gbk")
    except UnicodeError:
        return member.filename


def member_bytes(path: Path, member: zipfile.ZipInfo, limit: int = FILE_LIMIT) -> bytes:
    """A member's bytes, at most `limit`, counted while reading, not believed. Raises Refused or Unreadable."""
    if member.flag_bits & 1:
        raise Unreadable(f"{path.name} 有密码，打不开")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            data = file.read(limit + 1)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, OSError, RuntimeError):
        raise Unreadable(f"{path.name} 已损坏，解不开") from None
    if len(data) > limit:
        raise Refused(
            f"{path.name} 里的 {PurePosixPath(member.filename).name} 太大，超过 {limit / MIB:g} MiB (zip bomb)"
        )
    return data


def lab_of(file_name: str, labs: tuple[course.Lab, ...]) -> course.Lab | None:
    """The lab that a file is named after: it begins with the number, or holds the slug."""
    stem = file_name.rsplit(".", 1)[0].strip().lower()
    for lab in labs:
        if re.match(rf"{lab.number}(?!\d)", stem):
            return lab
    return next((lab for lab in labs if lab.slug in stem), None)


def _order(file_name: str, lab: course.Lab, shown: str) -> tuple:
    """What versions are sorted by, the newest last."""
    rest = file_name.rsplit(".", 1)[0].lower().replace(lab.name, "").replace(lab.slug, "")
    rest = re.sub(rf"^{lab.number}(?!\d)", "", rest)
    numbers = re.findall(r"\d+", rest)
    number = int(numbers[-1][:12]) if numbers else int(bool(_COPY.search(rest)))
    return number, len(rest), shown
