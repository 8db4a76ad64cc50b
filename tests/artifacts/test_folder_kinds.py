"""Each kind of folder is told from its files, and what is broken is called incomplete."""

import json
import shutil

import pytest

from lab_utils import export, models
from lab_utils.artifacts import checkpoint


def kind(folder) -> str:
    return export.classify(folder).kind


@pytest.fixture
def copy(tmp_path, base):
    return shutil.copytree(base, tmp_path / "copy")


@pytest.fixture
def run(tmp_path, adapter):
    """A finished training by ms-swift, with two checkpoints that are adapters."""
    version = tmp_path / "output" / "v0-20260101-100000"
    for step in (2, 10):
        saved = shutil.copytree(adapter, version / f"checkpoint-{step}")
        (saved / "trainer_state.json").write_text("{}")
        (saved / "args.json").write_text('{"tuner_type": "lora"}')
    (version / "args.json").write_text("{}")
    (version / checkpoint.MARK).write_text('{"status": "finished"}')
    return version


@pytest.fixture
def sharded(tmp_path, base):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder, max_shard_size="200KB")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def test_complete_folders(base, adapter, merged, run, sharded):
    assert kind(base) == kind(sharded) == "base"
    assert kind(adapter) == kind(run / "checkpoint-2") == "adapter"
    assert kind(merged) == "merged"
    assert kind(run) == kind(run.parent) == "run"
    assert kind(models.shipped_adapter()) == "adapter"
    for folder in (base, adapter, merged, run):
        assert export.classify(str(folder)).why


def test_a_model_is_named_by_its_name_or_its_folder(base, run):
    assert export.model_folder(models.SHIPPED) == models.path(models.SHIPPED)
    assert export.model_folder(str(base)) == base
    assert export.model_folder(run).name == "checkpoint-10"


def test_what_ms_swift_merged_is_told_by_its_arguments(copy):
    (copy / "args.json").write_text('{"tuner_type": "lora"}')
    assert kind(copy) == "merged"


def test_full_parameter_checkpoint(copy):
    (copy / "args.json").write_text('{"tuner_type": "full"}')
    (copy / "trainer_state.json").write_text("{}")
    assert kind(copy) == "full"


def test_quantized_weights_are_pointed_out(copy):
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (copy / "config.json").write_text(json.dumps(config))
    assert "4 位" in export.classify(copy).why


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_that_lacks_a_file(copy, name):
    (copy / name).unlink()
    found = export.classify(copy)
    assert found.kind == "incomplete"
    assert name in found.why


def test_weights_cut_short(copy):
    whole = (copy / "model.safetensors").read_bytes()
    for length in (len(whole) - 1, 100, 0):
        (copy / "model.safetensors").write_bytes(whole[:length])
        assert kind(copy) == "incomplete", length


def test_shards_missing_cut_or_swapped(sharded):
    first, second, *_ = sorted(sharded.glob("model-*.safetensors"))
    content = first.read_bytes()
    first.unlink()
    assert first.name in export.classify(sharded).why
    first.write_bytes(content[:-10])
    assert first.name in export.classify(sharded).why
    shutil.copy(second, first)
    assert "张量" in export.classify(sharded).why
    first.write_bytes(content)
    assert kind(sharded) == "base"


def test_broken_config(copy):
    (copy / "config.json").write_text('{"model_type": ')
    assert kind(copy) == "incomplete"


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_half_an_adapter(tmp_path, adapter, name):
    half = shutil.copytree(adapter, tmp_path / "half")
    (half / name).unlink()
    assert kind(half) == "incomplete"


def test_adapter_cut_short(tmp_path, adapter):
    half = shutil.copytree(adapter, tmp_path / "half")
    content = (half / "adapter_model.safetensors").read_bytes()
    (half / "adapter_model.safetensors").write_bytes(content[:-1])
    assert kind(half) == "incomplete"


def test_neither(tmp_path):
    assert kind(tmp_path) == "unknown"
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt" in export.classify(tmp_path).why
    assert kind(tmp_path / "notes.txt") == "unknown"
    (tmp_path / "poet.gguf").write_bytes(b"GGUF....")
    assert kind(tmp_path) == kind(tmp_path / "poet.gguf") == "gguf"
    (tmp_path / "poet.gguf").write_bytes(b"<html>")
    assert kind(tmp_path / "poet.gguf") == "incomplete"
    with pytest.raises(FileNotFoundError, match="没有这个文件夹"):
        export.classify(tmp_path / "nowhere")


def test_resolve_finds_the_checkpoint_meant(run, base, adapter):
    last = run / "checkpoint-10"
    assert export.resolve(run.parent) == export.resolve(run) == export.resolve(last) == last
    assert export.resolve(base) == base
    assert export.resolve(adapter) == adapter


def test_resolve_refuses_what_cannot_be_used(run, copy, tmp_path):
    (run / checkpoint.MARK).write_text('{"status": "interrupted"}')
    assert kind(run) == "incomplete"
    for folder in (run, run / "checkpoint-10"):
        with pytest.raises(FileNotFoundError, match="被中断"):
            export.resolve(folder)
    (copy / "tokenizer.json").unlink()
    for folder in (copy, tmp_path):
        with pytest.raises(ValueError, match="不能用"):
            export.resolve(folder)
