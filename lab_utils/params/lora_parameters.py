"""Trainable parameters of LoRA on any model, and the linear layers that LoRA can be put on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lab_utils.errors import InvalidValue
from lab_utils.linear_layers import match_targets
from lab_utils.params.configs import load_config
from lab_utils.params.mixture_of_experts import EXPERT_LAYERS, peft_parameters
from lab_utils.params.outline import LinearShape, Outline, outline

if TYPE_CHECKING:
    from lab_utils.params.configs import Source


def linears(source: "Source") -> list[LinearShape]:
    """The linear layers of the model that `source` describes, in the model's order, the head included.

    These are the layers that LoRA is put on: `nn.Linear` and GPT-2's `Conv1D`. Experts, which
    transformers keeps as three-dimensional tensors, are not among them, and neither is a router
    that it keeps as a bare tensor. Raises what `load_config` raises.
    """
    return list(outline(load_config(source)).linears)


def lora_count(source: "Source", r: int, targets: Sequence[str] | str) -> int:
    """Trainable parameters of LoRA at rank `r`: the sum of r · (d_in + d_out) over the target layers.

    `source`: as for `load_config`. `targets`: names of modules, or ends of them after a dot
    (`["q_proj", "mlp.up_proj"]`), or "all-linear": every linear layer but the head, as peft has it.
    Hu et al. 2021 (arXiv:2106.09685), section 4.1: A: (r, d_in), B: (d_out, r).

    On a mixture of experts peft itself is asked: whether and how it goes on experts that are kept as
    three-dimensional tensors, under the names that each had alone, is a matter of its version.

    Raises ValueError for a rank that isn't a whole number of 1 or more, or is above min(d_in, d_out)
    of a target, named in the message; for a target that no linear layer answers to; and what
    `load_config` raises.
    """
    config = load_config(source)
    shape = outline(config)
    layers = _target_layers(shape, targets)
    _check_rank(r, layers or list(shape.linears))
    for layer in layers:
        if r > min(layer.d_in, layer.d_out):
            raise InvalidValue(
                f"秩 (rank) r={r} 太大：层 {layer.name} 是 {layer.d_out}×{layer.d_in}，"
                f"秩不会超过 {min(layer.d_in, layer.d_out)}",
                "请减小 r，或不要选这一层",
            )
    if "experts" in shape.by_component:
        return peft_parameters(config, r, targets)
    return sum(r * (layer.d_in + layer.d_out) for layer in layers)


def target_layers(source: "Source", targets: Sequence[str] | str) -> list[LinearShape]:
    """The linear layers that `targets`, as for `lora_count`, names, in the model's order.

    On a mixture of experts a target may be the name of an expert's layer, which no linear layer has.
    Raises ValueError for a target that names none, and what `load_config` raises.
    """
    return _target_layers(outline(load_config(source)), targets)


def _target_layers(shape: Outline, targets: Sequence[str] | str) -> list[LinearShape]:
    has_experts = "experts" in shape.by_component
    matched = match_targets(
        targets,
        [layer.name for layer in shape.linears],
        shape.head,
        may_be_absent=lambda target: has_experts and target.split(".")[-1] in EXPERT_LAYERS,
    )
    return [layer for layer in shape.linears if layer.name in matched]


def _check_rank(r, layers: list[LinearShape]) -> None:
    """Raise InvalidValue, with the first of `layers` as an example, unless `r` is a whole number of 1 or more."""
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        layer = layers[0]
        raise InvalidValue(
            f"秩 (rank) r={r!r} 不对：要 1 或更大的整数",
            f"例如层 {layer.name} 是 {layer.d_out}×{layer.d_in}，常用 r=8 或 16",
        )
