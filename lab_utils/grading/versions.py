"""Which lab a file is a version of, and which of several versions is the newest, by their names alone.

Times of files aren't trusted: a download or a copy changes them. Names are compared by the marks in them, in this
order: marked as old (旧, backup); a date (20261201, 2026-12-01 15.30, 12月1日); a version (v2, 第 3 版, 终版 after
all numbers); a copy ((1), 副本, Copy2). A mark counts as newer than none. Numbers of five and more digits that are no
dates, and those in the student's name, are student numbers. Where the names of files are alike, those of the folders
and zips that they lie in count.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lab_utils import course

_DATES = (
    re.compile(
        r"(?<!\d)(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"
        r"(?:[-_ t]?([01]\d|2[0-3])([0-5]\d)([0-5]\d)?)?(?!\d)"
    ),
    re.compile(
        r"(?<!\d)(20\d\d)[-_.年 ](\d{1,2})[-_.月 ](\d{1,2})日?"
        r"(?:[-_ t]+(\d{1,2})[-_.:时点](\d{2})(?:[-_.:分](\d{2}))?)?(?!\d)"
    ),
    re.compile(r"(?<!\d)()(\d{1,2})月(\d{1,2})[日号]"),
    re.compile(r"(?<!\d)(2\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?!\d)"),
)
_VERSION = re.compile(
    r"(?:(?<![a-z])v(?:er|ersion)?|版本|修订)[ ._-]*(\d{1,4}(?:\.\d{1,3})*)"
    r"|第? *(\d{1,3}|[一二三四五六七八九十]) *[版次稿]"
)
_FINAL = re.compile(r"最终|终版|终稿|定稿|final")
_OLD = re.compile(r"旧|备份|草稿|(?<![a-z])(?:old|backup|bak|draft)(?![a-z])")
_COPY = re.compile(
    r"\((\d{1,4})\)|(?:副本|复制|(?<![a-z])copy)[ _-]*\(?(\d{0,4})\)?|(?<![a-z])(?:new|updated)(?![a-z])|新版|修改"
)
_DIGITS = "零一二三四五六七八九十"
_LAST = (10**6,)
"""The version of a final one: after all numbers."""


@dataclass(frozen=True, order=True)
class Marks:
    """What a name says about its age; a tuple that is empty, or 0, where it says nothing."""

    current: bool = True
    date: tuple[int, ...] = ()
    version: tuple[int, ...] = ()
    final: bool = False
    copy: int = 0


Key = tuple[Marks, Marks, tuple[int, ...]]
"""Marks of a file's name, of the folders' that it lies in, and the long numbers that may tell when nothing else does."""


@dataclass(frozen=True)
class Choice:
    """The versions of a lab, the newest last; `reason` says why it is, and `certain` whether the names tell."""

    order: tuple[int, ...]
    reason: str
    certain: bool


def lab_of(file_name: str, labs: tuple[course.Lab, ...]) -> course.Lab | None:
    """The lab that a file is named after: it holds the whole name, or begins with the number, or holds the slug."""
    stem = file_name.rsplit(".", 1)[0].strip().lower()
    whole = [lab for lab in labs if re.search(rf"(?<!\d){lab.number}[\W_]*{lab.slug}", stem)]
    if len(whole) == 1:
        return whole[0]
    for lab in labs:
        if re.match(rf"{lab.number}(?!\d)", stem):
            return lab
    return next((lab for lab in labs if lab.slug in stem), None)


def choose(names: Sequence[str], lab: course.Lab, student: str = "") -> Choice:
    """Order versions of `lab` by their names, given with the folders that they lie in (`folder/name.ipynb`)."""
    numbers = frozenset(re.findall(r"\d{5,}", student))
    keys = [_key(name, lab, numbers) for name in names]
    order = sorted(range(len(names)), key=lambda i: (*keys[i], names[i]))
    if len(order) < 2:
        return Choice(tuple(order), "只有一份", True)
    newest, *others = (keys[i] for i in reversed(order))
    if newest[:2] == others[0][:2]:
        return Choice(tuple(order), "文件名看不出哪份最新", False)
    differences = [_difference(newest, other) for other in others if newest[:2] != other[:2]]
    return Choice(tuple(order), differences[0][0], all(certain for _, certain in differences))


def _key(name: str, lab: course.Lab, numbers: frozenset[str]) -> Key:
    folders, _, file = unicodedata.normalize("NFKC", name).lower().rpartition("/")
    rest = file.rsplit(".", 1)[0].replace(lab.name, " ").replace(lab.slug, " ")
    rest = re.sub(rf"^\s*{lab.number}(?!\d)", " ", rest)
    long = tuple(int(number[:18]) for number in re.findall(r"\d{5,}", rest) if number not in numbers)
    return marks(rest, numbers), marks(folders.replace(".zip", " "), numbers), long


def marks(text: str, numbers: Iterable[str] = ()) -> Marks:
    """The marks in a name in small letters; `numbers` are student numbers, which are none."""
    for number in numbers:
        text = re.sub(rf"(?<!\d){number}(?!\d)", " ", text)
    dates = []
    for pattern in _DATES:
        for found in pattern.finditer(text):
            year, month, day, *time = [int(group) if group else 0 for group in found.groups()]
            if 1 <= month <= 12 and 1 <= day <= 31:
                dates.append((year + 2000 if 20 <= year < 30 else year, month, day, *(*time, 0, 0, 0)[:3]))
        text = pattern.sub(" ", text)
    versions = [_number(a or b) for a, b in _VERSION.findall(text)]
    text = _VERSION.sub(" ", text)
    copies = [int(a or b or 1) for a, b in _COPY.findall(text)]
    text = _COPY.sub(" ", text)
    final = bool(_FINAL.search(text))
    plain = [(int(number),) for number in re.findall(r"(?<!\d)\d{1,4}(?!\d)", text)]
    version = max(versions, default=()) or (plain[-1] if plain else _LAST if final else ())
    return Marks(not _OLD.search(text), max(dates, default=()), version, final, max(copies, default=0))


def _number(text: str) -> tuple[int, ...]:
    if text in _DIGITS:
        return (_DIGITS.index(text),)
    return tuple(int(part) for part in text.split("."))


def _difference(first: Key, second: Key) -> tuple[str, bool]:
    """By which mark the newest was chosen, and whether the two names can be compared at all."""
    newest, other = (first[0], second[0]) if first[0] != second[0] else (first[1], second[1])
    if newest.current != other.current:
        return "另一份的名字说它是旧的", True
    marks = (
        ("日期", newest.date, other.date),
        ("版本号", newest.version, other.version),
        ("终版", newest.final, other.final),
        ("副本号", newest.copy, other.copy),
    )
    reason = next(f"{name}最新" for name, ours, theirs in marks if ours != theirs)
    shared = [(ours, theirs) for _, ours, theirs in marks if ours and theirs and ours != theirs]
    if shared:
        return reason, shared[0][0] > shared[0][1]  # type: ignore[operator]  # of one kind
    return reason, not any(theirs for _, ours, theirs in marks if not ours)
