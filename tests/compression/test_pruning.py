"""Pruning of weights and of neurons."""

import copy

import pytest
import torch
from torch.nn.utils import prune
from transformers import AutoModelForCausalLM

from lab_utils import compression
from lab_utils.linear_layers import linear_weights
from tests.compression.tiny_logits import logits


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_magnitude_pruning_is_torch_s(untouched, share):
    pruned = compression.prune_magnitude(untouched, share)
    expected = copy.deepcopy(untouched)
    for name in linear_weights(expected):
        prune.l1_unstructured(expected.get_submodule(name), "weight", share)
    for name, weight in linear_weights(pruned).items():
        assert torch.equal(weight, expected.get_submodule(name).weight)
        assert int((weight == 0).sum()) == round(share * weight.numel())
    assert torch.equal(pruned.lm_head.weight, untouched.lm_head.weight)
    assert pruned.lm_head.weight is pruned.model.embed_tokens.weight


def test_neurons_that_do_nothing_are_the_ones_pruned(untouched, tmp_path):
    lazy = copy.deepcopy(untouched)
    idle = torch.arange(24) % 3 == 0  # 8 of 24
    with torch.no_grad():
        for layer in lazy.model.layers:
            layer.mlp.down_proj.weight[:, idle] = 0
    smaller = compression.prune_neurons(lazy, 1 / 3)
    torch.testing.assert_close(logits(smaller), logits(lazy))
    for layer in smaller.model.layers:
        assert layer.mlp.gate_proj.weight.shape == layer.mlp.up_proj.weight.shape == (16, 16)
        assert layer.mlp.down_proj.weight.shape == (16, 16)
    removed = 3 * 3 * 8 * 16  # layers, matrices, neurons, width
    assert smaller.num_parameters() == lazy.num_parameters() - removed
    smaller.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(smaller)) and loaded.config.intermediate_size == 16


def test_the_neurons_kept_have_the_largest_norms(untouched):
    smaller = compression.prune_neurons(untouched, 0.5)
    for old, new in zip(untouched.model.layers, smaller.model.layers, strict=True):
        gate, up, down = (getattr(old.mlp, f"{name}_proj").weight.detach() for name in ("gate", "up", "down"))
        score = [float(gate[j].norm() * up[j].norm() * down[:, j].norm()) for j in range(24)]
        kept = sorted(sorted(range(24), key=score.__getitem__)[12:])
        assert torch.equal(new.mlp.gate_proj.weight, gate[kept])
        assert torch.equal(new.mlp.up_proj.weight, up[kept])
        assert torch.equal(new.mlp.down_proj.weight, down[:, kept])


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, 50, float("nan")])
def test_a_share_out_of_range_is_refused(untouched, share):
    for function in (compression.prune_magnitude, compression.prune_neurons):
        with pytest.raises(ValueError, match="剪掉的份额.*0 与 1 之间"):
            function(untouched, share)


def test_pruning_every_neuron_or_none_there_is_refused(untouched):
    with pytest.raises(ValueError, match="24 个神经元.*全部剪掉"):
        compression.prune_neurons(untouched, 0.99)
    with pytest.raises(ValueError, match="没有 gate_proj"):
        compression.prune_neurons(torch.nn.Sequential(torch.nn.Linear(2, 2)), 0.5)
