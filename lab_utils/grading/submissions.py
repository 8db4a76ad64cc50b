"""The files that a class handed in, walked once: which are whose, and which may be a version of which lab.

Layout: `SUBMISSIONS/STUDENT/NN_name.ipynb`, or `SUBMISSIONS/STUDENT.zip`, or a zip in a student's folder. Zips are
never extracted, links never followed. Nothing is read here but the directories of zips; `Entry.read` does it later.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from lab_utils import course
from lab_utils.errors import LabError, NotFound
from lab_utils.grading import reading, versions
from lab_utils.grading.notebook_file import Unreadable
from lab_utils.grading.reading import FILE_LIMIT, MEMBER_LIMIT, Refused
from lab_utils.grading.row import MISSING, REFUSED, UNREADABLE
from lab_utils.grading.text import clean, readable, some, unique_names

_SYSTEM = {
    "__MACOSX", ".ipynb_checkpoints", ".DS_Store", ".git", ".gitignore", ".svn", ".Trash", ".Trashes",
    "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information", "lost+found",
}  # fmt: skip
"""Names that systems leave behind; nobody hands in anything under them."""
_OTHER_ARCHIVES = {".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz"}
_RENAMED = re.compile(r"\.ipynb[^/]*$", re.IGNORECASE)
FILE, FOLDER, LINK, SPECIAL = "file", "folder", "link", "special"
ENTRY_LIMIT = 4 * MEMBER_LIMIT
"""Files and folders of one student that are looked at, those in all zips together."""


@dataclass(frozen=True)
class Entry:
    """A file or folder that was handed in: `parts` lie below `root`, and `inner` in that zip when there is one."""

    root: Path = field(repr=False)
    parts: tuple[str, ...]
    kind: str = FILE
    inner: PurePosixPath | None = None
    number: int = -1
    """Of a member in the directory of its zip."""

    @property
    def name(self) -> str:
        """The last part of its path, as the file system or the zip has it."""
        return self.inner.name if self.inner is not None else self.parts[-1]

    @property
    def shown(self) -> str:
        """Its path as the student knows it."""
        parts = [*(self.parts[1:] or self.parts), *(self.inner.parts if self.inner is not None else ())]
        return clean("/".join(readable(part) for part in parts))

    def read(self, limit: int = FILE_LIMIT) -> bytes:
        """The bytes of the file. Raises Refused or Unreadable."""
        if self.inner is not None:
            return reading.read_member(self.root, self.parts, self.number, limit)
        return reading.read_file(self.root, self.parts, limit)


@dataclass(frozen=True)
class Problem:
    """Something that could not be looked into, or is no notebook, and why; `lab` is empty where nobody can tell."""

    status: str
    reason: str
    lab: str = ""

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Student:
    """One student's files: per lab the notebooks, the newest last; and what was odd."""

    name: str
    entries: tuple[Entry, ...]
    choices: Mapping[str, versions.Choice]
    versions: Mapping[str, tuple[Entry, ...]]
    problems: tuple[Problem, ...]

    def problems_of(self, lab: str) -> list[Problem]:
        """What may be the reason that there is no notebook of this lab, or no newer one; the likeliest first."""
        near = [p for p in self.problems if p.lab in (lab, "")]
        return sorted(near, key=lambda p: (p.status == MISSING, p.lab != lab))


@dataclass(frozen=True)
class Submissions:
    """All that lies in a folder of submissions; `ignored` are names that systems leave there."""

    root: Path
    students: tuple[Student, ...]
    ignored: tuple[str, ...] = ()

    @cached_property
    def by_name(self) -> dict[str, Student]:
        return {student.name: student for student in self.students}


def walk(root: Path, labs: tuple[course.Lab, ...] = course.LABS) -> Submissions:
    """Every student under `root`, by name. Raises NotFound when there is no such folder."""
    if not root.is_dir():
        raise NotFound(f"找不到作业文件夹 (submissions)：{root}")
    root = root.resolve()
    places: dict[str, list[str]] = {}
    ignored = []
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        name = entry.name
        if (
            name in _SYSTEM
            or name.startswith("._")
            or (name.startswith(".") and not _may_be_a_student(entry))
        ):
            ignored.append(readable(name))
            continue
        whole = entry.is_symlink() or entry.is_dir(follow_symlinks=False)
        places.setdefault(name if whole else Path(name).stem, []).append(name)
    shown = unique_names(places)
    found = [look(shown[raw], root, names, labs) for raw, names in places.items()]
    return Submissions(root, tuple(sorted(found, key=lambda student: student.name)), tuple(ignored))


def _may_be_a_student(entry: os.DirEntry) -> bool:
    """Whether something whose name begins with a dot may have been handed in all the same."""
    return not entry.is_file(follow_symlinks=False) or entry.name.lower().endswith((".ipynb", ".zip"))


