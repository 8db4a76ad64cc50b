"""From a folder of submissions to the code of each answer. Nothing here runs or imports what a student wrote.

Layout: `SUBMISSIONS/STUDENT/NN_name.ipynb`, or `SUBMISSIONS/STUDENT.zip`, or a zip in a student's folder. Zips are
never extracted. Of several versions of a notebook the one with the largest number in its name counts, after
`NN_name` itself, which counts as 0; a copy without a number (副本, Copy) counts as 1.
"""

import difflib
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lab_utils import course
from lab_utils.authoring.master import BEGIN_STUB

if TYPE_CHECKING:
    from lab_utils.grading.tasks import Exercise, Task

MIB = 2**20
FILE_LIMIT = 300 * MIB
# No link is followed and no pipe waited for, where the system knows these flags (Windows doesn't).
_READ_ONLY = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
)
QUICK_LIMIT = 4 * MIB
"""Up to this size a notebook is read here; a larger one in a process of its own, with limits."""
MEMBER_LIMIT = 5000
CELL_LIMIT, SOURCE_LIMIT, CODE_LIMIT = 3000, 200_000, 1_000_000
_IGNORED = {"__MACOSX", ".ipynb_checkpoints"}
_COPY = re.compile(r"副本|复制|copy|new|final|最终|终版", re.IGNORECASE)
_OTHER_ARCHIVES = {".rar", ".7z", ".tar", ".gz", ".tgz", ".bz2", ".xz"}


class Unreadable(ValueError):
    """No notebook can be read from these bytes. The message says why, in Chinese."""


class Refused(ValueError):
    """The files play a trick: a link, a path that leads out, a bomb. The message says which, in Chinese."""


@dataclass(frozen=True)
class SubmittedCell:
    """A cell as handed in."""

    id: str
    grade_id: str
    kind: str
    source: str


@dataclass(frozen=True)
class Notebook:
    """What is taken of a submitted notebook: its cells' sources, and what was odd about the file."""

    cells: tuple[SubmittedCell, ...]
    notes: tuple[str, ...] = ()


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


# ---------------------------------------------------------------- files


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


# ---------------------------------------------------------------- bytes to cells


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_notebook(data: bytes) -> Notebook:
    """The cells of a notebook file. Raises Unreadable when it isn't one.

    A large file is read in a process with limits, so that no file can take this one down.
    """
    if len(data) <= QUICK_LIMIT:
        return parse(data)
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from lab_utils.grading import collect; collect.read_from_stdin()"],
            input=data, capture_output=True, timeout=120,
        )  # fmt: skip
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        raise Unreadable(
            f"文件有 {len(data) // MIB} MiB，读不动；请清除输出 (clear outputs) 后再交"
        ) from None
    if "problem" in answer:
        raise Unreadable(answer["problem"])
    notes = (*answer["notes"], f"文件有 {len(data) // MIB} MiB，多半是输出；交之前请清除输出 (clear outputs)")
    return Notebook(tuple(SubmittedCell(*cell) for cell in answer["cells"]), notes)


