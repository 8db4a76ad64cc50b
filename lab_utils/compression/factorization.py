"""Factorization: each linear layer as two of low rank, by truncated SVD."""

import copy

from torch import nn

from lab_utils import lowrank
from lab_utils.compression.layers import new_linear
from lab_utils.errors import InvalidValue
from lab_utils.linear_layers import linear_weights


def factorize(model, rank_share: float):
    """A copy of `model` in which each linear layer is two of rank r = `rank_share` · min(out, in), rounded.

    W (out, in) becomes W_left (out, r) · W_right (r, in), the nearest of that rank. That is r·(out + in)
    numbers instead of out·in: smaller only when r < out·in / (out + in). The output head is left
    alone. Raises ValueError for a share outside (0, 1] or one that gives a layer rank 0.
    """
    if not 0 < rank_share <= 1:
        raise InvalidValue(f"秩的份额 (rank_share) 应大于 0、不超过 1（满秩），却是 {rank_share}", "例如 0.5")
    factored = copy.deepcopy(model)
    for name in linear_weights(factored):
        owner_name, _, child = name.rpartition(".")
        owner = factored.get_submodule(owner_name)
        linear = getattr(owner, child)
        rank = round(rank_share * min(linear.weight.shape))
        if rank < 1:
            raise InvalidValue(
                f"{name} 的形状是 {tuple(linear.weight.shape)}，rank_share={rank_share} 让它的秩 (rank) 成了 0",
                "请调大",
            )
        left, right = lowrank.truncate(linear.weight, rank)
        dtype = linear.weight.dtype
        setattr(
            owner,
            child,
            nn.Sequential(new_linear(right.to(dtype), None), new_linear(left.to(dtype), linear.bias)),
        )
    return factored