def look(
    student: str, root: Path, names: Sequence[str], labs: tuple[course.Lab, ...] = course.LABS
) -> Student:
    """What is in the files, zips and folders `names` of `root`; a faulty one is a problem of the student, not raised."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    for name in names:
        try:
            for entry in _entries(root, (name,)):
                entries += _with_members(entry, labs, problems)
                if len(entries) > ENTRY_LIMIT:
                    raise Refused(f"文件太多，超过 {ENTRY_LIMIT} 个；后面的没有看")
        except (Refused, Unreadable) as problem:
            problems.append(_problem(problem))
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        lab = _notebook_of(entry, labs, problems)
        if lab:
            found.setdefault(lab.number, []).append(entry)
    problems += _no_notebooks(entries, labs)
    choices = {
        number: versions.choose([entry.shown for entry in own], course.lab(number), student)
        for number, own in found.items()
    }
    ordered = {number: tuple(own[i] for i in choices[number].order) for number, own in found.items()}
    return Student(student, tuple(entries), choices, ordered, tuple(problems))


def _problem(error: LabError, lab: str = "") -> Problem:
    return Problem(REFUSED if isinstance(error, Refused) else UNREADABLE, clean(error), lab)


# ---------------------------------------------------------------- the walk


def _entries(root: Path, parts: tuple[str, ...]) -> Iterator[Entry]:
    """A file, or a folder and all below it, in order. Raises Refused when it is too much."""
    path = root.joinpath(*parts)
    try:
        kind = _kind(path.lstat().st_mode)
    except OSError as error:
        raise Unreadable(f"{readable(parts[-1])} 读不出来：{error.strerror}") from None
    waiting = [Entry(root, parts, kind)]
    seen = 0
    while waiting:
        entry = waiting.pop()
        yield entry
        if entry.kind != FOLDER:
            continue
        inside = _listed(root, entry)
        seen += len(inside)
        if seen > MEMBER_LIMIT:
            raise Refused(f"文件太多，超过 {MEMBER_LIMIT} 个")
        waiting += reversed(inside)


def _listed(root: Path, folder: Entry) -> list[Entry]:
    """What lies in a folder, by name; hidden things and what systems leave there aren't looked at."""
    found = []
    try:
        with os.scandir(root.joinpath(*folder.parts)) as entries:
            for entry in entries:
                if not (entry.name.startswith(".") or entry.name in _SYSTEM):
                    kind = _kind(entry.stat(follow_symlinks=False).st_mode)
                    found.append(Entry(root, (*folder.parts, entry.name), kind))
                if len(found) > MEMBER_LIMIT:
                    break
    except OSError as error:
        raise Unreadable(f"文件夹 {folder.shown} 读不出来：{error.strerror}") from None
    return sorted(found, key=lambda entry: entry.name)


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return LINK
    return FOLDER if stat.S_ISDIR(mode) else FILE if stat.S_ISREG(mode) else SPECIAL


def _with_members(entry: Entry, labs: tuple[course.Lab, ...], problems: list[Problem]) -> list[Entry]:
    """The entry, and what is in it when it is a zip."""
    lab = versions.lab_of(entry.name, labs)
    number = lab.number if lab else ""
    if entry.kind == LINK:
        problems.append(Problem(REFUSED, f"{entry.shown} 是一个链接 (symlink)，不会被打开", number))
    elif entry.kind == SPECIAL:
        problems.append(
            Problem(REFUSED, f"{entry.shown} 不是普通文件 (FIFO、设备或套接字)，不会被打开", number)
        )
    elif entry.kind == FILE and entry.name.lower().endswith(".zip"):
        try:
            return [entry, *_members(entry)]
        except (Refused, Unreadable) as problem:
            problems.append(_problem(problem, number))
    return [entry]


def _members(entry: Entry) -> list[Entry]:
    """The files in a zip, and the folders that they lie in."""
    files = [
        Entry(entry.root, entry.parts, FILE, inner, number)
        for inner, number in reading.zip_members(entry.root, entry.parts)
        if not any(part.startswith(".") or part in _SYSTEM for part in inner.parts)
    ]
    folders = {folder for file in files if file.inner is not None for folder in file.inner.parents}
    return [*files, *(Entry(entry.root, entry.parts, FOLDER, folder) for folder in sorted(folders))]


# ---------------------------------------------------------------- what the files are


def _notebook_of(entry: Entry, labs: tuple[course.Lab, ...], problems: list[Problem]) -> course.Lab | None:
    """The lab that a file is a version of; a problem when it looks like a notebook and can't be one."""
    if entry.kind != FILE:
        return None
    name = entry.name.lower().strip()
    lab = versions.lab_of(name, labs)
    number = lab.number if lab else ""
    suffix = PurePosixPath(name).suffix
    text = ""
    if suffix == ".ipynb":
        if lab:
            return lab
        text = f"{entry.shown} 的名字里看不出是哪个实验 (lab)，应形如 05_swift_qlora.ipynb"
    elif suffix == ".zip" and entry.inner is not None:
        text = f"{entry.shown}：压缩包里面还有压缩包；请直接压缩笔记本 (.ipynb)"
    elif suffix in _OTHER_ARCHIVES:
        text = f"{entry.shown} 是 {suffix} 压缩包，请改用 zip 或文件夹"
    elif _RENAMED.search(name):
        text = f"{entry.shown} 的扩展名不对，要以 .ipynb 结尾；请改名后再交"
    if text:
        problems.append(Problem(UNREADABLE, text, number))
    return None


def _no_notebooks(entries: Iterable[Entry], labs: tuple[course.Lab, ...]) -> list[Problem]:
    """What was handed in instead of notebooks (.py, .html, .pdf …), one problem for each lab that it names."""
    others: dict[str, list[str]] = {}
    for entry in entries:
        suffix = PurePosixPath(entry.name.lower().strip()).suffix
        if entry.kind == FILE and suffix not in {".ipynb", ".zip", *_OTHER_ARCHIVES}:
            lab = versions.lab_of(entry.name, labs)
            if not _RENAMED.search(entry.name):
                others.setdefault(lab.number if lab else "", []).append(entry.shown)
    return [
        Problem(MISSING, f"交来的是 {some(names)}，不是笔记本 (.ipynb)", number)
        for number, names in others.items()
    ]
