"""What fits into a card, and the figures of the advice for what doesn't."""

import math

import pytest

from lab_utils import vram


def test_seven_billion_on_the_cards_of_the_course():
    setting = {"seq_len": 1024, "gradient_checkpointing": True}
    expected = {
        "T4": ["qlora", "inference"],
        "RTX 4090": ["lora", "qlora", "inference"],
        "A100 80G": ["full", "lora", "qlora", "inference"],
    }
    for card, methods in expected.items():
        found = vram.fits("Qwen2.5-7B", vram.GPUS[card], **setting)
        assert [method for method in vram.METHODS if found[method].fits] == methods


def test_advice_tells_true_figures():
    setting = {"seq_len": 2048, "batch_size": 4}
    found = vram.fits("Qwen2.5-7B", 24, **setting)
    now = vram.estimate("Qwen2.5-7B", "qlora", **setting).total_bytes
    less = vram.estimate("Qwen2.5-7B", "qlora", gradient_checkpointing=True, **setting).total_bytes
    assert not found["qlora"].fits and now > 23 * vram.GIB >= less
    first = found["qlora"].advice[0]
    assert vram.format_bytes(now - less) in first and vram.format_bytes(less) in first and "就够" in first
    both = vram.estimate(
        "Qwen2.5-7B", "lora", seq_len=2048, gradient_accumulation=4, gradient_checkpointing=True
    ).total_bytes
    assert found["lora"].advice[-1] == f"前 2 项一起用，到 {vram.format_bytes(both)}，放得下"
    assert "请换 LoRA 或 QLoRA" in found["full"].advice[-1]
    assert found["inference"].fits and found["inference"].advice == ()
    for text in (str(found), found._repr_html_()):
        assert first in text and "放不下" in text and "24 GiB" in text


def test_advice_for_inference_and_eager_attention():
    found = vram.fits("Qwen2.5-7B", 12, attention="eager", seq_len=4096)
    words = "\n".join(found["inference"].advice)
    assert "sdpa" in words and "nf4" in words and "梯度" not in words
    assert vram.fits("Qwen2.5-7B", 12, quantization="nf4")["inference"].fits


@pytest.mark.parametrize("gib", [0, -1, 1.0, math.nan, math.inf])
def test_memory_below_the_reserve(gib):
    with pytest.raises(ValueError, match="reserve_gib"):
        vram.fits("Qwen2.5-7B", gib)
