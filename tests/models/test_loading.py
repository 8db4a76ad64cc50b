"""Loading: with an adapter, and refused before anything is fetched."""

import pytest

from lab_utils import models
from lab_utils.errors import InvalidValue


def test_load_puts_an_adapter_on_the_model(tiny_gguf, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    folder = models.gguf.convert_gguf(tiny_gguf[0], tmp_path / "base")
    base, _ = models.load(str(folder))
    ids = torch.arange(6).view(1, 6)
    with torch.no_grad():
        before = base(ids).logits
        tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        wanted = tuned.eval()(ids).logits
        tuned.save_pretrained(tmp_path / "adapter")
        loaded, _ = models.load(str(folder), adapter=tmp_path / "adapter")
        torch.testing.assert_close(loaded(ids).logits, wanted)
    assert (wanted - before).abs().max() > 1e-3
    assert not loaded.training


def test_load_refuses_a_run_folder_in_place_of_an_adapter(tmp_path):
    with pytest.raises(ValueError, match="adapter_config.json.*checkpoint"):
        models.load(models.SHIPPED, adapter=tmp_path)


def test_an_adapter_in_a_pickle_is_never_read(tmp_path):
    (tmp_path / "adapter_config.json").write_bytes(
        (models.shipped_adapter() / "adapter_config.json").read_bytes()
    )
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04cbuiltins\nexec\n(S'raise SystemExit'\ntR.")
    with pytest.raises(InvalidValue, match="adapter_model.safetensors.*pickle"):
        models.load(models.SHIPPED, adapter=tmp_path)


def test_load_refuses_what_it_cannot_read_before_fetching_it():
    with pytest.raises(ValueError, match="图文模型"):
        models.load("Qwen2.5-VL-3B-Instruct")
    with pytest.raises(RuntimeError, match="transformers<4.42"):
        models.load("ChatGLM3-6B")
