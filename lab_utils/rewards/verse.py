"""Rewards for verse, from the course's own verifier (`lab_utils.verse`), and one that can be hacked.

Each takes the columns `form` (七言绝句 …) or `theme` (秋夜 …) of the data set, or both, and gives
0.0 to 1.0 per completion; only `theme_word_count` has no upper bound. A text longer than `LONGEST`
characters is no poem and gets 0.0 from the bounded ones.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import cycle

from lab_utils.errors import InvalidValue
from lab_utils.rewards.columns import rows
from lab_utils.verse import FORMS, PoemVerdict, check, readings, rhyme_groups, theme_words

LONGEST = 1000  # characters; the longest form has 72 with its marks and line breaks
LEVEL_OBLIQUE = {1: "平", 2: "平", 3: "仄", 4: "仄"}
"""Modern tone to level or oblique; the neutral tone 5 is neither."""


def verse_form(completions, form=None, **kwargs) -> list[float]:
    """1.0 when the text has exactly the form asked for, else 0.0."""
    return [float(verdict.form_ok) for verdict in _verdicts(completions, form)]


def verse_form_graded(completions, form=None, **kwargs) -> list[float]:
    """Share of right lines: length, characters and mark; 1.0 exactly when `verse_form` is.

    Lines missing from the form, or too many, count as wrong.
    """
    return [_share_of_lines(verdict, _right_lines(verdict)) for verdict in _verdicts(completions, form)]


def verse_rhyme(completions, form=None, **kwargs) -> list[float]:
    """Share of the even lines whose last characters rhyme with each other, the biggest such group.

    A character rhymes with another, not with itself, so a group needs two different ones; even
    lines missing from the form count as not rhyming. 1.0 for a text in the form exactly when the
    verifier says that it rhymes.
    """
    return [_rhyming_share(verdict) for verdict in _verdicts(completions, form)]


def verse_theme(completions, theme=None, **kwargs) -> list[float]:
    """Share of the theme's images that the text touches, each counted once (`theme_words`)."""
    return [_touched(text, name) for text, name in _themed(completions, theme)]


def verse_repetition(completions, form=None, **kwargs) -> list[float]:
    """1 - repetition: different characters over all characters, punctuation left out.

    Over those of the form when the text is shorter, since else an empty or one-character text,
    which repeats nothing, would score best.
    """
    return [_distinct_share(verdict) for verdict in _verdicts(completions, form)]


def verse_tone(completions, form=None, **kwargs) -> list[float]:
    """Share of lines whose 2nd, 4th (and in seven-character lines 6th) characters alternate
    between level and oblique tone (平仄, 二四六分明).

    By modern tones: 1 and 2 are level, 3 and 4 oblique; a character with two common readings may
    take either. Old entering tones (入声) that are level today count as level. A line of another
    length, missing or too many, counts as wrong. How lines answer each other (对, 粘) isn't asked.
    """
    return [_share_of_lines(verdict, _alternating_lines(verdict)) for verdict in _verdicts(completions, form)]


def theme_word_count(completions, theme=None, **kwargs) -> list[float]:
    """How often characters of the theme's images stand in the text. **Can be hacked**: it has no
    upper bound and asks for no form, so 月月月月月… beats every poem. `theme_in_form` mends it."""
    return [
        float(sum(text.count(char) for char in set("".join(theme_words(name)))))
        for text, name in _themed(completions, theme)
    ]


def theme_in_form(completions, form=None, theme=None, **kwargs) -> list[float]:
    """`theme_word_count` mended: each image counts once, and only in a poem that has the form and
    repeats no line and no character three times in a line; 0.0 to 1.0."""
    sound = [verdict.form_ok and verdict.repeats_ok for verdict in _verdicts(completions, form)]
    return [ok * share for ok, share in zip(sound, verse_theme(completions, theme), strict=True)]


def _verdicts(completions, form) -> Iterator[PoemVerdict]:
    """The verifier's verdict on each text; what is too long for a poem counts as empty.

    Raises InvalidValue for a missing column, one of another length, or an unknown form.
    """
    given = rows(completions, form=form)
    for i, (_, name) in enumerate(given, 1):
        if not isinstance(name, str) or name not in FORMS:
            raise InvalidValue(
                f"form 的第 {i} 个值 {name!r} 不是认识的诗体 (unknown form)", f"可用的是 {'、'.join(FORMS)}"
            )
    for text, name in given:
        text = text.strip()
        yield check(text if len(text) <= LONGEST else "", name)


def _share_of_lines(verdict: PoemVerdict, right: int, step: int = 1) -> float:
    """`right` of every `step`-th line, over those that the form or the text has, whichever are more;
    of the right ones no more count than the form has."""
    wanted, written = FORMS[verdict.form][0] // step, len(verdict.lines) // step
    return min(right, wanted) / max(wanted, written)


def _right_lines(verdict: PoemVerdict) -> int:
    wrong = {f.line for f in verdict.faults if f.code in {"not_han", "line_length", "punctuation"}}
    return len(verdict.lines) - len(wrong)


def _rhyming_share(verdict: PoemVerdict) -> float:
    ends = {line[-1:] for line in verdict.lines[1::2]}
    groups = Counter(group for char in ends for group in rhyme_groups(char))
    biggest = max(groups.values(), default=0)
    return _share_of_lines(verdict, biggest, step=2) if biggest > 1 else 0.0


def _distinct_share(verdict: PoemVerdict) -> float:
    chars = "".join(verdict.lines)
    count, width = FORMS[verdict.form]
    return len(set(chars)) / max(len(chars), count * width)


def _alternating_lines(verdict: PoemVerdict) -> int:
    width = FORMS[verdict.form][1]
    return sum(len(line) == width and _alternates(line) for line in verdict.lines)


def _alternates(line: str) -> bool:
    """Whether the characters at even places can be read 平仄平 or 仄平仄."""
    beats = [{LEVEL_OBLIQUE.get(tone) for _, tone in readings(char)} for char in line[1::2]]
    return any(
        all(wanted in tones for wanted, tones in zip(cycle(order), beats, strict=False))
        for order in ("平仄", "仄平")
    )


def _themed(completions, theme) -> list[tuple[str, str]]:
    """(text, theme) pairs. Raises InvalidValue for a missing column, one of another length, or no theme."""
    given = rows(completions, theme=theme)
    for i, (_, name) in enumerate(given, 1):
        if not isinstance(name, str) or not name.strip():
            raise InvalidValue(f"theme 的第 {i} 个值 {name!r} 不是题目 (theme)", "写成文字，例如 秋夜")
    return given


def _touched(text: str, theme: str) -> float:
    groups = theme_words(theme)
    chars = set(text) if len(text.strip()) <= LONGEST else set()
    return sum(not chars.isdisjoint(group) for group in groups) / len(groups)
