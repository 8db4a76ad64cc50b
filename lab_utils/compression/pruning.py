"""Pruning: single weights by magnitude (Han et al. 2015, arXiv 1506.02626), and whole neurons of feed-forward layers."""

import copy

import torch
from torch import Tensor, nn

from lab_utils.compression.layers import new_linear
from lab_utils.errors import InvalidValue
from lab_utils.linear_layers import linear_weights


def prune_magnitude(model, share: float):
    """A copy of `model` whose linear layers each have the `share` of weights nearest to zero set to zero.

    Unstructured: the matrices keep their shapes, so memory and time stay what they were unless a sparse
    format and sparse kernels are used. The output head is left alone.
    Raises ValueError for a share outside [0, 1).
    """
    _check_share(share)
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for weight in linear_weights(pruned).values():
            smallest = weight.abs().flatten().argsort()[: round(share * weight.numel())]
            weight.view(-1)[smallest] = 0.0
    return pruned


def prune_neurons(model, share: float):
    """A copy of `model` without the `share` of neurons that matter least in each feed-forward layer.

    Neuron j of a SwiGLU layer is row j of `gate_proj` and `up_proj` and column j of `down_proj`; it goes by
    the product of their three norms. Structured: the matrices really become smaller, and
    `config.intermediate_size` with them, so the copy can be saved and loaded like any model.
    Raises ValueError for a share outside [0, 1) or one that leaves no neuron, and for a model without such layers.
    """
    _check_share(share)
    smaller = copy.deepcopy(model)
    layers = [part for part in smaller.modules() if hasattr(part, "gate_proj") and hasattr(part, "down_proj")]
    if not layers:
        raise InvalidValue("模型里没有 gate_proj/up_proj/down_proj 这样的前馈层 (SwiGLU)，不知道剪哪里")
    for layer in layers:
        gate, up, down = layer.gate_proj, layer.up_proj, layer.down_proj
        importance = gate.weight.norm(dim=1) * up.weight.norm(dim=1) * down.weight.norm(dim=0)
        count = len(importance) - round(share * len(importance))
        if count < 1:
            raise InvalidValue(f"share={share} 会把 {len(importance)} 个神经元 (neurons) 全部剪掉", "请调小")
        kept = importance.topk(count).indices.sort().values
        layer.gate_proj, layer.up_proj = _rows(gate, kept), _rows(up, kept)
        layer.down_proj = _columns(down, kept)
        layer.intermediate_size = count
    smaller.config.intermediate_size = count
    return smaller


def _rows(linear: nn.Linear, kept: Tensor) -> nn.Linear:
    bias = None if linear.bias is None else linear.bias[kept]
    return new_linear(linear.weight[kept], bias)


def _columns(linear: nn.Linear, kept: Tensor) -> nn.Linear:
    return new_linear(linear.weight[:, kept], linear.bias)


def _check_share(share: float) -> None:
    if not 0 <= share < 1:
        raise InvalidValue(
            f"剪掉的份额 (share) 应在 0 与 1 之间（可以是 0，不能是 1），却是 {share}", "例如 0.5"
        )
