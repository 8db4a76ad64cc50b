"""Verifier of regulated verse: is this text exactly one poem of the form asked for?

A text of the form 五言绝句 has 4 lines of 5 characters and nothing else; 七言绝句 4 x 7,
五言律诗 8 x 5, 七言律诗 8 x 7. Every line ends with a punctuation mark; the mark after
an even line closes a sentence. Line breaks may stand after any mark. Surrounding
white space is ignored; a title, a remark or a tag around the poem is a fault.
"""

import re
from dataclasses import dataclass, field

from lab_utils.errors import InvalidValue, nearest
from lab_utils.verse.rhyme import common_rhyme
from lab_utils.verse.themes import on_theme

FORMS = {"五言绝句": (4, 5), "七言绝句": (4, 7), "五言律诗": (8, 5), "七言律诗": (8, 7)}
"""Form name to (number of lines, characters per line)."""

INNER_MARKS = "，、；：,;:"
CLOSING_MARKS = "。！？.!?"
_LINE = re.compile(rf"([^{INNER_MARKS}{CLOSING_MARKS}\n]*)([{INNER_MARKS}{CLOSING_MARKS}]?)\s*")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]+")


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a poem. `line` counts from 1; 0 means the whole text."""

    code: str
    line: int
    message: str


@dataclass(frozen=True)
class PoemVerdict:
    """What the verifier found. Truthy when form and rhyme are right.

    `repetition` is the share of characters that already occurred earlier in the poem,
    0.0 to below 1.0. `theme_ok` is None when no theme was asked for.
    """

    form: str
    form_ok: bool
    rhyme_ok: bool
    repeats_ok: bool
    theme_ok: bool | None
    repetition: float
    lines: list[str] = field(repr=False)
    faults: list[Fault] = field(repr=False)

    def __bool__(self) -> bool:
        return self.form_ok and self.rhyme_ok


def split_lines(text: str) -> list[tuple[str, str]]:
    """Verse lines of `text` as `(characters, punctuation mark or "")`, empty ones left out."""
    return [(m[1], m[2]) for m in _LINE.finditer(text.strip()) if m.group(0).strip()]


def detect(text: str) -> str | None:
    """Name of the one form that `text` has exactly, or None."""
    return next((form for form in FORMS if not _form_faults(split_lines(text), form)), None)


def check(text: str, form: str, theme: str | None = None) -> PoemVerdict:
    """Verify `text` against `form` and, if given, against `theme`.

    Raises InvalidValue for a form that is not in `FORMS`. Never raises on any `text`.
    """
    if form not in FORMS:
        raise InvalidValue(
            f"不认识的诗体 (form) {form!r}", f"{nearest(form, FORMS)}可用的是 {'、'.join(FORMS)}"
        )
    pairs = split_lines(text)
    lines = [line for line, _ in pairs]
    form_faults = _form_faults(pairs, form)
    repeat_faults = _repeat_faults(lines)
    rhyme_ok = len(lines) >= 4 and bool(common_rhyme([line[-1:] for line in lines[1::2]]))
    theme_ok = on_theme("".join(lines), theme) if theme else None
    faults = form_faults + repeat_faults
    if not rhyme_ok:
        ends = "、".join(line[-1:] for line in lines[1::2])
        faults.append(Fault("rhyme", 0, f"偶数句的末字不押韵 (rhyme)：{ends or '没有偶数句'}"))
    if theme_ok is False:
        faults.append(Fault("theme", 0, f"诗中没有与题目《{theme}》相关的字 (theme words)"))
    return PoemVerdict(
        form=form,
        form_ok=not form_faults,
        rhyme_ok=rhyme_ok,
        repeats_ok=not repeat_faults,
        theme_ok=theme_ok,
        repetition=repetition("".join(lines)),
        lines=lines,
        faults=faults,
    )


def repetition(text: str) -> float:
    """Share of characters in `text` that occurred before: 1 - distinct / all; 0.0 if empty."""
    return 1 - len(set(text)) / len(text) if text else 0.0


def _form_faults(pairs: list[tuple[str, str]], form: str) -> list[Fault]:
    count, width = FORMS[form]
    faults = []
    if len(pairs) != count:
        faults.append(Fault("line_count", 0, f"{form}应有 {count} 句，这里有 {len(pairs)} 句"))
    for i, (line, mark) in enumerate(pairs, 1):
        if not _HAN.fullmatch(line):
            faults.append(Fault("not_han", i, f"第 {i} 句有汉字以外的字符：{line!r}"))
        elif len(line) != width:
            faults.append(Fault("line_length", i, f"第 {i} 句应有 {width} 字，这里有 {len(line)} 字"))
        if not mark or (i % 2 == 0 and mark not in CLOSING_MARKS):
            want = "句号、问号或叹号" if i % 2 == 0 else "标点"
            faults.append(Fault("punctuation", i, f"第 {i} 句末应有{want}，这里是 {mark or '空'}"))
    return faults


def _repeat_faults(lines: list[str]) -> list[Fault]:
    """A line that stands twice, or a character three times or more in one line."""
    faults: list[Fault] = []
    first: dict[str, int] = {}
    for i, line in enumerate(lines, 1):
        if first.setdefault(line, i) < i:
            faults.append(Fault("repeated_line", i, f"第 {i} 句与第 {first[line]} 句相同"))
        if any(line.count(char) > 2 for char in set(line)):
            faults.append(Fault("repeated_char", i, f"第 {i} 句里同一个字出现三次以上"))
    return faults
