"""Linear layers and the parameters of LoRA on them, against peft."""

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from lab_utils import models, params
from tests.params.tiny import real_model, tiny_config

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_linears_of_the_shipped_model():
    layers = params.linears(models.SHIPPED)
    assert len(layers) == 6 * 7 + 1
    assert layers[0] == params.LinearShape("model.layers.0.self_attn.q_proj", 256, 256, False, "attention_q")
    assert layers[1] == params.LinearShape("model.layers.0.self_attn.k_proj", 256, 128, False, "attention_k")
    assert layers[6] == params.LinearShape("model.layers.0.mlp.down_proj", 768, 256, False, "ffn")
    assert layers[-1] == params.LinearShape("lm_head", 256, 5928, False, "lm_head")


def test_linears_of_fused_and_transposed_layers():
    first = params.linears("ChatGLM3-6B")[0]
    assert (first.name, first.d_in, first.d_out, first.bias) == (
        "transformer.encoder.layers.0.self_attention.query_key_value", 4096, 4608, True,
    )  # fmt: skip
    assert [layer.component for layer in params.linears("ChatGLM3-6B")].count("lm_head") == 1
    conv = params.linears(tiny_config("gpt2"))[0]
    assert (conv.name, conv.d_in, conv.d_out, conv.component) == (
        "transformer.h.0.attn.c_attn", 32, 96, "attention_qkv",
    )  # fmt: skip


QWEN3_MOE_ATTENTION = 48 * 8 * (2 * (2048 + 4096) + 2 * (2048 + 512))


@pytest.mark.parametrize(
    ("name", "r", "targets", "expected"),
    [
        ("Qwen2.5-7B", 8, SEVEN, 20_185_088),
        ("Qwen2.5-7B", 8, "all-linear", 20_185_088),
        ("Llama-2-7B", 8, ["q_proj", "v_proj"], 32 * 2 * 8 * (4096 + 4096)),
        ("Llama-2-7B", 8, "all-linear", 32 * 8 * (4 * 8192 + 3 * (4096 + 11008))),
        ("ChatGLM3-6B", 8, ["query_key_value"], 28 * 8 * (4096 + 4608)),
        ("Qwen3-0.6B", 1, ["lm_head"], 1024 + 151936),
        ("Qwen3-30B-A3B", 8, SEVEN[:4], QWEN3_MOE_ATTENTION),
        (
            "Qwen3-30B-A3B",
            8,
            "all-linear",  # the experts' gate and up lie in one tensor, which gets twice the rank
            QWEN3_MOE_ATTENTION + 48 * (128 * 16 * (2048 + 1536) + 128 * 8 * (768 + 2048) + 8 * (2048 + 128)),
        ),
    ],
)
def test_lora_by_arithmetic(name, r, targets, expected):
    assert params.lora_count(name, r, targets) == expected


def _peft_count(model, r, targets) -> int:
    transposed = model.config.model_type == "gpt2"
    tuned = get_peft_model(model, LoraConfig(r=r, target_modules=targets, fan_in_fan_out=transposed))
    return sum(p.numel() for p in tuned.parameters() if p.requires_grad)


PEFT_TARGETS = {
    "llama": SEVEN,
    "llama tied": ["q_proj", "mlp.up_proj"],
    "qwen2": ["k_proj", "o_proj"],
    "qwen3": SEVEN[:4],
    "gpt2": ["c_attn", "mlp.c_proj"],
    "bert": ["query", "value"],
    "gpt_neox": ["query_key_value", "dense_h_to_4h"],
    "t5": ["q", "wo"],
    "phi3": ["qkv_proj", "gate_up_proj"],
    "mixtral": ["q_proj", "o_proj"],
    "qwen3_moe": ["k_proj", "v_proj"],
    "deepseek_v3": ["q_a_proj", "kv_b_proj", "o_proj"],
}


@pytest.mark.parametrize("case", PEFT_TARGETS)
def test_lora_equals_peft(case):
    config = tiny_config(case)
    for targets in (PEFT_TARGETS[case], "all-linear"):
        expected = _peft_count(real_model(config), 4, targets)
        assert params.lora_count(config, 4, targets) == expected, targets


@pytest.mark.parametrize("name", ["Qwen2.5-7B", "Qwen2.5-VL-3B"])
def test_lora_on_a_big_model_equals_peft(name):
    with torch.device("meta"):
        config = params.load_config(name)
        model = getattr(transformers, config.architectures[0])(config)
        expected = _peft_count(model, 8, "all-linear")
    assert params.lora_count(name, 8, "all-linear") == expected


def test_lora_refuses_a_rank_that_cannot_be():
    for r in (0, -4, 2.5, True):
        with pytest.raises(ValueError, match="秩.*model.layers.0.self_attn.q_proj"):
            params.lora_count(models.SHIPPED, r, SEVEN)
    with pytest.raises(ValueError, match="r=129 太大：层 model.layers.0.self_attn.k_proj 是 128×256"):
        params.lora_count(models.SHIPPED, 129, SEVEN)
    assert params.lora_count(models.SHIPPED, 128, ["k_proj"]) == 6 * 128 * (256 + 128)


def test_lora_refuses_targets_that_match_nothing():
    with pytest.raises(ValueError, match="'query_key_value'.*q_proj、k_proj、v_proj、o_proj、gate_proj"):
        params.lora_count(models.SHIPPED, 8, ["q_proj", "query_key_value"])
    with pytest.raises(ValueError, match="'proj' 结尾"):  # an end of a name begins after a dot, as in peft
        params.lora_count(models.SHIPPED, 8, ["proj"])
    with pytest.raises(ValueError, match="'query_key_value' 结尾"):
        params.lora_count("Qwen3-30B-A3B", 8, ["q_proj", "query_key_value"])
    with pytest.raises(ValueError, match="peft 不能在这些层上加 LoRA.*up_proj"):
        params.lora_count("Qwen3-30B-A3B", 8, ["gate_proj"])
    with pytest.raises(ValueError, match="targets 是空的"):
        params.lora_count(models.SHIPPED, 8, [])
    with pytest.raises(ValueError, match="要列表"):
        params.lora_count(models.SHIPPED, 8, "q_proj")
