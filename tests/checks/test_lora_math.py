"""Every check of lab 02 accepts right answers in several spellings and rejects each known mistake by name."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lab_utils import lowrank
from lab_utils import ratings as movies
from lab_utils.checks import Check, lora_math
from lab_utils.lora import LoRALinear
from tests.checks.kit import assert_check


def rank_k_by_projection(matrix, k):
    u = torch.linalg.svd(matrix)[0][:, :k]
    return u @ (u.T @ matrix)


def rank_k_by_outer_products(matrix, k):
    u, s, vh = torch.linalg.svd(matrix)
    return sum(s[i] * torch.outer(u[:, i], vh[i]) for i in range(k))


def rank_k_by_the_library(matrix, k):
    left, right = lowrank.truncate(matrix, k)
    return left @ right


def energy_in_a_loop(s, share):
    held, total = 0.0, sum(float(x) ** 2 for x in s)
    for i, x in enumerate(s, 1):
        held += float(x) ** 2
        if held >= share * total:
            return i
    return None


def energy_by_search(s, share):
    energy = np.cumsum(s.numpy().astype(float) ** 2)
    return np.searchsorted(energy, share * energy[-1]) + 1


def user_by_least_squares(ratings, rated, items, reg):
    """Ridge regression as ordinary least squares with rows √λ·I added."""
    k = items.shape[1]
    rows = np.vstack([items[rated], math.sqrt(reg) * np.eye(k)])
    return np.linalg.lstsq(rows, np.concatenate([ratings[rated], np.zeros(k)]))[0]


def user_by_the_library(ratings, rated, items, reg):
    return movies.ridge(items[rated], ratings[rated], reg)


def user_by_weights(ratings, rated, items, reg):
    system = sum(np.outer(q, q) for q, seen in zip(items, rated, strict=True) if seen)
    return np.linalg.inv(system + reg * np.identity(len(system))) @ ((ratings * rated) @ items)


def forward_by_merging(x, weight, bias, A, B, lora_alpha):
    return F.linear(x, weight + lora_alpha / len(A) * (B @ A), bias)


def forward_by_the_layer(x, weight, bias, A, B, lora_alpha):
    return layer_of(weight, bias, A, B, lora_alpha)(x).detach()


def layer_of(weight, bias, A, B, lora_alpha, **variant):
    """`LoRALinear` with these numbers in it."""
    base = nn.Linear(*reversed(weight.shape), bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        base.weight.copy_(weight)
        if bias is not None:
            base.bias.copy_(bias)
        layer = LoRALinear(base, len(A), lora_alpha, **variant)
        layer.lora_A.copy_(A)
        layer.lora_B.copy_(B)
    return layer


def merged_by_the_layer(weight, A, B, lora_alpha, use_rslora):
    return layer_of(weight, None, A, B, lora_alpha, use_rslora=use_rslora).merged_weight()


def merged_by_columns(weight, A, B, lora_alpha, use_rslora):
    r = B.shape[1]
    scale = lora_alpha / r**0.5 if use_rslora else lora_alpha / r
    return weight + sum(scale * torch.outer(B[:, i], A[i]) for i in range(r))


def dora_by_the_layer(weight, A, B, lora_alpha, magnitude):
    layer = layer_of(weight, None, A, B, lora_alpha, use_dora=True)
    with torch.no_grad():
        layer.lora_magnitude.copy_(magnitude)
    return layer.merged_weight()


def dora_by_normalize(weight, A, B, lora_alpha, magnitude):
    return torch.diag(magnitude) @ F.normalize(weight + lora_alpha / len(A) * B @ A, dim=1)


ACCEPTED = {
    lora_math.RANK_K: [rank_k_by_projection, rank_k_by_outer_products, rank_k_by_the_library],
    lora_math.RANK_FOR_ENERGY: [energy_in_a_loop, energy_by_search, lowrank.rank_for_energy],
    lora_math.ALS_USER: [user_by_least_squares, user_by_the_library, user_by_weights],
    lora_math.LORA_FORWARD: [forward_by_merging, forward_by_the_layer],
    lora_math.LORA_PARAMETERS: [
        lambda i, o, r: torch.empty(r, i).numel() + torch.empty(o, r).numel(),
        lambda i, o, r: np.int64(r) * i + r * o,
    ],
    lora_math.MERGED_WEIGHT: [merged_by_the_layer, merged_by_columns],
    lora_math.DORA_WEIGHT: [dora_by_the_layer, dora_by_normalize],
}


@pytest.mark.parametrize("check", ACCEPTED, ids=lambda check: check.name)
def test_accepts_right_answers_and_names_mistakes(check):
    assert_check(check, ACCEPTED[check])


def test_every_check_is_tested():
    assert {v for v in vars(lora_math).values() if isinstance(v, Check)} == set(ACCEPTED)


def test_no_exercise_changes_its_arguments_unseen():
    def in_place(weight, A, B, lora_alpha, use_rslora):
        weight += lora_math.merged_weight(weight, A, B, lora_alpha, use_rslora) - weight
        return weight.clone()

    assert lora_math.MERGED_WEIGHT.judge(in_place).stage == "input"
