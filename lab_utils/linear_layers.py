"""The linear layers of a model: their weights, the output head among them, and which of them `targets` names.

`targets` is LoRA's list of layers, with peft's meaning: names of modules or the ends of such names, or the word
"all-linear", which is every linear layer but the output head.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lab_utils.errors import InvalidValue, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

ALL_LINEAR = "all-linear"
PEFT_PREFIX = "base_model.model."
"""What peft puts before a parameter's name in the file of an adapter."""


def output_head(model: "nn.Module") -> str | None:
    """Path of the layer that predicts tokens, as transformers names it; None when the model has none."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find else None
    return next((name for name, module in model.named_modules() if module is head), None)


def linear_weights(model: "nn.Module") -> "dict[str, Tensor]":
    """Name of a layer -> weight (d_out, d_in) of every `nn.Linear` of `model` but the output head.

    These are the weights that QLoRA quantizes, that pruning and factorization make smaller, and that fine-tuning
    changes. A layer that shares its weight with an embedding is left out too.
    """
    from torch import nn

    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = output_head(model)
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != head and id(module.weight) not in embeddings
    }


def is_target(name: str, target: str) -> bool:
    """Whether peft would put LoRA on the module `name` for this target: its full name, or its end after a dot."""
    return f".{name}".endswith(f".{target}")


def match_targets(
    targets: Sequence[str] | str,
    linear: Sequence[str],
    head: str | None,
    others: Sequence[str] = (),
    may_be_absent: Callable[[str], bool] = lambda target: False,
) -> set[str]:
    """The modules that `targets` names.

    linear: names of the model's linear layers. head: that of its output head. others: names of modules that a
    target may name besides. may_be_absent: whether a target that names none of all these is no error.

    Raises InvalidValue for a word other than "all-linear", no target at all, and one that names nothing; also for
    "all-linear" where there is none.
    """
    kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in linear))
    known = f"这个模型的线性层 (linear) 有：{'、'.join(kinds) or '（没有）'}。"
    if targets == ALL_LINEAR:
        every = {name for name in linear if name != head}
        if not every:
            raise InvalidValue(
                "除了输出头，这个模型里没有线性层 (linear)", "请换一个模型，或把目标层的名字列出来"
            )
        return every
    if isinstance(targets, str):
        raise InvalidValue(f"targets 要列表，例如 [{targets!r}]，或 {ALL_LINEAR!r}；收到 {targets!r}", known)
    if not targets:
        raise InvalidValue("targets 是空的，没有指定目标层", known)
    matched: set[str] = set()
    for target in targets:
        named = {name for name in (*linear, *others) if is_target(name, target)}
        if not named and not may_be_absent(target):
            raise InvalidValue(
                f"没有线性层的名字以 {target!r} 结尾 (no match)", nearest(target, kinds) + known
            )
        matched |= named
    return matched
