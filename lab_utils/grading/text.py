"""Text that came from a student, made fit for a terminal, a table, a file name or a page."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

MESSAGE_LIMIT = 300
NAME_LIMIT = 80
_IGNORABLE = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0}
_IGNORABLE |= {*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
"""Characters that show nothing although their category is that of a letter or mark."""
_NEWER_HANZI = range(0x20000, 0x3FFFE)
"""Planes of Chinese characters, of which each edition of Unicode assigns more."""
_FORMULA = "=+-@＝＋－＠﹢﹣﹦﹫−"
_PATH = re.compile(r"(?<![\w.:/-])~?(?:/[\w.@+%-]+){2,}/?", re.ASCII)


def visible(character: str) -> bool:
    """Whether a character shows as itself: no control, format or private character, and not half of one."""
    if ord(character) in _IGNORABLE:
        return False
    category = unicodedata.category(character)
    if category == "Cn":
        return ord(character) in _NEWER_HANZI and ord(character) & 0xFFFE != 0xFFFE
    return category not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def plain(text: str, substitute: str = "�") -> str:
    """`text` with each character that doesn't show replaced; line feeds stay, tabs become spaces."""
    return "".join(c if c == "\n" or visible(c) else substitute for c in text.replace("\t", "    "))


def clean(text: Any, limit: int = MESSAGE_LIMIT) -> str:
    """`text` as one line, not long, each run of characters that don't show replaced by a space."""
    shown = plain(str(text)[: 4 * limit], " ").replace("\n", " ")
    shown = re.sub(r" {2,}", " ", shown).strip()
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def safe(text: Any, limit: int = 400) -> str:
    """`text` fit for a page: one line, not long, and of an absolute path only its last part."""
    return short_paths(plain(str(text)[: 4 * limit]).replace("\n", " ")).strip()[:limit]


def short_paths(text: str, roots: Iterable[str] = ()) -> str:
    """`text` in which the folders `roots`, and all but the last part of any absolute path, are `…`."""
    for root in sorted({root.rstrip("/") for root in roots} - {""}, key=len, reverse=True):
        text = re.sub(rf"{re.escape(root)}(?![\w.-])", "\0", text)
    text = _PATH.sub(lambda path: "\0/" + path[0].rstrip("/").rpartition("/")[2], text)
    return re.sub("\0+", "…", text)


def table_cell(text: Any) -> str:
    """`text` for a cell of a CSV file: what a spreadsheet would take for a formula gets a quote in front."""
    shown = clean(text)
    return f"'{shown}" if shown[:1] and shown[0] in _FORMULA else shown


def some(names: Sequence[str], limit: int = 3) -> str:
    """The first `limit` names, and of how many: `a、b、c 等 9 个`."""
    return "、".join(names[:limit]) + (f" 等 {len(names)} 个" if len(names) > limit else "")


def readable(name: str) -> str:
    """A file name as it can be shown: GBK bytes read as such, each character that doesn't show as `[U+200B]`."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        try:
            name = os.fsencode(name).decode("gb18030")
        except (UnicodeDecodeError, UnicodeEncodeError):
            name = name.encode("utf-8", "backslashreplace").decode("utf-8")
    name = unicodedata.normalize("NFC", name)
    shown = "".join(
        " " if unicodedata.category(c) == "Zs" else c if visible(c) else f"[U+{ord(c):04X}]" for c in name
    )
    return shown.strip() or "(空格)"


def unique_names(names: Iterable[str]) -> dict[str, str]:
    """File name -> how it is shown, no two the same: what looks like another name gets a piece of its digest."""
    shown = {name: readable(name) for name in names}
    counts: dict[str, int] = {}
    for text in shown.values():
        counts[text] = counts.get(text, 0) + 1
    return {name: _unique_name(name, text, counts[text]) for name, text in shown.items()}


def _unique_name(name: str, text: str, count: int) -> str:
    if len(text) <= NAME_LIMIT and (count == 1 or text == name):
        return text
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return f"{text[:NAME_LIMIT]}~{digest}"
