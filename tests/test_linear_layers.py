"""Which linear layers a model has, and which of them are meant."""

import pytest
import torch

from lab_utils import linear_layers, models


def test_the_head_tied_to_the_embedding_is_left_out():
    model, _ = models.load(models.SHIPPED)
    weights = linear_layers.linear_weights(model)
    assert len(weights) == 6 * 7  # six layers: q, k, v, o and gate, up, down
    assert "model.layers.0.self_attn.q_proj" in weights and "lm_head" not in weights
    assert linear_layers.output_head(model) == "lm_head"


def test_a_head_of_its_own_is_left_out_too(tiny_qwen3):
    model = tiny_qwen3(tie_word_embeddings=False)
    assert len(linear_layers.linear_weights(model)) == 2 * 7


def test_a_model_without_a_head_keeps_every_linear_layer():
    model = torch.nn.Sequential(torch.nn.Embedding(5, 8), torch.nn.Linear(8, 12), torch.nn.Linear(12, 6))
    assert list(linear_layers.linear_weights(model)) == ["1", "2"]
    assert linear_layers.output_head(model) is None


LINEAR = ["layers.0.q_proj", "layers.0.mlp.up_proj", "lm_head"]


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        ("all-linear", {"layers.0.q_proj", "layers.0.mlp.up_proj"}),
        (["q_proj"], {"layers.0.q_proj"}),
        (["mlp.up_proj", "lm_head"], {"layers.0.mlp.up_proj", "lm_head"}),
        (["layers.0.q_proj", "norm", "w1"], {"layers.0.q_proj", "layers.0.norm"}),
    ],
)
def test_targets_are_names_or_their_ends(targets, named):
    others = ["layers.0.norm"]
    assert linear_layers.match_targets(targets, LINEAR, "lm_head", others, lambda name: name == "w1") == named


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_pro"], "'q_pro' 结尾.*是不是 'q_proj'.*q_proj、up_proj、lm_head"),
        (["proj"], "no match"),
        ("q_proj", r"targets 要列表，例如 \['q_proj'\]"),
        ([], "targets 是空的"),
    ],
)
def test_targets_that_name_nothing_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        linear_layers.match_targets(targets, LINEAR, "lm_head")
    with pytest.raises(ValueError, match="没有线性层"):
        linear_layers.match_targets("all-linear", ["lm_head"], "lm_head")
