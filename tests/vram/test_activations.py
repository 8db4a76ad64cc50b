"""The activations of a layer are, to the byte, what autograd keeps of it."""

import pytest
import torch

from lab_utils import vram
from lab_utils.vram.activations import layer_activations
from lab_utils.vram.workload import make_workload
from tests.vram.families import FAMILIES, SIZES
from tests.vram.saved_tensors import saved_tensors


def activations(source, method="full", **setting) -> dict[str, int]:
    """Tensor -> bytes that one layer keeps, without those of no bytes."""
    return {name: n for name, n in layer_activations(make_workload(source, method, setting)).items() if n}


@pytest.mark.parametrize(
    ("family", "method", "setting"),
    [
        ("llama", "full", {}),
        ("llama", "full", {"dtype": "bfloat16"}),
        ("llama", "full", {"attention": "eager"}),
        ("llama", "lora", {"targets": ["q_proj", "down_proj"]}),
        ("llama", "lora", {"dtype": "bfloat16", "attention": "eager"}),
        ("qwen2", "full", {}),
        ("qwen3", "full", {}),
        ("qwen3", "full", {"dtype": "bfloat16"}),
        ("qwen3", "lora", {}),
        ("qwen3", "lora", {"dtype": "bfloat16"}),
    ],
)
def test_layer_activations_are_what_autograd_keeps(tiny, family, method, setting):
    setting = {"dtype": "float32", "autocast": False} | setting
    model = vram.load_model(tiny[family], method, vram.Setting(**setting))
    ids = torch.randint(0, SIZES["vocab_size"], (2, 64), generator=torch.Generator().manual_seed(0))
    kept = saved_tensors(model, ids)
    predicted = activations(tiny[family], method, seq_len=64, batch_size=2, **setting)
    assert sum(predicted.values()) == sum(n for module, n in kept.items() if ".layers.1" in f".{module}")
    loss = 4 * 2 * 64 * FAMILIES[family].get("vocab_size", SIZES["vocab_size"])
    assert kept["" if method == "full" else "base_model"] == pytest.approx(loss, abs=2000)


def test_activations_grow_with_tokens_and_scores_with_their_square():
    short, long = (activations("Qwen2.5-7B", seq_len=n, attention="eager") for n in (512, 1024))
    assert long.pop("attention weights") == 4 * short.pop("attention weights") == 6 * 28 * 1024**2
    assert {name: 2 * n for name, n in short.items()} == long


def test_saved_tensors_leaves_no_hook(tiny):
    model = vram.load_model(tiny["llama"], "full", vram.Setting(dtype="float32"))
    ids = torch.zeros(1, 16, dtype=torch.long)
    once = saved_tensors(model, ids)
    assert once == saved_tensors(model, ids)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(weight in once.values() for weight in (128 * 512 * 4, 300 * 128 * 4))
