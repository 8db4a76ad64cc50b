"""The parameters that one token passes in a mixture of experts."""

import pytest
import torch
import transformers

from lab_utils import params
from tests.params.tiny import SMALL, TINY_MOE, real_model


@pytest.mark.parametrize(
    ("name", "idle"),
    [
        ("Qwen2.5-7B", 0),
        ("Mixtral-8x7B", 32 * 6 * 3 * 4096 * 14336),
        ("Qwen3-30B-A3B", 48 * 120 * 3 * 2048 * 768),
        ("DeepSeek-V3", 58 * 248 * 3 * 7168 * 2048),
    ],
)
def test_active_leaves_out_the_experts_not_chosen(name, idle):
    found = params.count(name)
    assert found.active == found.total - idle


@pytest.mark.parametrize("model_type", TINY_MOE)
def test_active_is_what_one_token_reaches(model_type):
    """One token through a real model and back: an expert's weights get a gradient when it was chosen."""
    raw = {"model_type": model_type} | SMALL | TINY_MOE[model_type]
    if model_type == "deepseek_v3":
        raw["num_key_value_heads"] = 4
    config = params.load_config(raw)
    model = real_model(config)
    model(input_ids=torch.tensor([[7]])).logits.square().sum().backward()
    idle = 0
    for name, weight in model.named_parameters():
        if ".experts." in name:
            reached = weight.grad.flatten(1).abs().sum(1) > 0
            assert int(reached.sum()) == 2, name
            idle += weight[~reached].numel()
    assert idle > 0
    found = params.count(config)
    assert found.active == found.total - idle


def test_active_is_unknown_where_the_configuration_does_not_tell():
    found = params.count(transformers.SwitchTransformersConfig(d_model=32, num_experts=4, vocab_size=64))
    assert found.by_component["experts"] > 0
    assert found.active is None
