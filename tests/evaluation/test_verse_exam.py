"""The exam in verse: which questions it asks, what it marks, and how two policies are compared."""

import pytest

from lab_utils import models
from lab_utils.errors import InvalidValue
from lab_utils.evaluation.verse_exam import (
    MARKS,
    evaluate_policy,
    held_out_questions,
    mark_rates,
    paired_change,
    questions,
)
from lab_utils.verse import FORMS, SPLITS, check, themes


@pytest.mark.parametrize("split", SPLITS)
def test_each_theme_comes_in_each_form_once_and_first_all_themes_once(split):
    names = themes(split)
    rows = questions(split, len(names) * len(FORMS))
    assert len({(row["form"], row["theme"]) for row in rows}) == len(rows)
    assert {row["theme"] for row in rows[: len(names)]} == set(names)
    for row in rows:
        assert row["form"] in row["messages"][0]["content"] and row["theme"] in row["messages"][0]["content"]


@pytest.mark.parametrize("count", [0, 10_000])
def test_a_count_that_cannot_be_met_is_refused(count):
    with pytest.raises(InvalidValue, match="题数"):
        questions("eval", count)


def test_held_out_questions_are_balanced_and_unseen():
    rows = held_out_questions(per_form=50)
    assert [sum(row["form"] == form for row in rows) for form in FORMS] == [50] * 4
    asked = [row["theme"] for row in rows]
    assert len(set(asked)) == 200 and set(asked) <= set(themes("eval"))
    for row in rows:
        assert row["form"] in row["messages"][0]["content"] and row["theme"] in row["messages"][0]["content"]
    with pytest.raises(InvalidValue, match="不够"):
        held_out_questions(per_form=10_000)


def test_marks_are_the_verifiers_and_policies_are_compared_question_by_question():
    rows = questions("eval", 12)
    base, tokenizer = models.load(models.SHIPPED)
    tuned, _ = models.load(models.SHIPPED, adapter=models.shipped_adapter())
    before, after = (evaluate_policy(model, tokenizer, rows, temperature=0.0) for model in (base, tuned))
    for row, answer in zip(rows, after.to_dict("records"), strict=True):
        verdict = check(answer["text"], row["form"])
        assert answer["form"] == (verdict.form_ok and answer["ended"])
        assert answer["rhyme"] == (answer["form"] and verdict.rhyme_ok)
        assert answer["good"] == (answer["rhyme"] and answer["theme"] >= 0.5)
    rates = mark_rates(after)
    assert set(rates) == set(MARKS) and rates["form"].value == after["form"].mean() > before["form"].mean()
    gain = paired_change(before, after, "form")
    assert gain.value == pytest.approx(after["form"].mean() - before["form"].mean()) and gain.n == 12
