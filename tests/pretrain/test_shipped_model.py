"""The shipped model and adapter do what their cards say; small samples, greedy or seeded."""

import json
from pathlib import Path

import pytest

from lab_utils import models, verse
from lab_utils.data import jsonl
from lab_utils.evaluation.verse_exam import held_out_questions
from lab_utils.models.generation import chat_prompt, complete
from lab_utils.pretrain import report

FIGURES = Path(report.__file__).parent / "report" / "figures.json"


@pytest.fixture(scope="module")
def base():
    return models.load(models.SHIPPED)


def passes(completions, rows) -> list[bool]:
    pairs = zip(completions, rows, strict=True)
    return [c.ended and verse.check(c.text, row["form"]).form_ok for c, row in pairs]


def test_weights_fit_the_package():
    assert (models.ASSETS / models.SHIPPED / "model.safetensors").stat().st_size <= 25 * 2**20


def test_under_an_unseen_title_it_writes_one_of_the_four_forms_and_rhymes(base):
    prompts = [f"《{theme}》\n" for theme in verse.themes("eval")[:80]]
    poems = complete(*base, prompts, 90, temperature=0.8, top_p=0.95, seed=11)
    forms = [verse.detect(poem.text) if poem.ended else None for poem in poems]
    assert sum(form is not None for form in forms) >= 76
    quatrains = [verse.check(p.text, f) for p, f in zip(poems, forms, strict=True) if f and "绝句" in f]
    assert len(quatrains) >= 20
    assert sum(v.rhyme_ok for v in quatrains) / len(quatrains) >= 0.6


def test_base_does_not_carry_out_instructions_and_the_adapter_does(base):
    rows = held_out_questions(per_form=10)
    prompts = [chat_prompt(base[1], row["messages"][0]["content"]) for row in rows]
    tuned = models.load(models.SHIPPED, adapter=models.shipped_adapter())
    assert sum(passes(complete(*base, prompts), rows)) <= 2
    assert sum(passes(complete(*tuned, prompts), rows)) >= 32


def test_the_adapter_is_lora_alone():
    config = json.loads((models.shipped_adapter() / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert not config["modules_to_save"] and not config["trainable_token_indices"]


def test_the_card_states_the_measured_figures():
    figures = json.loads(FIGURES.read_text())
    card = (models.ASSETS / models.SHIPPED / "README.md").read_text(encoding="utf-8")
    for name in ("one_of_four_forms", "quatrain_rhyme", "rhyme", "instruction_form_pass"):
        assert report._rate(figures[name]) in card


def test_every_answer_of_the_instruction_set_is_what_was_asked_for():
    from lab_utils import course

    rows = jsonl.read_jsonl(course.dataset("verse_sft") / "train.jsonl")
    assert len(rows) >= 2_000
    assert {row["theme"] for row in rows} <= set(verse.themes("sft"))
    for row in rows:
        verdict = verse.check(row["messages"][1]["content"], row["form"], row["theme"])
        assert verdict and verdict.theme_ok and verdict.repeats_ok
        assert row["form"] in row["messages"][0]["content"] and row["theme"] in row["messages"][0]["content"]
