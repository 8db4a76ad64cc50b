"""Counts the parameters of any transformers configuration, part by part, without allocating a weight.

The model is built on torch's `meta` device: every tensor has a shape and no storage, so a model of
671 billion parameters is counted in the memory of an empty one. A model whose code isn't in
transformers (ChatGLM3-6B) is described by its `layout` in `assets/configs/`: the modules it is made of.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from lab_utils import models

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn
    from transformers import PretrainedConfig

    Source = PretrainedConfig | dict | str | Path

CONFIGS = models.ASSETS / "configs"
"""Configurations of well-known models: the figures only."""

COMPONENTS = {
    "embedding": "嵌入",
    "attention_q": "注意力 Q",
    "attention_k": "注意力 K",
    "attention_v": "注意力 V",
    "attention_kv": "注意力 KV（合在一起）",
    "attention_qkv": "注意力 QKV（合在一起）",
    "attention_o": "注意力 O",
    "attention_other": "注意力其他",
    "ffn": "前馈网络",
    "experts": "路由专家",
    "shared_experts": "共享专家",
    "router": "路由器",
    "recurrent": "循环与状态空间",
    "norm": "归一化",
    "lm_head": "输出头",
    "vision": "视觉部分",
    "audio": "音频部分",
    "projector": "模态投影",
    "other": "其他",
}
"""Component -> its Chinese name, in the order of a table."""

GROUPS = {
    "embedding": "嵌入",
    "attention": "注意力",
    "ffn": "前馈网络",
    "experts": "前馈网络",
    "shared": "前馈网络",
    "router": "前馈网络",
    "lm": "输出头",
}
"""First word of a component -> its group in a picture; the rest is 其他."""

_RULES = tuple(
    (component, re.compile(pattern, re.IGNORECASE))
    for component, pattern in (
        (
            "projector",
            r"(^|\.)(\w*projector|aligner|connector|qformer|query_tokens|language_projection)(\.|$)",
        ),
        ("vision", r"(^|\.)(visual|vision\w*|image\w*|embed_vision)\."),
        ("audio", r"(^|\.)(audio\w*|embed_audio)\."),
        ("norm", r"(norm\w*|(^|\.)(ln|ln_\w+))(\.\d+)?$"),
        ("lm_head", r"(^|\.)(lm_head|head|embed_out|output_layer|predictions)(\.|$)"),
        ("router", r"(^|\.)(\w*router|gate|gating|shared_expert_gate)(\.|$)"),
        ("shared_experts", r"(^|\.)shared_(expert|experts|mlp)(\.|$)"),
        ("experts", r"(^|\.)(experts?)(\.|$)"),
        ("attention_qkv", r"(attn|attention)\w*\.(.+\.)?(\w*qkv\w*|query_key_value|c_attn)$"),
        ("attention_kv", r"(attn|attention)\w*\.(.+\.)?(kv_\w+|k_v_\w+|c_kv)$"),
        ("attention_q", r"(attn|attention)\w*\.(.+\.)?(q|q_\w+|query\w*|wq)$"),
        ("attention_k", r"(attn|attention)\w*\.(.+\.)?(k|k_\w+|key\w*|wk)$"),
        ("attention_v", r"(attn|attention)\w*\.(.+\.)?(v|v_\w+|value\w*|wv)$"),
        ("attention_o", r"(attn|attention)\w*\.(.+\.)?(o|o_\w+|out_proj|out_lin|dense|c_proj|wo)$"),
        ("attention_other", r"(attn|attention)\w*\."),
        ("embedding", r"(^|\.)(\w*embed\w*|wte|wpe|shared)(\.|$)"),
        ("ffn", r"(^|\.)(\w*mlps?|ffns?|ff|feed_forward|DenseReluDense|fc\w*|intermediate|output)(\.|$)"),
        ("recurrent", r"(^|\.)(mamba\w*|mixer|temporal_block|mlstm\w*)\."),
    )
)
"""Tried in this order on a parameter's name without its last `.weight` or `.bias`."""

_SIZES = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
    "d_model n_embd n_layer n_head num_experts num_local_experts n_routed_experts"
).split()
_OWN_HEAD_SIZE = ("head_dim", "d_kv", "kv_channels", "qk_nope_head_dim", "qk_head_dim")
"""A configuration with one of these doesn't take the size of a head from hidden_size."""
_ALL_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN_EXPERTS = (
    "num_experts_per_tok num_experts_per_token top_k_experts moe_topk moe_top_k moe_k num_selected_experts"
).split()

