"""Every reward gives every completion one finite number, whatever arrives, and names a missing column."""

import inspect
import math
import random

import pytest

from lab_utils import rewards
from lab_utils.errors import InvalidValue
from lab_utils.rewards import correct_answer, integer_answer, soft_xml, strict_xml, theme_word_count, xml_tags
from tests.rewards.samples import COLUMNS, EVERY, POEM, RIGHT, columns, one


def test_a_missing_column_is_named():
    for function in EVERY:
        needed = [name for name in COLUMNS if name in inspect.signature(function).parameters]
        for name in needed:
            given = {key: value for key, value in columns(1).items() if key != name}
            with pytest.raises(InvalidValue, match=f"缺少 {name}"):
                function([RIGHT], **given)
            for wrong in (["x", "y"], []):
                with pytest.raises(InvalidValue, match=f"{name} 有 {len(wrong)} 个值，completions 有 1 个"):
                    function([RIGHT], **given, **{name: wrong})
            with pytest.raises(InvalidValue, match=f"{name} 应为一列值"):
                function([RIGHT], **given, **{name: "3"})


def test_completions_in_one_string_are_refused():
    for function in EVERY:
        with pytest.raises(InvalidValue, match="completions 应为一列回答"):
            function(POEM, **columns(len(POEM)))


def test_conversations_get_the_reward_of_their_text():
    for function in EVERY:
        for text in (RIGHT, POEM):
            parts = [{"type": "text", "text": text[:5]}, {"type": "text", "text": text[5:]}]
            turns = [
                [{"role": "assistant", "content": text}],
                [{"role": "assistant", "content": "x"}, {"role": "assistant", "content": text}],
                [{"role": "assistant", "content": parts}],
            ]
            assert [one(function, turn) for turn in turns] == [one(function, text)] * 3


ODD = [
    None,
    "",
    0,
    3.5,
    float("nan"),
    True,
    b"bytes",
    {},
    [],
    [None],
    [[]],
    [[{"role": "assistant", "content": "x"}]],
    [{"role": "assistant"}],
    [{"role": "assistant", "content": None}],
    [{"role": "assistant", "content": [None, {"text": None}, {"text": 3}, "x"]}],
    [{"role": "user", "content": "x"}],
    [{"content": "x"}],
    {"role": "assistant", "content": "x"},
    ("x",),
    object(),
    "\u202e<answer>3</answer>\u202c",
    "\x00\x1b[31m\ufeff\u200b",
    "\ud800",
    "💮" * 20,
]


def test_odd_completions_get_a_finite_float():
    for function in EVERY:
        values = function(ODD, **columns(len(ODD)))
        assert len(values) == len(ODD)
        assert all(type(value) is float and math.isfinite(value) for value in values)
        assert function([], **columns(0)) == []


def test_random_texts_get_a_finite_float_within_bounds():
    rng = random.Random(0)
    pieces = [*"，。！？；\n\t \u3000月山水abc0123456789,.-+＋－，０９²٣\u202e\x00\ud800𠀀💮", "<answer>"]
    pieces += ["</answer>", "<reasoning>", "</reasoning>", "\n", "白日依山尽", "黄河入海流", RIGHT, POEM]
    texts = ["".join(rng.choices(pieces, k=rng.randrange(40))) for _ in range(4000)]
    texts += ["".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(30))) for _ in range(1000)]
    texts += [RIGHT, POEM]
    top = {correct_answer: 2.0, integer_answer: 0.5, strict_xml: 0.5, soft_xml: 0.5, xml_tags: 0.5}
    for function in EVERY:
        values = function(texts, **columns(len(texts)))
        bound = math.inf if function is theme_word_count else top.get(function, 1.0)
        assert len(values) == len(texts)
        assert all(type(value) is float and math.isfinite(value) for value in values)
        assert all(0.0 <= value <= bound for value in values)
        assert len(set(values)) > 1  # the texts reach more than the floor


MEGA = 1_000_000


@pytest.mark.timeout(60)  # takes 0.1 s; backtracking would take hours
@pytest.mark.parametrize(
    "text",
    [
        "<answer>" + "9" * MEGA + "</answer>",
        "<answer>1" + " 111" * (MEGA // 4) + "x</answer>",
        "<answer>1" + " " * MEGA + "x</answer>",
        "<answer>" * (MEGA // 8),
        "<reasoning>" * (MEGA // 22) + "</reasoning>" * (MEGA // 24),
        "，" * MEGA,
        "\n" * MEGA + "x",
        "月" * MEGA,
    ],
    ids=lambda text: text[:12].strip(),
)
def test_a_megabyte_takes_no_longer_than_its_length(text):
    for function in EVERY:
        assert math.isfinite(one(function, text))


def test_every_reward_is_listed_and_exported():
    names = {function.__name__ for function in EVERY}
    assert names <= set(rewards.__all__) and len(names) == len(EVERY)
