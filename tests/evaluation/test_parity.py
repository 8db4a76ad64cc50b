"""The gate passes what is the same model, catches each planted fault, and says where it begins."""

import json
import math
import shutil
from pathlib import Path

import pytest

from lab_utils import export, models
from lab_utils.errors import InvalidValue
from lab_utils.evaluation.parity import logprob_difference
from lab_utils.evaluation.verse_exam import held_out_questions
from lab_utils.models.generation import Completion


@pytest.fixture
def gate(questions):
    return lambda a, b, **how: export.parity(a, b, questions, max_new_tokens=24, **how)


@pytest.fixture
def copy(tmp_path, merged):
    return shutil.copytree(merged, tmp_path / "copy")


def rewrite(file: Path, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_shipped_model_50_of_50_in_float32(tmp_path):
    pair = (models.SHIPPED, models.shipped_adapter())
    merged = export.merge(*pair, tmp_path / "merged")
    prompts = [row["messages"] for row in held_out_questions(13)][:50]
    report = export.parity(pair, merged, prompts, max_new_tokens=30)
    assert report.equal, report
    assert report.same_ids == report.same_text == report.prompts == 50
    assert report.max_logprob_difference < 1e-4


def test_the_same_model(base, adapter, merged, gate, questions):
    report = gate((base, adapter), merged)
    assert report
    assert report.first_difference is None
    assert "✅" in str(report)
    assert report.same_ids == report.same_text == len(questions)


def test_wrong_template(base, adapter, copy, gate, questions):
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").write_text(template.replace("assistant\\n", "assistant"))
    report = gate((base, adapter), copy)
    found = report.first_difference
    assert (found.stage, found.prompt) == ("prompt", 0)
    assert (
        found.position == len(export.local(base).prompt_ids([{"role": "user", "content": questions[0]}])) - 1
    )
    assert report.same_ids == 0
    assert "模板" in str(report)


def test_wrong_dtype_computed_or_stored(base, adapter, merged, tmp_path, gate, questions):
    computed = export.local(merged, dtype="bfloat16")
    stored = export.merge(base, adapter, tmp_path / "half", dtype="bfloat16")
    for half in (computed, stored):
        report = gate((base, adapter), half)
        assert report.first_difference.stage == "logits"
        assert report.same_ids == len(questions)
        assert 1e-3 < report.max_logprob_difference < 1


def test_missing_end_token(base, adapter, copy, gate, questions):
    reference = export.local(base, adapter)
    asked = [{"role": "user", "content": questions[0]}]
    likeliest = reference.next_logprobs([reference.prompt_ids(asked)])[0]
    end = max(likeliest, key=likeliest.get)  # make the very first token an end token, on one side only
    reference.model.generation_config.eos_token_id = [end]
    report = gate(reference, copy)
    assert report.first_difference.stage == "end"
    assert report.first_difference.position == 0
    assert "eos_token_id" in report.first_difference.hint


def test_base_served_by_mistake(base, adapter, gate):
    report = gate((base, adapter), base)
    assert report.first_difference.stage == "logits"
    assert report.max_logprob_difference > 0.5
    assert "❌" in str(report)


def test_tolerance_goes_with_the_dtype(merged, gate):
    half = export.local(merged, dtype="bfloat16")
    assert gate(merged, half).first_difference
    assert gate(merged, half, dtype="bfloat16").tolerance == export.TOLERANCE["bfloat16"]
    with pytest.raises(InvalidValue, match="int8"):
        gate(merged, merged, dtype="int8")


class Fixed:
    """A candidate with given answers to one prompt."""

    def __init__(self, logprobs=None, text="", ended=True, ids=(1, 2)):
        self.name, self.found, self.text, self.ids = "fixed", logprobs, Completion(text, ended), list(ids)

    def prompt_ids(self, messages):
        return self.ids

    def next_logprobs(self, batch):
        return None if self.found is None else [self.found]

    def greedy(self, batch, max_new_tokens):
        return [self.text]


def compare(a, b):
    return export.parity(a, b, ["?"])


def test_any_candidate_will_do():
    assert compare(Fixed({5: -0.1}, "好"), Fixed({5: -0.1}, "好"))
    found = compare(Fixed({5: -0.1}, "山月"), Fixed({5: -0.1}, "山风")).first_difference
    assert (found.stage, found.position, found.a, found.b) == ("text", 1, "月", "风")
    found = compare(Fixed({5: -0.1}, ids=(1, 2)), Fixed({5: -0.1}, ids=(1, 2, 3))).first_difference
    assert (found.stage, found.position) == ("prompt", 2)


def test_a_server_without_log_probabilities_is_compared_by_text():
    report = compare(Fixed(None, "好"), Fixed({5: -0.1}, "好"))
    assert report.equal
    assert report.max_logprob_difference is None
    assert "没有比较" in str(report)


def test_one_goes_on_where_the_other_stops():
    found = compare(Fixed(None, "好", True), Fixed(None, "好好", False)).first_difference
    assert (found.stage, found.position) == ("end", 1)
    found = compare(Fixed(None, "好", True), Fixed(None, "好", False)).first_difference
    assert found.stage == "end"


def test_not_a_number_is_a_difference():
    report = compare(Fixed({5: math.nan}, "好"), Fixed({5: -0.1}, "好"))
    assert report.first_difference.stage == "logits"


def test_logprob_difference():
    assert logprob_difference({1: -0.1, 2: -3.0}, {1: -0.1, 2: -2.5}) == (0.5, 2)
    assert logprob_difference({1: -0.1, 7: -9.0}, {1: -0.2})[0] == pytest.approx(0.1)
    assert logprob_difference({1: -0.1}, {2: -0.1})[0] == math.inf


def test_first_difference():
    assert export.first_difference([1, 2], [1, 2]) is None
    assert export.first_difference("abc", "abd") == 2
    assert export.first_difference([1, 2], [1, 2, 3]) == export.first_difference([1, 2, 3], [1, 2]) == 2


def test_what_cannot_be_compared(base, adapter, merged, gate):
    with pytest.raises(InvalidValue, match="没有提示"):
        export.parity(base, merged, [])
    with pytest.raises(InvalidValue, match="要和底座一起"):
        gate(adapter, merged)
    with pytest.raises(InvalidValue, match="不是适配器"):
        gate((base, merged), merged)


def test_a_conversation_is_a_prompt(base):
    chat = [{"role": "system", "content": "你是诗人。"}, {"role": "user", "content": "写一首诗"}]
    assert export.parity(base, base, [chat], max_new_tokens=4)
