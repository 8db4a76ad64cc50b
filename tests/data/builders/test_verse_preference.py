"""The verse pairs: what each row says is so, and how pairs of the kind `ending` are made."""

import random
from collections import Counter

import pytest

from lab_utils import course, models
from lab_utils.data.builders.verse_preference import (
    ENDINGS,
    FAULTS,
    KINDS,
    MATCHED_WITHIN,
    Sample,
    beginnings,
    draw_endings,
    faults_of,
    message,
    nearest_pair,
    rarest_fault_pair,
    split_themes,
)
from lab_utils.data.preference import leaks, read_pairs, validate_pairs
from lab_utils.models.generation import Completion
from lab_utils.training.preference import pair_logps
from lab_utils.verse import split_lines

FOLDER = course.root() / "datasets" / "verse_preference"
FORM, THEME = "五言绝句", split_themes()["train"][0]
POEM = "夜色秋山静，风声落叶深。\n故人千里外，明月照同心。"
OTHER = "秋夜凉如水，星河影自沉。\n寒灯孤馆客，独坐一沾襟。"


@pytest.fixture(scope="module", params=["train", "test"])
def rows(request):
    return read_pairs(FOLDER / f"{request.param}.jsonl")


def answers(row: dict) -> tuple[str, str]:
    return row["chosen"][0]["content"], row["rejected"][0]["content"]


def test_the_verifier_finds_no_fault_in_chosen_and_the_named_one_in_rejected(rows):
    for row in rows:
        good, bad = (faults_of(Completion(text, True), row["form"], row["theme"]) for text in answers(row))
        assert good == ()
        assert bad == (row["fault"],) or (row["fault"], bad) == ("form", ()), row


@pytest.mark.parametrize("kind", ["ending", "matched"])
def test_an_ending_pair_differs_in_its_last_character_alone(rows, kind):
    endings = [row for row in rows if row["kind"] == kind]
    assert len(endings) >= 200
    for row in endings:
        good, bad = answers(row)
        assert good[:-2] == bad[:-2] and good[-1] == bad[-1] and good[-2] != bad[-2]


def test_all_kinds_are_there_and_each_prompt_asks_for_its_form_and_theme(rows):
    assert set(Counter(row["kind"] for row in rows)) == set(KINDS)
    for row in rows:
        assert row["prompt"] == [{"role": "user", "content": message(row["form"], row["theme"])}]


def test_no_theme_is_in_both_files_and_all_pairs_are_good():
    train, test = (read_pairs(FOLDER / f"{split}.jsonl") for split in ("train", "test"))
    assert leaks(train, test) == []
    themes = split_themes()
    assert not set(themes["train"]) & set(themes["test"])
    assert {row["theme"] for row in train} <= set(themes["train"])
    assert validate_pairs(train + test).rows == len(train) + len(test)


def test_beginnings_leave_out_the_last_character_faulty_poems_and_lines_met_before():
    drawn = {(FORM, THEME): [Sample(POEM, ()), Sample(OTHER, ("rhyme",)), Sample(POEM[:-2] + "襟。", ())]}
    assert beginnings(drawn, set()) == [(FORM, THEME, POEM[:-2], "。")]
    assert beginnings(drawn, set(split_lines(POEM)[:1])) == []


def test_a_beginning_that_is_used_is_taken_for_all_that_follow():
    taken = set()
    beginnings({(FORM, THEME): [Sample(POEM, ())]}, taken)
    assert taken == set(split_lines(POEM)[:-1])


def test_endings_are_whole_poems_judged_again_and_the_same_for_one_seed():
    model, tokenizer = models.load(models.SHIPPED, adapter=models.shipped_adapter())
    cut = [(FORM, THEME, POEM[:-2], "。"), (FORM, THEME, OTHER[:-2], "。")]
    first, second = draw_endings(model, tokenizer, cut, 0), draw_endings(model, tokenizer, cut, 0)
    assert first == second
    assert [len(samples) for samples in first] == [ENDINGS, ENDINGS]
    for (form, theme, text, mark), samples in zip(cut, first, strict=True):
        for sample in samples:
            assert sample.text.startswith(text) and sample.text.endswith(mark)
            assert sample.faults == faults_of(Completion(sample.text, True), form, theme)
    assert len({sample.text for samples in first for sample in samples}) > 2


def test_rarest_fault_pair_takes_the_rarest_single_fault_and_refuses_what_gives_no_pair():
    good, two = Sample("a", ()), Sample("d", ("form", "rhyme"))
    rhyme, theme = Sample("b", ("rhyme",)), Sample("c", ("theme",))
    met = Counter(rhyme=3)
    assert rarest_fault_pair([good, rhyme, theme, two], met, random.Random(0)) == (good, theme)
    assert met == Counter(rhyme=3, theme=1)
    assert rarest_fault_pair([good, two], met, random.Random(0)) is None
    assert rarest_fault_pair([rhyme, theme], met, random.Random(0)) is None
    assert set(met) <= set(FAULTS)


def test_nearest_pair_takes_the_two_nearest_in_probability_and_refuses_what_is_too_far_apart():
    likely, rare = Sample("a", (), -1.0), Sample("b", (), -6.0)
    wrong, unlikely = Sample("c", ("rhyme",), -1.5), Sample("d", ("rhyme",), -6.2)
    double = Sample("e", ("rhyme", "theme"), -1.0)
    assert nearest_pair([likely, rare, wrong, unlikely, double]) == (rare, unlikely)
    assert nearest_pair([likely, double, wrong]) == (likely, wrong)
    assert nearest_pair([likely, unlikely]) is None and MATCHED_WITHIN < 5
    assert nearest_pair([likely, rare]) is None and nearest_pair([wrong]) is None


def test_the_policy_itself_finds_neither_side_of_the_matched_pairs_likelier():
    rows = [row for row in read_pairs(FOLDER / "test.jsonl") if row["kind"] == "matched"]
    rows.sort(key=lambda row: len(row["chosen"][0]["content"]))  # so that batches need little padding
    model, tokenizer = models.load(models.SHIPPED, adapter=models.shipped_adapter())
    good, bad = pair_logps(model.merge_and_unload(), tokenizer, rows)
    assert (good - bad).abs().median() < MATCHED_WITHIN
    assert abs((good > bad).float().mean() - 0.5) < 0.1
