"""What came from a student is made fit for a terminal, a table and a page."""

import pytest

from lab_utils.grading import text

UNSEEN = [
    "\x00", "\x1b", "\x7f", "\x9b", "\u00ad", "\u034f", "\u061c", "\u115f", "\u180e", "\u200b", "\u200d", "\u2028",
    "\u202e", "\u2060", "\u2066", "\u2800", "\u3164", "\ue000", "\ufe0f", "\ufeff", "\ufff9", "\ufffe", "\uffff",
    "\ud800", "\U000e0041", "\U000e0100", "\U0001fffe", "\U000f0000", "\U0002fffe",
]  # fmt: skip
SEEN = ["a", "é", "中", "，", "＝", "😀", "\u0301", "𠮷", "\U00031350", "�"]


@pytest.mark.parametrize("character", UNSEEN, ids=ascii)
def test_what_does_not_show_is_replaced(character):
    assert not text.visible(character)
    assert text.clean(f"a{character}b") == "a b" and text.plain(f"a{character}b") == "a�b"
    assert text.readable(f"a{character}b") == f"a[U+{ord(character):04X}]b" or character == "\ud800"


@pytest.mark.parametrize("character", SEEN)
def test_what_shows_stays(character):
    assert text.visible(character) and text.clean(character) == character


def test_a_line_stays_one_and_short():
    assert text.clean("a\nb\t c  d") == "a b c d"
    assert len(text.clean("x" * 10**6)) == text.MESSAGE_LIMIT


def test_names_that_look_the_same_are_told_apart_and_the_plain_one_keeps_its_name():
    shown = text.unique_names(["甲", "甲 ", " 甲", "乙"])
    assert shown["甲"] == "甲" and shown["乙"] == "乙" and len(set(shown.values())) == 4
    assert text.unique_names(["甲 "]) == {"甲 ": "甲"}
    assert len(set(text.unique_names(["x" * 200, "x" * 201]).values())) == 2


def test_paths_are_cut():
    assert text.short_paths("/srv/a b/作业/x.py: 1/2", ["/srv/a b"]) == "…/作业/x.py: 1/2"
    assert text.short_paths("在 /opt/py/lib/x.py 里") == "在 …/x.py 里"
    assert text.short_paths("/srvice/x", ["/srv"]) == "…/x"
    assert text.short_paths("/srv/py/lib/x.py……", ["/srv/py"]) == "…/x.py……"


def test_of_many_names_the_first_and_how_many():
    assert text.some(["a", "b", "c"]) == "a、b、c" and text.some([]) == ""
    assert text.some(list("abcd")) == "a、b、c 等 4 个" and text.some(list("abcd"), 4) == "a、b、c、d"
