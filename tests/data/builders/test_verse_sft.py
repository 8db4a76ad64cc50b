"""The instruction set: its wordings, and that the shipped rows are what the recipe keeps."""

import pytest

from lab_utils import course
from lab_utils.data.builders.verse_sft import INSTRUCTIONS, instruction
from lab_utils.data.jsonl import read_jsonl
from lab_utils.verse import FORMS, check, themes


def test_wordings_of_the_instruction_differ():
    assert len({instruction("五言绝句", "秋夜", i) for i in range(8)}) == len(INSTRUCTIONS)


@pytest.mark.parametrize("form", FORMS)
def test_every_shipped_poem_passes_the_verifier_and_is_on_a_theme_for_training(form):
    rows = [row for row in read_jsonl(course.dataset("verse_sft") / "train.jsonl") if row["form"] == form]
    assert len(rows) >= 500 and {row["theme"] for row in rows} <= set(themes("sft"))
    wordings = {instruction(form, "{theme}", variant) for variant in range(len(INSTRUCTIONS))}
    for row in rows:
        question, answer = (turn["content"] for turn in row["messages"])
        verdict = check(answer, form, row["theme"])
        assert verdict and verdict.theme_ok and verdict.repeats_ok
        assert question.replace(row["theme"], "{theme}") in wordings
