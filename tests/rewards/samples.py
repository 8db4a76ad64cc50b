"""Completions and columns that the tests of all rewards share."""

from lab_utils.rewards import ARITHMETIC, VERSE

EVERY = (*ARITHMETIC, *VERSE)
COLUMNS = ("answer", "form", "theme")

RIGHT = "<reasoning>12 是 3 个 4。</reasoning>\n<answer>3</answer>"
POEM = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
MOON = "月月月月月，月月月月月。月月月月月，月月月月月。"


def columns(count: int) -> dict:
    return {"answer": ["3"] * count, "form": ["五言绝句"] * count, "theme": ["山楼"] * count}


def one(function, text, **given) -> float:
    """The reward of one completion."""
    names = {name: [value] for name, value in given.items()}
    (value,) = function([text], **{**columns(1), **names})
    return value
