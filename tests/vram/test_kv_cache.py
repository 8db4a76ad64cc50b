"""Bytes of the KV cache, by arithmetic and from a configuration."""

import pytest
import torch

from lab_utils import params, vram


def test_kv_cache():
    """Two tensors a layer, 4 heads of 128, 2 bytes: GQA's 56 KiB a token."""
    found = vram.estimate("Qwen2.5-7B", "inference", seq_len=1000, batch_size=3)
    assert found.parts["kv cache"] == 2 * 28 * 4 * 128 * 2 * 3000


def test_bytes_per_token_are_those_of_a_real_cache(tiny_qwen3):
    model = tiny_qwen3()
    with torch.no_grad():
        cache = model(torch.arange(7)[None], use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 7 * vram.kv_bytes_per_token(model.config, dtype_bytes=4)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Llama-2-7B", 524_288),
        ("Qwen2.5-7B", 57_344),
        ("Qwen3-0.6B", 114_688),
        ("DeepSeek-V3", 61 * (512 + 64) * 2),  # latent attention: one compressed vector a layer
    ],
)
def test_bytes_per_token_of_known_models_in_bfloat16(name, size):
    assert vram.kv_bytes_per_token(params.load_config(name), dtype_bytes=2) == size
