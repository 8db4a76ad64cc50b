"""The labs of the course, read from `manifest.toml`, which instructors edit."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lab_utils.errors import InvalidValue, nearest

MANIFEST = Path(__file__).with_name("manifest.toml")
PROFILES = ("cpu", "gpu")
LANGUAGES = ("zh", "en")
DIFFICULTIES = ("入门", "进阶", "挑战")


class ManifestError(InvalidValue):
    """A manifest that the course can't be read from; `where` names the file and the lab."""


@dataclass(frozen=True)
class Lab:
    """One lab. `title` and `goals` are Chinese; `summary` says in one line what it teaches (zh, en)."""

    number: str
    slug: str
    title: str
    title_en: str
    summary: dict[str, str]
    goals: tuple[str, ...]
    minutes: dict[str, int]
    """Minutes of a headless run, by profile."""
    memory_gib: dict[str, float]
    """Peak memory: main memory on `cpu`, GPU memory on `gpu`."""
    difficulty: str
    """One of `DIFFICULTIES`."""
    requires: tuple[str, ...]
    """Numbers of the labs to do first."""
    points: dict[str, int]
    """Exercise name -> points."""

    @property
    def name(self) -> str:
        """Stem of the lab's files, e.g. `05_swift_qlora`."""
        return f"{self.number}_{self.slug}"


def read(path: Path = MANIFEST) -> tuple[Lab, ...]:
    """The labs of the manifest at `path`, in its order.

    Raises ManifestError when the file is missing, isn't TOML, or says something of a lab that can't be.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ManifestError(f"课程清单 (manifest) 读不出来：{error}", "请改好这个文件", str(path)) from error
    entries = tables.pop("labs", None)
    if tables or not isinstance(entries, list) or not entries:
        raise ManifestError("课程清单 (manifest) 里只能有 [[labs]]，至少一个", "请改好这个文件", str(path))
    labs: list[Lab] = []
    for place, entry in enumerate(entries, 1):
        where = (
            f"{path}，第 {place} 个实验 {entry.get('number', '') if isinstance(entry, dict) else ''}".rstrip()
        )
        labs.append(_lab(entry, [known.number for known in labs], where))
    return tuple(labs)


def lab(number_or_name: str) -> Lab:
    """The lab with this number ("05"), slug or name ("05_swift_qlora").

    Raises InvalidValue, listing the labs, when there is none.
    """
    wanted = str(number_or_name)
    for entry in LABS:
        if wanted in (entry.number, entry.slug, entry.name):
            return entry
    hint = nearest(wanted, [text for entry in LABS for text in (entry.slug, entry.name)])
    raise InvalidValue(
        f"没有编号或名字是 {wanted!r} 的实验 (lab)", f"{hint}现有：{'、'.join(entry.name for entry in LABS)}"
    )


def _lab(entry: Any, earlier: list[str], where: str) -> Lab:
    """The lab that a table of the manifest describes; `earlier`: the numbers that stand before it."""

    def require(fine: bool, what: str) -> None:
        if not fine:
            raise ManifestError(what, "请改好这一项", where)

    require(isinstance(entry, dict), "[[labs]] 里应该是一个表 (table)")
    known = {field.name for field in fields(Lab)}
    for key in sorted(entry.keys() - known):
        require(False, f"不认识 {key!r}。{nearest(key, known)}")
    if missing := sorted(known - entry.keys()):
        require(False, f"没有写 {'、'.join(missing)}")
    for key in ("number", "slug", "title", "title_en", "difficulty"):
        require(_is_text(entry[key]), f"{key} 应该是非空的字符串 (string)，却是 {entry[key]!r}")
    for key in ("goals", "requires"):
        fine = isinstance(entry[key], list) and all(map(_is_text, entry[key]))
        require(fine, f"{key} 应该是字符串的数组 (array)，却是 {entry[key]!r}")
    for key, keys, kinds in (
        ("summary", LANGUAGES, str),
        ("minutes", PROFILES, int),
        ("memory_gib", PROFILES, (int, float)),
    ):
        fine = _is_table(entry[key], kinds) and set(entry[key]) == set(keys)
        require(fine, f"{key} 应该正好写明 {' 和 '.join(keys)}，却是 {entry[key]!r}")
    fine = _is_table(entry["points"], int) and all(n > 0 for n in entry["points"].values())
    require(fine, f"points 应该是 练习 = 正整数，却是 {entry['points']!r}")
    require(
        entry["difficulty"] in DIFFICULTIES,
        f"difficulty 只能是 {'、'.join(DIFFICULTIES)}，却是 {entry['difficulty']!r}",
    )
    require(not earlier or entry["number"] > earlier[-1], f"编号 {entry['number']!r} 应该排在前一个实验之后")
    for number in entry["requires"]:
        require(number in earlier, f"requires 里的 {number!r} 不是排在前面的实验")
    return Lab(**(entry | {key: tuple(entry[key]) for key in ("goals", "requires")}))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_table(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """Whether `value` is a table, not empty, of values of these types; true and false are no numbers."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(item, kinds) and not isinstance(item, bool) for item in value.values())
    )


LABS: tuple[Lab, ...] = read()