def read_from_stdin() -> None:
    """What the process of `read_notebook` does."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
    try:
        notebook = parse(sys.stdin.buffer.read())
        cells = [[c.id, c.grade_id, c.kind, c.source] for c in notebook.cells]
        answer: dict[str, Any] = {"cells": cells, "notes": notebook.notes}
    except Unreadable as problem:
        answer = {"problem": str(problem)}
    except MemoryError:
        answer = {"problem": "文件太大，读不动；请清除输出 (clear outputs) 后再交"}
    print(json.dumps(answer))


def parse(data: bytes) -> Notebook:
    """The cells of a notebook in UTF-8, UTF-16 or GBK. Raises Unreadable."""
    if not data.strip(b"\0 \t\r\n"):
        raise Unreadable("文件是空的")
    text, notes = _text(data)
    try:
        nb = json.loads(text)
    except RecursionError:
        raise Unreadable("JSON 嵌套太深，不是正常的笔记本") from None
    except ValueError as error:
        raise Unreadable(_not_json(text, error)) from None
    raw = nb.get("cells") if isinstance(nb, dict) else None
    if raw is None and isinstance(nb, dict) and isinstance(nb.get("worksheets"), list):
        notes.append("这是旧格式 (nbformat 3) 的笔记本")
        raw = [
            cell for sheet in nb["worksheets"] if isinstance(sheet, dict) for cell in sheet.get("cells") or ()
        ]
    if not isinstance(raw, list):
        raise Unreadable("是 JSON，但不是笔记本 (notebook)：没有 cells")
    if not raw:
        raise Unreadable("笔记本里一个单元 (cell) 也没有")
    if len(raw) > CELL_LIMIT:
        raise Unreadable(f"单元 (cell) 太多，超过 {CELL_LIMIT} 个")
    cells = [cell for cell in (_cell(entry, notes) for entry in raw) if cell is not None]
    if sum(len(cell.source) for cell in cells if cell.kind == "code") > CODE_LIMIT:
        raise Unreadable(f"代码太长，超过 {CODE_LIMIT:,} 个字符")
    return Notebook(tuple(cells), tuple(dict.fromkeys(notes)))


def _text(data: bytes) -> tuple[str, list[str]]:
    """The decoded text, and a note when it isn't plain UTF-8."""
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    for mark, encoding in marks.items():
        if data.startswith(mark):
            return data.decode(encoding, "replace"), [f"文件的编码是 {encoding}，不是 UTF-8；已按它读"]
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError:
        pass
    for encoding in ("utf-16-le", "utf-16-be") if data.count(b"\0") > len(data) // 4 else ("gb18030",):
        try:
            return data.decode(encoding), [f"文件的编码是 {encoding}，不是 UTF-8；已按它读"]
        except UnicodeDecodeError:
            continue
    raise Unreadable("不是文本文件，编码 (encoding) 认不出来")


def _not_json(text: str, error: ValueError) -> str:
    """What a file that isn't JSON seems to be."""
    start = text.lstrip()[:400]
    if start.startswith("version https://git-lfs"):
        return "这是 Git LFS 的指针文件，不是笔记本本身"
    if start.startswith("<"):
        return "这是网页 (HTML)，不是笔记本；请下载 .ipynb 原文件"
    if start.startswith("PK"):
        return "这是压缩包，改了扩展名；请交 .ipynb 或 .zip"
    if "<<<<<<< " in text:
        return "文件里有 Git 合并冲突的标记 (merge conflict)"
    if start.startswith("{"):
        line = getattr(error, "lineno", 0)
        return f"JSON 不完整或被改坏了（第 {line} 行）；请在 Jupyter 里打开、保存，再交"
    return "不是笔记本：内容不是 JSON"


def _cell(entry: Any, notes: list[str]) -> SubmittedCell | None:
    if not isinstance(entry, dict):
        notes.append("有一个单元 (cell) 不是对象，略过了")
        return None
    source = entry.get("source", entry.get("input", ""))
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    if not isinstance(source, str):
        notes.append("有一个单元 (cell) 的内容不是文字，略过了")
        return None
    if len(source) > SOURCE_LIMIT:
        notes.append(f"有一个单元 (cell) 超过 {SOURCE_LIMIT:,} 个字符，略过了")
        return None
    metadata = entry.get("metadata")
    grader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    grade_id = (
        grader.get("grade_id") if isinstance(grader, dict) and grader.get("solution") is not False else ""
    )
    kind = entry.get("cell_type")
    return SubmittedCell(
        str(entry.get("id", ""))[:100],
        grade_id[:100] if isinstance(grade_id, str) else "",
        kind if kind in ("code", "markdown", "raw") else "raw",
        source.replace("\r\n", "\n").replace("\r", "\n"),
    )


# ---------------------------------------------------------------- cells to answers


