"""A mixture of experts: the parameters that one token passes, and LoRA on experts, which are no linear layers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lab_utils.errors import InvalidValue
from lab_utils.params.configs import last_line
from lab_utils.params.meta_model import empty_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_ALL_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN_EXPERTS = (
    "num_experts_per_tok num_experts_per_token top_k_experts moe_topk moe_top_k moe_k num_selected_experts"
).split()

EXPERT_LAYERS = "w1 w2 w3 gate gate_proj up_proj down_proj".split()
"""Names under which peft takes an expert's layers and the router."""


def active_parameters(parts: Mapping[str, int], config: "PretrainedConfig") -> int | None:
    """Parameters that one token passes; see `ParamCount.active`."""
    total, experts = sum(parts.values()), parts.get("experts", 0)
    if not experts:
        return total
    text = config.get_text_config()
    every, chosen = (
        next((getattr(text, name) for name in names if isinstance(getattr(text, name, None), int)), None)
        for names in (_ALL_EXPERTS, _CHOSEN_EXPERTS)
    )
    return total - experts + experts * chosen // every if every and chosen else None


def peft_parameters(config: "PretrainedConfig", r: int, targets: Sequence[str] | str) -> int:
    """Trainable parameters that peft puts on the model of `config`. Raises InvalidValue when it refuses.

    Whether and how LoRA goes on experts that are kept as three-dimensional tensors, under the names that each had
    alone, is a matter of peft's version, so peft itself is asked.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    chosen = targets if isinstance(targets, str) else list(targets)
    try:
        with torch.device("meta"):
            tuned = get_peft_model(empty_model(config), LoraConfig(r=r, target_modules=chosen))
    except ValueError as error:
        raise InvalidValue(f"peft 不能在这些层上加 LoRA：{last_line(error)}") from error
    return sum(p.numel() for p in tuned.parameters() if p.requires_grad)
