"""Settings that can't be are refused, with what can."""

import pytest

from lab_utils import vram


@pytest.mark.parametrize(
    ("method", "setting", "words"),
    [
        ("fulll", {}, "'full'.*qlora.*inference"),
        ("full", {"seq_len": 0}, "seq_len"),
        ("full", {"seq_len": 1.5}, "seq_len"),
        ("full", {"batch_size": True}, "batch_size"),
        ("full", {"batch_size": -1}, "batch_size"),
        ("full", {"gradient_accumulation": 0}, "gradient_accumulation"),
        ("full", {"dtype": "fp16"}, "float16"),
        ("full", {"optimizer": "adam"}, "adamw"),
        ("full", {"attention": "flash"}, "sdpa"),
        ("full", {"quantization": "nf4"}, "qlora"),
        ("inference", {"quantization": "int4"}, "int8"),
        ("qlora", {"block_size": 100}, "64"),
        ("lora", {"r": 0}, "秩"),
        ("lora", {"r": 65}, "k_proj.*64"),
        ("lora", {"targets": ["c_attn"]}, "c_attn"),
    ],
)
def test_bad_arguments(tiny, method, setting, words):
    with pytest.raises(ValueError, match=words):
        vram.estimate(tiny["qwen3"] if "r" in setting else tiny["llama"], method, **setting)


def test_unknown_setting_names_the_known_ones():
    with pytest.raises(TypeError, match="seqlen.*seq_len"):
        vram.estimate("Qwen2.5-7B", "full", seqlen=4)
    with pytest.raises(TypeError, match="batch.*batch_size"):
        vram.fits("Qwen2.5-7B", 24, batch=4)