_EXPERT_LAYERS = "w1 w2 w3 gate gate_proj up_proj down_proj".split()
"""Names under which peft takes an expert's layers and the router."""


@dataclass(frozen=True)
class ParamCount:
    """The parameters of a model, each tensor once."""

    name: str
    by_component: dict[str, int]
    """Component (a key of COMPONENTS) -> parameters; the values add up to `total`."""
    active: int | None
    """Parameters that one token passes: `total`, less the routed experts it isn't sent to. None for a
    mixture of experts whose configuration doesn't say how many experts a token is sent to."""

    @property
    def total(self) -> int:
        return sum(self.by_component.values())

    @property
    def shares(self) -> dict[str, float]:
        """Component -> its share of the total, 0 to 1."""
        return {part: n / self.total for part, n in self.by_component.items()}

    @property
    def groups(self) -> dict[str, int]:
        """The components put together: 嵌入, 注意力, 前馈网络 (experts and router too), 输出头, 其他."""
        found = dict.fromkeys((*GROUPS.values(), "其他"), 0)
        for part, n in self.by_component.items():
            found[GROUPS.get(part.split("_")[0], "其他")] += n
        return found

    def table(self) -> "pd.DataFrame":
        """One row a component, in the order of COMPONENTS, and the total: 部分, 参数量, 占比."""
        import pandas as pd

        rows = [(COMPONENTS[part], n, n / self.total) for part, n in self.by_component.items()]
        rows.append(("合计", self.total, 1.0))
        return pd.DataFrame(
            [(part, f"{n:,}", f"{share:.2%}") for part, n, share in rows],
            columns=["部分", "参数量", "占比"],
        ).set_index("部分")

    def __str__(self) -> str:
        active = f"，每个词元用到 {self.active:,}" if self.active not in (None, self.total) else ""
        return f"{self.name}：{self.total:,} 个参数{active}"


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


def count(source: "Source") -> ParamCount:
    """The parameters of the model that `source` describes, by component.

    `source`: as for `load_config`. A tied tensor counts once, as embedding; biases count with the
    layer they belong to. What transformers keeps as a buffer isn't a parameter: DeepSeek-V3's
    58 × 256 correction biases of the router, which no gradient trains, are not in its count, nor
    is its module for multi-token prediction, which transformers doesn't build.

    Raises what `load_config` raises.
    """
    config = load_config(source)
    model = _build(config)
    found = Counter()
    head = _head(model)
    for name, parameter in model.named_parameters():
        found[_component(name, head)] += parameter.numel()
    parts = {part: found[part] for part in COMPONENTS if found[part]}
    return ParamCount(_title(source, config), parts, _active(parts, config))


def linears(source: "Source") -> list[LinearShape]:
    """The linear layers of the model that `source` describes, in the model's order, the head included.

    These are the layers that LoRA is put on: `nn.Linear` and GPT-2's `Conv1D`. Experts, which
    transformers keeps as three-dimensional tensors, are not among them, and neither is a router
    that it keeps as a bare tensor. Raises what `load_config` raises.
    """
    return _linears(_build(load_config(source)))


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
    model = _build(load_config(source))
    layers = _targeted(model, targets)
    if isinstance(r, bool) or not isinstance(r, int) or r < 1:
        layer = (layers or _linears(model))[0]
        raise ValueError(
            f"秩 (rank) r={r!r} 不对：要 1 或更大的整数。"
            f"例如层 {layer.name} 是 {layer.d_out}×{layer.d_in}，常用 r=8 或 16。"
        )
    for layer in layers:
        if r > min(layer.d_in, layer.d_out):
            raise ValueError(
                f"秩 (rank) r={r} 太大：层 {layer.name} 是 {layer.d_out}×{layer.d_in}，"
                f"秩不会超过 {min(layer.d_in, layer.d_out)}。请减小 r，或不要选这一层。"
            )
    if _has_experts(model):
        return _counted_by_peft(model, r, targets)
    return sum(r * (layer.d_in + layer.d_out) for layer in layers)


def known() -> list[str]:
    """Names of the configurations that ship with the course."""
    return sorted(file.stem for file in CONFIGS.glob("*.json"))


