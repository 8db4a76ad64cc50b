"""Rewards for verse agree with the verifier, and no short cut pays, but where one is meant to."""

import random

import numpy as np
import pytest

from lab_utils.errors import InvalidValue
from lab_utils.rewards import (
    theme_in_form,
    theme_word_count,
    verse_form,
    verse_form_graded,
    verse_repetition,
    verse_rhyme,
    verse_theme,
    verse_tone,
)
from lab_utils.verse import FORMS, check, repetition
from tests.rewards.samples import MOON, POEM, one


def test_good_poem():
    assert [one(f, POEM) for f in (verse_form, verse_form_graded, verse_rhyme, verse_theme)] == [1.0] * 4
    assert one(verse_repetition, POEM) == 1.0


def test_rewards_agree_with_the_verifier(sft_rows):
    rng = random.Random(0)
    texts, forms = [], []
    for row in sft_rows:
        lines = row["messages"][1]["content"].split("\n")
        other = rng.choice(sft_rows)["messages"][1]["content"].split("\n")
        texts += ["\n".join(lines), "\n".join([*lines[:-1], other[-1]]), "\n".join(lines[1:])]
        forms += [row["form"], row["form"], rng.choice(list(FORMS))]
    verdicts = [check(text, form) for text, form in zip(texts, forms, strict=True)]
    right, rhyming, graded, varied = (
        f(texts, form=forms) for f in (verse_form, verse_rhyme, verse_form_graded, verse_repetition)
    )
    assert 0 < sum(right) < len(right) and any(v.form_ok and not v.rhyme_ok for v in verdicts)
    for i, verdict in enumerate(verdicts):
        assert (right[i] == 1) == (graded[i] == 1) == verdict.form_ok
        if verdict.form_ok:
            assert (rhyming[i] == 1) == verdict.rhyme_ok
            assert varied[i] == pytest.approx(1 - repetition("".join(verdict.lines)))


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        (POEM[:12], 0.5),
        (POEM.replace("千里目", "千里"), 0.75),
        (POEM + POEM, 0.5),
        (POEM.replace("楼。", "楼"), 0.75),
        ("abcde，abcde。abcde，abcde。", 0.0),
        ("", 0.0),
    ],
)
def test_graded_form_counts_right_lines(text, reward):
    assert one(verse_form_graded, text) == reward
    assert one(verse_form, text) == 0.0


LONG = "甲甲甲甲甲，乙乙乙乙{}。甲甲甲甲甲，乙乙乙乙{}。甲甲甲甲甲，乙乙乙乙{}。甲甲甲甲甲，乙乙乙乙{}。"


@pytest.mark.parametrize(
    ("ends", "reward"),
    [
        ("流楼舟秋", 1.0),
        ("流楼舟山", 0.75),
        ("流楼山寒", 0.5),
        ("流山人风", 0.0),
        ("流流流流", 0.0),
        ("流流楼舟", 0.75),
    ],
)
def test_rhyme_is_the_share_of_the_biggest_group(ends, reward):
    assert one(verse_rhyme, LONG.format(*ends), form="五言律诗") == reward


def test_one_rhyming_couplet_is_not_a_poem():
    assert one(verse_rhyme, POEM, form="五言律诗") == 0.5
    assert one(verse_rhyme, "白日依山尽，黄河入海流。") == 0.0
    assert one(verse_rhyme, LONG.format(*"流楼舟秋")) == 0.5  # eight lines, of which four were wanted


@pytest.mark.parametrize(
    ("text", "form", "reward"),
    [
        (POEM, "五言绝句", 1.0),
        ("白日依山尽，" * 2, "五言绝句", 0.5),
        ("一二三四五，" * 4, "五言绝句", 0.0),  # 二 and 四 are both oblique
        ("朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。", "七言绝句", 1.0),
        ("朝辞白帝彩月间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。", "七言绝句", 0.75),
        (POEM, "七言绝句", 0.0),
    ],
)
def test_tone_alternates_at_even_places(text, form, reward):
    assert one(verse_tone, text, form=form) == reward


def test_tone_tells_verse_from_shuffled_characters(sft_rows):
    rng = random.Random(0)
    texts, forms = [r["messages"][1]["content"] for r in sft_rows], [r["form"] for r in sft_rows]
    every = [c for text in texts for c in text if c not in "，。！？；\n"]
    shuffled = ["".join(c if c in "，。！？；\n" else rng.choice(every) for c in text) for text in texts]
    assert np.mean(verse_tone(texts, form=forms)) > 0.8
    assert np.mean(verse_tone(shuffled, form=forms)) < 0.6


@pytest.mark.parametrize(
    ("text", "reward"), [("", 0.0), ("月", 1 / 20), (MOON, 1 / 20), (POEM + POEM, 20 / 40)]
)
def test_saying_little_does_not_escape_the_repetition_reward(text, reward):
    assert one(verse_repetition, text) == pytest.approx(reward)


def test_theme_counts_each_image_once():
    assert one(verse_theme, "霜霜霜霜", theme="秋夜") == 0.5
    assert one(verse_theme, "霜落月明", theme="秋夜") == 1.0
    assert one(verse_theme, "千山静", theme="秋夜") == 0.0


def test_counting_theme_words_can_be_hacked_and_the_other_can_not():
    poem = "霜落千山静，灯残一梦长。\n西风何处客，明月满胡床。"
    texts, given = [poem, MOON, "月" * 500], {"form": ["五言绝句"] * 3, "theme": ["秋夜"] * 3}
    hacked, mended = theme_word_count(texts, **given), theme_in_form(texts, **given)
    assert hacked[0] < hacked[1] < hacked[2] == 500.0
    assert mended == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("form", ["五绝", None, 5, ["五言绝句"]])
def test_an_unknown_form_is_named(form):
    for function in (verse_form, theme_in_form):
        with pytest.raises(InvalidValue, match=r"form 的第 2 个值.*五言绝句、七言绝句"):
            function([POEM, POEM], form=["五言绝句", form], theme=["秋夜"] * 2)


@pytest.mark.parametrize("theme", ["", " ", None, 5])
def test_a_theme_that_is_none_is_named(theme):
    for function in (verse_theme, theme_word_count):
        with pytest.raises(InvalidValue, match="theme 的第 1 个值"):
            function([POEM], theme=[theme])
