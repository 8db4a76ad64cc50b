"""A model without weights: the modules of any transformers configuration, with shapes and no storage.

It lies on torch's `meta` device, so a model of 671 billion parameters takes the memory of an empty one. A model
whose code isn't in transformers (ChatGLM3-6B) is described by its `layout` in `assets/configs/`: the modules it
is made of.
"""

import copy
from typing import TYPE_CHECKING

from lab_utils.errors import InvalidValue
from lab_utils.params.configs import last_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig


def empty_model(config: "PretrainedConfig") -> "nn.Module":
    """The model of `config` on the meta device: shapes without storage, weights tied, nothing initialized."""
    import torch
    from transformers.initialization import meta_device_safe_creation_ops

    if hasattr(config, "layout"):
        return _from_layout(config)
    model_class = _model_class(config)
    try:
        with torch.device("meta"), meta_device_safe_creation_ops():
            return model_class(copy.deepcopy(config))
    except Exception as error:  # each model refuses in its own way
        raise InvalidValue(
            f"transformers 按这份 {config.model_type} 配置搭不出 {model_class.__name__}：{last_line(error)}"
        ) from error


def _model_class(config: "PretrainedConfig") -> type:
    """The class that `architectures` names, else the one for generating text, else the bare model."""
    import transformers

    named = getattr(transformers, (config.architectures or [""])[0], None)
    if named is not None:
        return named
    for task in ("FOR_IMAGE_TEXT_TO_TEXT", "FOR_CAUSAL_LM", "FOR_SEQ_TO_SEQ_CAUSAL_LM", "FOR_MASKED_LM", ""):
        mapping = getattr(transformers, f"MODEL_{task}_MAPPING".replace("__", "_"))
        if type(config) in mapping:
            classes = mapping[type(config)]
            return classes[0] if isinstance(classes, tuple) else classes
    raise InvalidValue(f"transformers 里没有配置 {type(config).__name__} 的模型，没法数它的参数")


def _from_layout(config: "PretrainedConfig") -> "nn.Module":
    """The modules that a `layout` lists, on the meta device: those before the layers, each layer's, those after."""
    import torch
    from torch import nn

    kinds = {"embedding": nn.Embedding, "linear": nn.Linear, "norm": nn.RMSNorm}
    ((layers, inside),) = config.layout["layers"].items()
    listed = list(config.layout["before"].items())
    for i in range(config.num_hidden_layers):
        listed += [(f"{layers}.{i}.{name}", sizes) for name, sizes in inside.items()]
    listed += config.layout["after"].items()
    model = nn.Module()
    for path, (kind, *sizes) in listed:
        *parents, leaf = path.split(".")
        parent = model
        for name in parents:
            if not hasattr(parent, name):
                parent.add_module(name, nn.Module())
            parent = getattr(parent, name)
        with torch.device("meta"):
            parent.add_module(leaf, kinds[kind](*sizes))
    model.get_output_embeddings = lambda: model.get_submodule(config.layout["head"])
    return model
