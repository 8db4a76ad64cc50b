"""Which characters rhyme, by their two most common readings."""

import pytest

from lab_utils import verse


@pytest.mark.parametrize(
    ("chars", "rhymes"),
    [("溪啼", True), ("流舟沟牛钩", True), ("风中", True), ("人心", True), ("花家", True), ("知飞", False),
     ("天山", True), ("天田", True), ("山风", False), ("风风", False), ("还山", True), ("绿雪", False), ("", False), ("ab", False)],
)  # fmt: skip
def test_rhyme_rule(chars, rhymes):
    assert bool(verse.common_rhyme(list(chars))) == rhymes


def test_readings_are_the_two_most_common():
    assert verse.readings("中") == {("庚", 1), ("庚", 4)}
    assert verse.rhyme_groups("堤") == {"支"}
    assert verse.readings("，") == frozenset()
