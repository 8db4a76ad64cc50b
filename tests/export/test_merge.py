"""Merging gives W₀ + (α/r)·BA in full precision, by either tool, completely or not at all."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from lab_utils import export, swift
from lab_utils.checks.export import merge_state


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def by_hand(base, adapter) -> dict[str, torch.Tensor]:
    config = json.loads((adapter / "adapter_config.json").read_text())
    return merge_state(
        weights(base), load_file(adapter / "adapter_model.safetensors"), config["r"], config["lora_alpha"]
    )


def assert_same(got, want, tolerance):
    assert got.keys() == want.keys()
    for name in got:
        assert torch.allclose(got[name].float(), want[name], atol=tolerance, rtol=0), name


def test_by_peft_is_the_formula(base, adapter, merged):
    assert_same(weights(merged), by_hand(base, adapter), 1e-5)
    assert any(not torch.equal(weights(merged)[name], weight) for name, weight in weights(base).items())


@pytest.mark.slow
def test_by_swift_is_the_same(base, adapter, merged, tmp_path):
    other = export.merge(base, adapter, tmp_path / "by-swift", by="swift")
    assert_same(weights(other), weights(merged), 0)
    assert export.classify(other).kind == "merged"
    assert not (other / "args.json").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["by-swift"]


def test_dtype(base, adapter, tmp_path):
    half = weights(export.merge(base, adapter, tmp_path / "half", dtype="bfloat16"))
    assert {weight.dtype for weight in half.values()} == {torch.bfloat16}


def test_comes_with_tokenizer_template_and_end_tokens(base, merged):
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (merged / name).read_bytes() == (base / name).read_bytes()
    ends = [json.loads((f / "generation_config.json").read_text())["eos_token_id"] for f in (base, merged)]
    assert ends[0] == ends[1]


def test_record_has_the_facts_and_no_path(merged, tmp_path):
    text = (merged / "merge.json").read_text()
    record = json.loads(text)
    assert (record["base"], record["adapter"], record["r"], record["lora_alpha"]) == (
        "tiny-base",
        "tiny-adapter",
        4,
        8,
    )
    assert record["dtype"] == "float32"
    assert len(record["adapter_sha256"]) == 64
    assert "/" not in text


def test_a_run_may_be_given_for_its_adapter(base, adapter, merged, tmp_path):
    saved = shutil.copytree(adapter, tmp_path / "run" / "v0-20260101-100000" / "checkpoint-7")
    (saved / "trainer_state.json").write_text("{}")
    (saved.parent / "run.json").write_text('{"status": "finished"}')
    assert_same(weights(export.merge(base, tmp_path / "run", tmp_path / "out")), weights(merged), 0)


def test_an_earlier_merge_is_replaced_and_nothing_else(base, adapter, tmp_path):
    folder = export.merge(base, adapter, tmp_path / "out")
    export.merge(base, adapter, folder, dtype="bfloat16")
    assert {weight.dtype for weight in weights(folder).values()} == {torch.bfloat16}
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("three years")
    with pytest.raises(FileExistsError, match="没有动它"):
        export.merge(base, adapter, mine)
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]


def test_a_failed_merge_leaves_nothing(base, adapter, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    other = shutil.copytree(adapter, tmp_path / "other")
    (other / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    with pytest.raises(ValueError, match="装不到"):
        export.merge(base, other, tmp_path / "out" / "merged")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_merged(base, adapter, merged, tmp_path):
    quantized = shutil.copytree(base, tmp_path / "four")
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantized / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="4 位量化"):
        export.merge(quantized, adapter, tmp_path / "out")
    with pytest.raises(ValueError, match="不是适配器"):
        export.merge(base, merged, tmp_path / "out")
    with pytest.raises(ValueError, match="不能当底座"):
        export.merge(adapter, adapter, tmp_path / "out")
    with pytest.raises(ValueError, match="int4"):
        export.merge(base, adapter, tmp_path / "out", dtype="int4")
    assert not (tmp_path / "out").exists()


def test_command_keeps_ms_swift_from_the_training_settings(base, adapter):
    command = export.merge_command(base, adapter, "out")
    assert command.sub == "export"
    assert command.values["load_args"] is False
    assert command.values["merge_lora"] is True
    assert {name for name, _ in command.flags} <= swift.flag_names("export")
    assert "quant_bits" not in command.show()


def test_into_4bit_is_worse_than_4bit_afterwards(tmp_path):
    """On the shipped model: rounded twice is further away than rounded once, and both than not at all."""
    from lab_utils import models
    from lab_utils.evaluation.drift import answer_logits, drift

    pair = (models.SHIPPED, models.shipped_adapter())
    merged = export.merge(*pair, tmp_path / "merged")
    said = [
        [
            {"role": "user", "content": "写一首五言绝句，题目：秋夜"},
            {"role": "assistant", "content": "秋夜月初上，独坐思悠悠。"},
        ]
    ]
    truth = answer_logits(export.local(*pair), said)
    once = drift(truth, answer_logits(export.local(merged, bits=4), said)).kl
    twice = drift(truth, answer_logits(export.merged_into_4bit(*pair), said)).kl
    assert drift(truth, answer_logits(export.local(merged), said)).kl < 1e-9
    assert 1e-4 < once < twice / 2
