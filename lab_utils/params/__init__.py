"""Counts the parameters of any transformers configuration, part by part, without allocating a weight.

components          what a parameter belongs to: embedding, attention, feed-forward network, experts, norm, head
configs             the configuration that a name, a folder or a dict stands for; the ones that ship with the course
counting            parameters by component, and in all
mixture_of_experts  of a mixture of experts (MoE): the parameters that one token passes; LoRA on experts
lora_parameters     trainable parameters of LoRA; the linear layers that `targets` names
outline, meta_model the model on torch's `meta` device: shapes without storage
"""

from lab_utils.params.components import COMPONENTS, GROUPS
from lab_utils.params.configs import CONFIGS, known, load_config
from lab_utils.params.counting import ParamCount, count, model_title
from lab_utils.params.lora_parameters import linears, lora_count, target_layers
from lab_utils.params.outline import LinearShape

__all__ = [
    "COMPONENTS",
    "CONFIGS",
    "GROUPS",
    "LinearShape",
    "ParamCount",
    "count",
    "known",
    "linears",
    "load_config",
    "lora_count",
    "model_title",
    "target_layers",
]