@dataclass(frozen=True)
class Answers:
    """The code of a submission, cell by cell, and for each exercise its cell, or None, and what was odd."""

    code: list[str]
    cell: dict[str, int | None]
    notes: list[str]


def pick(task: "Task", notebook: Notebook) -> Answers:
    """Find each exercise's answer: by id, else by the function's name, else by likeness to what was given out."""
    wanted = {exercise.name for exercise in task.exercises}
    notes: list[str] = []
    cells = _joined([cell for cell in notebook.cells if _counts(cell, wanted, notes)], notes)
    chosen = {exercise.name: _find(exercise, cells, notes) for exercise in task.exercises}
    taken = {index for index in chosen.values() if index is not None}
    for exercise in task.exercises:
        if chosen[exercise.name] is None:
            free = [index for index in range(len(cells)) if index not in taken]
            chosen[exercise.name] = found = _likest(exercise.stub, cells, free)
            if found is not None:
                taken.add(found)
                notes.append(f"练习 {exercise.name}：按内容相似找到答案")
    return Answers([cell.source for cell in cells], chosen, notes)


def _counts(cell: SubmittedCell, wanted: set[str], notes: list[str]) -> bool:
    """Whether a cell is code, or was an exercise's code before its type was changed."""
    if cell.kind == "code":
        return True
    name = cell.grade_id if cell.grade_id in wanted else cell.id
    if name in wanted:
        notes.append(f"练习 {name}：单元被改成了 {cell.kind}，仍按代码读")
    return name in wanted


def _joined(cells: list[SubmittedCell], notes: list[str]) -> list[SubmittedCell]:
    """Cells of which the second begins indented are one that was split."""
    joined: list[SubmittedCell] = []
    for cell in cells:
        first = next((line for line in cell.source.split("\n") if line.strip()), "")
        if joined and first.startswith((" ", "\t")) and joined[-1].source.rstrip():
            last = joined[-1]
            joined[-1] = SubmittedCell(
                last.id, last.grade_id, "code", f"{last.source.rstrip()}\n{cell.source}"
            )
            notes.append("有一个单元 (cell) 被拆成了两个，已合起来读")
        else:
            joined.append(cell)
    return joined


def _find(exercise: "Exercise", cells: list[SubmittedCell], notes: list[str]) -> int | None:
    """The cell by its id and by the function's name; an untouched stub only when there is nothing else."""
    name = re.escape(exercise.function)
    defines = re.compile(
        rf"^(?:async\s+)?def\s+{name}\b|^{name}\s*(?::[^=\n]*)?=(?!=)|^class\s+{name}\b", re.MULTILINE
    )
    named = [i for i, cell in enumerate(cells) if defines.search(cell.source)]
    known = [i for i, cell in enumerate(cells) if exercise.name in (cell.grade_id, cell.id)]
    both = [i for i in known if i in named]
    for group, odd in ((both, False), (named, True)):
        written = [i for i in group if not is_stub(cells[i].source)]
        if written:
            if len({cells[i].source for i in written}) > 1:
                notes.append(f"练习 {exercise.name}：有 {len(written)} 份不同的答案，按最后一份评")
            if odd:
                notes.append(f"练习 {exercise.name}：答案不在原来的单元里，按函数名找到")
            return written[-1]
    return next((group[-1] for group in (both, named, known) if group), None)


def is_stub(source: str) -> bool:
    """Whether the stub that was given out still stands in this code."""
    return BEGIN_STUB in source


def _likest(stub: str, cells: list[SubmittedCell], free: list[int]) -> int | None:
    """The cell most like the stub, when it is like it at all."""
    best, found = 0.6, None
    for index in free:
        source = cells[index].source[:2000]
        matcher = difflib.SequenceMatcher(None, stub[:2000].split(), source.split(), autojunk=False)
        if matcher.quick_ratio() > best and matcher.ratio() > best:
            best, found = matcher.ratio(), index
    return found