def load_config(source: "Source") -> "PretrainedConfig":
    """The configuration that `source` stands for; no weights are read, nothing is downloaded.

    `source`: a transformers configuration (given back as it is), a dict with the content of a
    `config.json`, a folder that holds one, or a name: one of `known()`, with or without `-Instruct`,
    or a model of `lab_utils.models` that lies on this disk.

    Raises ValueError for an unknown name, a file that isn't a JSON object, a missing or unknown
    `model_type`, and sizes that can't be; FileNotFoundError for a folder without `config.json`;
    TypeError for anything else than these kinds.
    """
    from transformers import PretrainedConfig

    if isinstance(source, PretrainedConfig):
        raw = source.to_dict()
        _check_positive(raw, type(source).__name__)
        _check_heads(raw, type(source).__name__)
        return source
    if isinstance(source, dict):
        return _from_dict(source, "传入的字典 (dict)")
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"要一份 transformers 配置 (config)、字典 (dict)、文件夹或名字，收到的是 {type(source).__name__}"
        )
    file = _config_file(source)
    return _from_dict(_read(file), str(file))


def _config_file(source: str | Path) -> Path:
    """The `config.json` that a name or a folder stands for."""
    folder = Path(source).expanduser()
    if isinstance(source, str):
        for name in (source, source.removesuffix("-Instruct")):
            if name in known():
                return CONFIGS / f"{name}.json"
        if source in models.REGISTRY and models.local(source):
            folder = models.local(source)
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return folder / "config.json"
        raise FileNotFoundError(
            f"文件夹 {folder} 里没有 config.json。请给出模型的文件夹，而不是它上面或下面的一层。"
        )
    if folder.is_file():
        raise ValueError(f"{folder} 是文件。请给出它所在的文件夹，里面要有 config.json。")
    names = sorted({*known(), *models.REGISTRY})
    lower = {name.lower(): name for name in names}
    near = [lower[name] for name in get_close_matches(str(source).lower(), lower, n=3)]
    hint = f"是不是 {'、'.join(near)}？" if near else ""
    raise ValueError(
        f"不认识 {str(source)!r}：它不是已知的名字，也不是本机上的文件夹。{hint}可用的名字：{'、'.join(known())}"
    )


