"""Five layered rewards for arithmetic in an XML frame, most wanted first.

The answer asked for is

    <reasoning>12 是 3 个 4。</reasoning>
    <answer>3</answer>

A small model rarely writes all of this at first. With one reward for everything, all samples of
a group would score 0 and nothing would be learned; layers reward what comes first (a tag, the
frame, a whole number) on the way to what is wanted (the right number). Every function has TRL's
signature: completions and columns in, one finite float per completion out.
"""

import math
import re
from decimal import Decimal
from numbers import Integral

from lab_utils.errors import InvalidValue
from lab_utils.rewards.columns import rows

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
CORRECT, INTEGER, STRICT, SOFT, PER_TAG = 2.0, 0.5, 0.5, 0.5, 0.125
AFTER_END = 0.001  # taken off per character after </answer>
_NUMBER = re.compile(r"([+-]?)([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+)(?:\.([0-9]+))?")
_PLAIN = str.maketrans("０１２３４５６７８９，．＋－−\u3000\u00a0\u2009\u202f", "0123456789,.+--    ")


def correct_answer(completions, answer=None, **kwargs) -> list[float]:
    """2.0 when the number in `<answer>` equals the column `answer`, else 0.0.

    Numbers are compared by value, exactly: 1,000 = 1000 = １０００ = 1000.0. Words around the
    number make it wrong. Raises InvalidValue when the column is missing, has another length, or
    holds something that isn't a number.
    """
    given = rows(completions, answer=answer)
    wanted = [_wanted(value, i) for i, (_, value) in enumerate(given, 1)]
    answers = [number(extract_answer(text)) for text, _ in given]
    return [CORRECT if a == b else 0.0 for a, b in zip(answers, wanted, strict=True)]


def integer_answer(completions, **kwargs) -> list[float]:
    """0.5 when `<answer>` holds one whole number, right or wrong; 42.0 is not written as one."""
    return [INTEGER if _is_integer(extract_answer(text)) else 0.0 for (text,) in rows(completions)]


def strict_xml(completions, **kwargs) -> list[float]:
    """0.5 for exactly `<reasoning>…</reasoning>`, a line break, `<answer>…</answer>`.

    Nothing may stand before, between or after, no tag twice, and neither part may be blank.
    """
    return [
        STRICT if (parts := _split(text)) and parts[::2] == ["", "\n", ""] else 0.0
        for (text,) in rows(completions)
    ]


def soft_xml(completions, **kwargs) -> list[float]:
    """0.5 for the two parts in order, each once and not blank: any white space between them, any
    text around them."""
    return [
        SOFT if (parts := _split(text)) and not parts[2].strip() else 0.0 for (text,) in rows(completions)
    ]


def xml_tags(completions, **kwargs) -> list[float]:
    """0.125 for each of the four tags that stands exactly once, wherever; 0.0 to 0.5.

    For each character after `</answer>` 0.001 is taken off, at most 0.125 and never below 0.0, so
    that the model learns to stop.
    """
    return [_tags_score(text) for (text,) in rows(completions)]


def extract_answer(text: str) -> str:
    """What stands between the last `</answer>` and the `<answer>` before it, stripped; "" if none."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end].strip() if start >= 0 else ""


def number(text: str) -> str | None:
    """The one number that `text` is, in plain digits ("-1000.5"), or None when it isn't just one.

    Understands full-width digits, and thousands set apart by commas or spaces ("1,000", "1 000").
    A string and not a float or int: exact, and a number of a million digits costs nothing.
    """
    match = _NUMBER.fullmatch(text.translate(_PLAIN).strip())
    if not match:
        return None
    sign, whole, decimals = match[1], match[2].replace(",", "").replace(" ", ""), match[3] or ""
    value = (whole.lstrip("0") or "0") + ("." + decimals).rstrip("0").rstrip(".")
    return "-" + value if sign == "-" and value != "0" else value


def _wanted(value, row: int) -> str:
    """The column's value in plain digits. Raises InvalidValue when it isn't a finite number."""
    if isinstance(value, str):
        plain = number(value)
    elif (
        isinstance(value, (Integral, float, Decimal)) and not isinstance(value, bool) and math.isfinite(value)
    ):
        plain = number(format(Decimal(str(value)), "f"))
    else:
        plain = None
    if plain is None:
        raise InvalidValue(
            f"answer 的第 {row} 个值 {str(value)[:40]!r} 不是一个数 (number)",
            "answer 列只放答案的数字，例如 GSM8K 要先取出 #### 后面的部分",
        )
    return plain


def _is_integer(text: str) -> bool:
    match = _NUMBER.fullmatch(text.translate(_PLAIN).strip())
    return match is not None and match[3] is None


def _split(text: str) -> list[str] | None:
    """`[before, reasoning, between, answer, after]`; None unless each tag stands once, in order,
    around something."""
    parts = []
    for tag in TAGS:
        part, separator, text = text.partition(tag)
        if not separator:
            return None
        parts.append(part)
    parts.append(text)
    if any(tag in part for part in parts for tag in TAGS) or not (parts[1].strip() and parts[3].strip()):
        return None
    return parts


def _tags_score(text: str) -> float:
    score = PER_TAG * sum(text.count(tag) == 1 for tag in TAGS)
    after = text.partition(TAGS[-1])[2].strip()
    return max(0.0, score - min(PER_TAG, AFTER_END * len(after)))
