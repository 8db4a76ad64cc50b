"""What each smaller model costs and how well it predicts."""

import math

import pytest

from lab_utils import compression
from lab_utils.evaluation.loss import held_out_loss
from lab_utils.linear_layers import linear_weights


def test_sizes_count_tied_weights_once_and_sparse_ones_as_csr(untouched):
    pruned = compression.prune_magnitude(untouched, 0.75)
    counts = compression.weight_counts(pruned)
    assert counts["parameters"] == untouched.num_parameters() == pruned.num_parameters()
    assert counts["mib"] == pytest.approx(4 * counts["parameters"] / 2**20)
    linear = linear_weights(pruned)
    pad_row = 16  # the embedding of the pad token is zero from the start
    zeros = pad_row + sum(round(0.75 * weight.numel()) for weight in linear.values())
    assert counts["parameters"] - counts["nonzero"] == zeros
    saved = 0
    for weight in linear.values():
        csr = weight.detach().to_sparse_csr()
        parts = (csr.values(), csr.col_indices().int(), csr.crow_indices().int())
        saved += 4 * weight.numel() - sum(part.numel() * part.element_size() for part in parts)
    assert saved > 0 and counts["sparse_mib"] == pytest.approx(counts["mib"] - saved / 2**20)


def test_half_zeros_save_nothing(untouched):
    counts = compression.weight_counts(compression.prune_magnitude(untouched, 0.5))
    assert counts["sparse_mib"] == counts["mib"]


def test_the_shipped_model_loses_little_by_neurons_and_much_by_rank(shipped, rows):
    base, tokenizer = shipped
    held_out = compression.poem_examples(tokenizer, rows)
    made = {
        "base": base,
        "neurons": compression.prune_neurons(base, 0.25),
        "rank": compression.factorize(base, 0.6),
    }
    table = compression.compare(made, held_out, repeats=1).set_index("model")
    assert list(table.columns) == ["parameters", "nonzero", "mib", "sparse_mib", "loss", "perplexity", "time"]
    for name, model in made.items():
        assert table.loc[name, "loss"] == pytest.approx(held_out_loss(model, held_out))
        assert table.loc[name, "perplexity"] == pytest.approx(math.exp(table.loc[name, "loss"]))
    assert table.loc["base", "time"] == 1 and (table["time"] > 0).all()
    assert table.loc["base", "parameters"] == 6_240_256
    assert table.loc["neurons", "parameters"] < table.loc["rank", "parameters"] < 6_240_256
    assert table.loc["neurons", "loss"] < table.loc["base", "loss"] + 0.1
    assert table.loc["rank", "loss"] > table.loc["base", "loss"] + 0.3