def _read(file: Path) -> dict:
    """The JSON object in `file`."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} 不是完整的 JSON：{error}。请重新取一份。") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{file} 里应该是一个 JSON 对象 (object)，却是 {type(raw).__name__}。")
    return raw


def _from_dict(raw: dict, where: str) -> "PretrainedConfig":
    """The configuration with the content `raw`; `where` names it in an error."""
    from transformers import CONFIG_MAPPING, PretrainedConfig

    kind = raw.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ValueError(
            f'{where} 里没有 model_type，不知道是哪一种模型。请补上，例如 "model_type": "qwen3"。'
        )
    _check_positive(raw, where)
    if "layout" in raw:
        return PretrainedConfig(**raw)
    if kind not in CONFIG_MAPPING:
        near = get_close_matches(kind, CONFIG_MAPPING, n=3)
        hint = f"是不是 {'、'.join(near)}？" if near else ""
        own = "ChatGLM3-6B 请按名字数：count('ChatGLM3-6B')。" if kind.startswith("chatglm") else ""
        raise ValueError(f"{where}：装着的 transformers 不认识 model_type {kind!r}。{hint}{own}")
    try:
        config = CONFIG_MAPPING[kind].from_dict(copy.deepcopy(raw))
    except Exception as error:  # each configuration class refuses in its own way
        _check_heads(raw, where)
        raise ValueError(f"{where} 里的数值搭不成配置 (config)：{_last_line(error)}") from error
    _check_heads(config.to_dict(), where)
    return config


def _check_positive(raw: dict, where: str) -> None:
    """Raise ValueError unless the sizes in `raw`, and in the configurations inside it, are whole and positive."""
    for key, value in raw.items():
        if isinstance(value, dict):
            _check_positive(value, f"{where} 的 {key}")
        elif key in _SIZES and value is not None and not isinstance(value, (list, tuple)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value < 1:
                raise ValueError(f"{where}：{key} = {value!r} 不对，要 1 或更大的整数。")


def _check_heads(raw: dict, where: str) -> None:
    """Raise ValueError where the attention heads don't divide evenly, in `raw` or a configuration inside it."""
    for key, value in raw.items():
        if isinstance(value, dict):
            _check_heads(value, f"{where} 的 {key}")
    size, heads, groups = (raw.get(f) for f in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    own = any(raw.get(field) for field in _OWN_HEAD_SIZE)
    if isinstance(size, int) and isinstance(heads, int) and not own and size % heads:
        raise ValueError(
            f"{where}：hidden_size = {size} 不能被 num_attention_heads = {heads} 整除，每个头分不到整数维。"
        )
    if isinstance(heads, int) and isinstance(groups, int) and heads % groups:
        raise ValueError(
            f"{where}：num_attention_heads = {heads} 不能被 num_key_value_heads = {groups} 整除，"
            "查询头 (query head) 分不成一样大的组。"
        )


def _build(config: "PretrainedConfig") -> "nn.Module":
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
        raise ValueError(
            f"transformers 按这份 {config.model_type} 配置搭不出 {model_class.__name__}：{_last_line(error)}"
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
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple) else found
    raise ValueError(f"transformers 里没有配置 {type(config).__name__} 的模型，没法数它的参数。")


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


def _head(model: "nn.Module") -> str | None:
    """Path of the output layer as transformers names it, None when it has none."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find else None
    return next((name for name, module in model.named_modules() if module is head), None)


def _component(parameter: str, head: str | None) -> str:
    """The component that the parameter of this name belongs to; `head` is the path of the output layer."""
    module = parameter.removesuffix(".weight").removesuffix(".bias")
    if module == head:
        return "lm_head"
    return next((component for component, rule in _RULES if rule.search(module)), "other")


def _linears(model: "nn.Module") -> list[LinearShape]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = _head(model)
    found = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            shape = module.weight.shape
            d_in, d_out = shape if isinstance(module, Conv1D) else shape[::-1]
            found.append(LinearShape(name, d_in, d_out, module.bias is not None, _component(name, head)))
    return found


def _targeted(model: "nn.Module", targets: Sequence[str] | str) -> list[LinearShape]:
    """The linear layers that `targets` names. Raises ValueError for a target that names none.

    On a mixture of experts a target may be the name of an expert's layer, which no linear layer has.
    """
    layers = _linears(model)
    kinds = "、".join(dict.fromkeys(layer.name.split(".")[-1] for layer in layers)) or "（没有）"
    if isinstance(targets, str):
        if targets != "all-linear":
            raise ValueError(f"targets 要列表，例如 [{targets!r}]，或 'all-linear'；收到 {targets!r}。")
        head = _head(model)
        targets = [layer.name for layer in layers if layer.name != head]
    if not targets:
        raise ValueError(f"targets 是空的。这个模型的线性层 (linear)：{kinds}")
    elsewhere = _EXPERT_LAYERS if _has_experts(model) else ()
    for target in targets:
        named = any(_answers(layer.name, target) for layer in layers)
        if not named and target.split(".")[-1] not in elsewhere:
            raise ValueError(f"没有线性层的名字以 {target!r} 结尾。这个模型的线性层 (linear)：{kinds}")
    return [layer for layer in layers if any(_answers(layer.name, target) for target in targets)]


def _has_experts(model: "nn.Module") -> bool:
    return any(_component(name, None) == "experts" for name, _ in model.named_parameters())


def _counted_by_peft(model: "nn.Module", r: int, targets: Sequence[str] | str) -> int:
    """Trainable parameters that peft puts on `model`, which lies on the meta device."""
    import torch
    from peft import LoraConfig, get_peft_model

    chosen = targets if isinstance(targets, str) else list(targets)
    try:
        with torch.device("meta"):
            tuned = get_peft_model(model, LoraConfig(r=r, target_modules=chosen))
    except ValueError as error:
        raise ValueError(f"peft 不能在这些层上加 LoRA：{_last_line(error)}") from error
    return sum(p.numel() for p in tuned.parameters() if p.requires_grad)


def _answers(name: str, target: str) -> bool:
    """Whether peft would put LoRA on the module `name` for this target."""
    return name == target or name.endswith(f".{target}")


def _active(parts: dict[str, int], config: "PretrainedConfig") -> int | None:
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


def _title(source: "Source", config: "PretrainedConfig") -> str:
    """What to call the model in a table or a message."""
    if isinstance(source, (str, Path)):
        return Path(source).name
    return Path(getattr(config, "name_or_path", "") or config.model_type).name


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip() if str(error).strip() else type(error).__name__
