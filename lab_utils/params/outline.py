"""What a configuration's model is made of: parameters by component, linear layers, output head; looked up once.

Building the empty model takes a tenth of a second and more, and a slider asks for the same one often, so the
outlines of the last models are kept.
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from lab_utils.linear_layers import output_head
from lab_utils.params.components import COMPONENTS, component_of
from lab_utils.params.meta_model import empty_model

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class LinearShape:
    """A linear layer: y = Wx + b, W: (d_out, d_in)."""

    name: str
    """Full path of the module."""
    d_in: int
    d_out: int
    bias: bool
    component: str
    """A key of COMPONENTS. The output layer is `lm_head` here, tied or not."""


@dataclass(frozen=True)
class Outline:
    """The parts of a model, without the model."""

    by_component: dict[str, int]
    """Component, a key of COMPONENTS, in their order -> parameters, each tensor once."""
    linears: tuple[LinearShape, ...]
    """`nn.Linear` and GPT-2's `Conv1D`, in the model's order, the head included."""
    head: str | None
    """Path of the output layer."""


def outline(config: "PretrainedConfig") -> Outline:
    """The outline of the model of `config`. Raises InvalidValue when transformers can't build it."""
    return _outline(_Key(config))


class _Key:
    """A configuration that can be looked up: equal when class and content are."""

    def __init__(self, config: "PretrainedConfig"):
        self.config = config
        self._content = (type(config), config.name_or_path, config.to_json_string(use_diff=False))

    def __eq__(self, other) -> bool:
        return isinstance(other, _Key) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)


@lru_cache(maxsize=64)
def _outline(key: _Key) -> Outline:
    model = empty_model(key.config)
    head = output_head(model)
    sizes: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        sizes[component_of(name, head)] += parameter.numel()
    parts = {part: sizes[part] for part in COMPONENTS if sizes[part]}
    return Outline(parts, tuple(_linears(model, head)), head)


def _linears(model: "nn.Module", head: str | None) -> list[LinearShape]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    layers = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            shape = module.weight.shape
            d_in, d_out = shape if isinstance(module, Conv1D) else shape[::-1]
            layers.append(LinearShape(name, d_in, d_out, module.bias is not None, component_of(name, head)))
    return layers
