"""Linear layers of low rank."""

import pytest
import torch

from lab_utils import compression, lowrank
from lab_utils.linear_layers import linear_weights
from tests.compression.tiny_logits import logits


def test_full_rank_changes_nothing_but_the_size(untouched):
    factored = compression.factorize(untouched, 1.0)
    torch.testing.assert_close(logits(factored), logits(untouched), atol=1e-4, rtol=1e-4)
    assert factored.num_parameters() > untouched.num_parameters()


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_each_layer_becomes_the_nearest_of_its_rank(untouched, share):
    factored = compression.factorize(untouched, share)
    expected = untouched.num_parameters()
    for name, weight in linear_weights(untouched).items():
        right, left = factored.get_submodule(name)
        rank = round(share * min(weight.shape))
        assert right.weight.shape == (rank, weight.shape[1]) and left.weight.shape == (weight.shape[0], rank)
        error = (weight - left.weight @ right.weight).norm().item()
        assert error == pytest.approx(lowrank.truncation_error(lowrank.spectrum(weight), rank), rel=1e-3)
        expected += rank * sum(weight.shape) - weight.numel()
    assert factored.num_parameters() == expected


def test_weights_of_low_rank_survive_and_so_do_biases(tiny):
    model = tiny(attention_bias=True)
    with torch.no_grad():
        for weight in linear_weights(model).values():
            left, right = lowrank.truncate(weight, min(weight.shape) // 4)
            weight.copy_(left @ right)
        for layer in model.model.layers:
            layer.self_attn.q_proj.bias.normal_()
    factored = compression.factorize(model, 0.25)
    torch.testing.assert_close(logits(factored), logits(model), atol=1e-4, rtol=1e-4)
    assert factored.num_parameters() < model.num_parameters()


@pytest.mark.parametrize("share", [0, -0.5, 1.01, 8, float("nan")])
def test_a_rank_out_of_range_is_refused(untouched, share):
    with pytest.raises(ValueError, match="秩的份额"):
        compression.factorize(untouched, share)


def test_rank_zero_is_refused_by_name(untouched):
    with pytest.raises(ValueError, match=r"layers\.0\..*形状是.*秩 \(rank\) 成了 0"):
        compression.factorize(untouched, 0.02)
