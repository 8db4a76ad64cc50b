"""The exam in verse: which questions it asks."""

import pytest

from lab_utils.evaluation.verse_exam import questions
from lab_utils.verse import FORMS, themes
from lab_utils.verse.themes import SPLITS


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
    with pytest.raises(ValueError, match="题数"):
        questions("eval", count)
