"""The five layers for arithmetic: numbers by value, the last whole answer, the frame."""

import pytest

from lab_utils.errors import InvalidValue
from lab_utils.rewards import (
    ARITHMETIC,
    correct_answer,
    extract_answer,
    integer_answer,
    soft_xml,
    strict_xml,
    xml_tags,
)
from tests.rewards.samples import RIGHT, one


def test_right_completion_gets_every_layer():
    assert [one(f, RIGHT) for f in ARITHMETIC] == [2.0, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("text", "answer", "reward"),
    [
        ("1,000", "1000", 2.0),
        ("1000", "1,000", 2.0),
        ("１，０００", 1000, 2.0),
        ("1 000", 1000, 2.0),
        ("\u3000 12\n", 12, 2.0),
        ("12.0", 12, 2.0),
        ("12", 12.0, 2.0),
        ("012", 12, 2.0),
        ("−5", -5, 2.0),
        ("-0", 0, 2.0),
        ("+7", 7, 2.0),
        ("0.50", 0.5, 2.0),
        ("100000000000000000000", 1e20, 2.0),
        ("9007199254740993", "9007199254740992", 0.0),  # equal as floats
        ("3 4", 34, 0.0),
        ("1,00", 100, 0.0),
        ("10²", 102, 0.0),
        ("3 个", 3, 0.0),
        ("1 2 3 4", 3, 0.0),
        ("3/1", 3, 0.0),
        ("٣", 3, 0.0),
        ("", 0, 0.0),
        ("nan", 0, 0.0),
    ],
)
def test_numbers_are_compared_by_value(text, answer, reward):
    assert one(correct_answer, f"<answer>{text}</answer>", answer=answer) == reward


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (RIGHT, "3"),
        ("<answer> 4\n</answer>", "4"),
        ("<answer>1</answer> 不对 <answer>2</answer>", "2"),
        ("<answer>1</answer> 再想 <answer>2", "1"),
        ("答案是 3", ""),
        ("<answer>3", ""),
        ("3</answer>", ""),
        ("</answer>3<answer>", ""),
        ("", ""),
    ],
)
def test_the_last_complete_answer_counts(text, found):
    assert extract_answer(text) == found


@pytest.mark.parametrize(
    ("text", "reward"),
    [("3", 0.5), ("-1,234", 0.5), ("42.0", 0.0), ("3.5", 0.0), ("三", 0.0), ("3 元", 0.0), ("", 0.0)],
)
def test_integer(text, reward):
    assert one(integer_answer, f"<answer>{text}</answer>") == reward


@pytest.mark.parametrize(
    ("text", "strict", "soft", "tags"),
    [
        (RIGHT, 0.5, 0.5, 0.5),
        ("<reasoning>\n甲\n乙\n</reasoning>\n<answer>\n3\n</answer>", 0.5, 0.5, 0.5),
        (RIGHT + "\n", 0.0, 0.5, 0.5),
        (RIGHT.replace("\n", ""), 0.0, 0.5, 0.5),
        (RIGHT.replace("\n", "\n\n"), 0.0, 0.5, 0.5),
        ("好的。" + RIGHT, 0.0, 0.5, 0.5),
        (RIGHT + "完了", 0.0, 0.5, 0.498),
        (RIGHT.replace("\n", "所以"), 0.0, 0.0, 0.5),
        ("<reasoning></reasoning>\n<answer>3</answer>", 0.0, 0.0, 0.5),
        ("<reasoning>甲</reasoning>\n<answer> </answer>", 0.0, 0.0, 0.5),
        ("<answer>3</answer>\n<reasoning>甲</reasoning>", 0.0, 0.0, 0.5 - 0.001 * 24),
        ("<reasoning>甲\n<answer>3</answer>", 0.0, 0.0, 0.375),
        (RIGHT.replace("<answer>", "<answer><answer>"), 0.0, 0.0, 0.375),
        ("<answer>3", 0.0, 0.0, 0.125),
        ("答案是 3", 0.0, 0.0, 0.0),
        (RIGHT + "啊" * 5000, 0.0, 0.5, 0.375),
        ("</answer>" * 300, 0.0, 0.0, 0.0),
    ],
)
def test_xml_layers(text, strict, soft, tags):
    found = [one(f, text) for f in (strict_xml, soft_xml, xml_tags)]
    assert found == pytest.approx([strict, soft, tags])


@pytest.mark.parametrize("answer", ["三", "#### 3", None, "", True, float("nan"), float("inf"), [3]])
def test_an_answer_that_is_no_number_is_the_data_sets_fault(answer):
    with pytest.raises(InvalidValue, match=r"answer 的第 2 个值.*不是一个数"):
        correct_answer([RIGHT, RIGHT], answer=["3", answer])
