"""Memory of training and inference: predicted from a configuration, and measured.

What a step holds, in bytes (P parameters, n of them trained, T = batch · seq tokens):

    weights             2P in bfloat16, 4P in float32, about P/2 in NF4
    gradients           n · bytes of a trained weight
    optimizer states    for AdamW twice that: both moments have the dtype of the weight
    activations         what autograd keeps for the backward pass, layer by layer: `layer_activations`
    logits and loss     three float32 tensors (T, vocab) at once: the log-softmax, the gradient that the
                        negative log-likelihood gives it, and the one that it hands on
    temporary buffers   gradients of activations in the layer whose turn it is, dequantized weights

They are not all there at the same time, so the prediction is the largest of the moments of a step:

    loss                all activations, the three tensors over the vocabulary, no gradient of a weight
    lm_head             all activations, the gradients of the logits and of the output layer's weight
    last layer          the activations of all layers and the temporaries of one; the first gradients
    first layer         activations and temporaries of one layer; nearly all gradients
    embedding           all gradients; with tied embeddings two more of that size, because autograd adds
                        the gradient from the output layer to the one from the input in a third tensor
    optimizer           all gradients

From `last layer` to `first layer` each layer takes as much away and adds as much as any other, so the most
is at one of the two ends. With gradient checkpointing (Chen et al. 2016, arXiv:1604.06174) only each
layer's input is kept, and one layer at a time is computed again.

Assumed: gradients set to None after each step of the optimizer; sequences without padding, so that
attention needs no mask; the loss of transformers, and a loop that doesn't hold on to the logits; AdamW in its
fused form, the default of transformers, which makes no copies; no dropout. What the allocator keeps for
itself and the context of CUDA, about half a GiB, come on top.
"""

import gc
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lab_utils import models, params

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

GIB = 1 << 30
GPUS = {"T4": 16, "RTX 3090": 24, "RTX 4090": 24, "A100 40G": 40, "A100 80G": 80}
"""Graphics card -> its memory in GiB."""
METHODS = {"full": "全参数 (full)", "lora": "LoRA", "qlora": "QLoRA", "inference": "推理 (inference)"}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
OPTIMIZERS = ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "sgd")
ATTENTIONS = ("sdpa", "eager")
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Weights to a scale that bitsandbytes can have in 4 bit."""
PARTS = {
    "weights": "权重",
    "quantization constants": "量化常数",
    "adapters": "适配器",
    "gradients": "梯度",
    "optimizer states": "优化器状态",
    "activations": "激活值",
    "logits and loss": "logits 与损失",
    "kv cache": "KV 缓存",
    "temporary buffers": "临时缓冲",
}
"""Part -> its Chinese name, in the order of a table."""
MOMENTS = {
    "loss": "算损失",
    "lm_head": "输出头反传",
    "last layer": "最后一层反传",
    "first layer": "第一层反传",
    "embedding": "嵌入层反传",
    "optimizer": "优化器更新",
    "prefill": "读入提示 (prefill)",
    "next token": "算下一个词元",
}
"""Moment -> its Chinese name, in the order of time."""
_MEASURED = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe")
"""Families whose steps are compared with a measurement. The dense ones keep, to the byte, what
`layer_activations` says."""
_COUNTED: dict = {}
"""What `_counted` has found."""
_NOT_TEXT = ("vision", "audio")
"""Components beside the decoder."""
_HEAD_NORM = ("qwen3", "qwen3_moe")
"""Families with a norm on each head's query and key."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a model is trained or run. Raises ValueError for a value that can't be."""

    seq_len: int = 512
    """Tokens a sequence; in inference prompt and answer together."""
    batch_size: int = 1
    """Sequences that go through the model together, on one device."""
    gradient_accumulation: int = 1
    """Such batches a step of the optimizer. From the second on, all gradients are there from the start."""
    dtype: str = "bfloat16"
    """Of the computation and of the weights that aren't quantized: `float32`, `bfloat16`, `float16`."""
    quantization: str | None = None
    """Of the linear layers in inference: `nf4` or `int8`. QLoRA's is always `nf4`."""
    r: int = 8
    """Rank of LoRA."""
    targets: Sequence[str] | str = "all-linear"
    """Layers that get LoRA, as for `params.lora_count`."""
    optimizer: str = "adamw"
    """One of OPTIMIZERS; `sgd` is without momentum."""
    gradient_checkpointing: bool = False
    """Whether activations are computed a second time instead of kept."""
    attention: str = "sdpa"
    """`sdpa`, whose kernels never hold the scores, or `eager`, which keeps (batch, heads, seq, seq)."""
    autocast: bool = True
    """Whether adapters, which peft keeps in float32, compute in `dtype`: transformers' Trainer with
    `bf16=True` or `fp16=True`."""
    double_quant: bool = True
    """Whether NF4's scales are quantized too."""
    block_size: int = 64
    """Weights to one scale of NF4."""

    def __post_init__(self):
        counts = {"seq_len": "序列长度", "batch_size": "批大小", "gradient_accumulation": "梯度累积"}
        for name, what in counts.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{what} ({name}) 要 1 或更大的整数，却是 {value!r}。")
        _choose("数据类型 (dtype)", self.dtype, BYTES)
        _choose("量化 (quantization)", self.quantization, (None, "nf4", "int8"))
        _choose("优化器 (optimizer)", self.optimizer, OPTIMIZERS)
        _choose("注意力 (attention)", self.attention, ATTENTIONS)
        _choose("分块大小 (block_size)", self.block_size, BLOCK_SIZES)


@dataclass(frozen=True)
class Estimate:
    """A prediction, in bytes."""

    title: str
    method: str
    parts: dict[str, int]
    """Part (a key of PARTS) -> bytes at the moment when the sum is largest."""
    moments: dict[str, int]
    """Moment (a key of MOMENTS) -> the sum then."""
    static: dict[str, int]
    """What depends on neither batch nor sequence, in full, whether or not all of it is there at the peak."""
    host_bytes: int
    """Paged optimizer states, which can be moved to the machine's own memory; not in the sum."""
    notes: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """The sum of `parts`."""
        return sum(self.parts.values())

    @property
    def gib(self) -> float:
        """The sum in GiB."""
        return self.total_bytes / GIB

    @property
    def peak_moment(self) -> str:
        """The moment that `parts` describes."""
        return max(self.moments, key=self.moments.get)

    def rows(self) -> list[tuple[str, str, str]]:
        """One row a part, and the sum: name, size, share."""
        total = self.total_bytes
        rows = [(f"{PARTS[p]} ({p})", format_bytes(n), f"{n / total:.1%}") for p, n in self.parts.items()]
        return [*rows, ("合计 (total)", format_bytes(total), "100.0%")]

    def _caption(self) -> str:
        return f"{self.title}：{METHODS[self.method]}，最多时在“{MOMENTS[self.peak_moment]}”"

    def __str__(self) -> str:
        rows = [f"  {size:>10} {share:>7}  {name}" for name, size, share in self.rows()]
        return "\n".join([self._caption(), *rows, *(f"  注意：{note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>注意：{escape(note)}</p>" for note in self.notes)
        return _html_table(self._caption(), ("部分", "大小", "占比"), self.rows()) + notes


@dataclass(frozen=True)
class Verdict:
    """Whether one method fits, and what to change when it doesn't."""

    estimate: Estimate
    fits: bool
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Fits:
    """The verdicts for one amount of memory."""

    gib: float
    verdicts: dict[str, Verdict]
    """Method -> verdict."""

    def __getitem__(self, method: str) -> Verdict:
        return self.verdicts[method]

    def _caption(self) -> str:
        return f"{self['full'].estimate.title}，显存 {self.gib:g} GiB"

    def _heads(self) -> list[tuple[str, str, str]]:
        return [
            (METHODS[method], format_bytes(v.estimate.total_bytes), "放得下" if v.fits else "放不下")
            for method, v in self.verdicts.items()
        ]

    def __str__(self) -> str:
        lines = [self._caption()]
        for (name, size, answer), verdict in zip(self._heads(), self.verdicts.values(), strict=True):
            lines += [f"  {name}：{size}，{answer}", *(f"    · {advice}" for advice in verdict.advice)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        advice = ["；".join(verdict.advice) for verdict in self.verdicts.values()]
        rows = [(*head, words) for head, words in zip(self._heads(), advice, strict=True)]
        return _html_table(self._caption(), ("方法", "预计", "结论", "怎么办"), rows)


def estimate(source, method: str = "full", **setting) -> Estimate:
    """Peak memory of a training step, or of reading a prompt, of the model that `source` describes.

    source: as for `params.load_config`; no weight is allocated. method: `full`, `lora`, `qlora` or
    `inference`. setting: fields of `Setting`, such as seq_len=1024, batch_size=4, dtype="float32",
    gradient_checkpointing=True. A sequence beyond the model's positions is estimated, and said in `notes`.

    Raises ValueError for an unknown method, a setting that can't be, and a configuration that isn't a
    Transformer decoder; TypeError for an unknown setting; what `params.load_config` and
    `params.lora_count` raise.
    """
    return _estimate(_job(source, method, setting))


def layer_activations(source, method: str = "full", **setting) -> dict[str, int]:
    """What autograd keeps of one decoder layer for the backward pass: tensor -> bytes.

    Two rules give the list. A product keeps a factor when the gradient of the other needs it: so a linear
    layer keeps its input only where its weight is trained, by itself or through LoRA. A sum keeps
    nothing. Of a mixture of experts it is a sparse layer. Arguments and errors as for `estimate`.
    """
    return {name: n for name, n in _layer_activations(_job(source, method, setting)).items() if n}


def fits(source, gib: float, *, reserve_gib: float = 1.0, **setting) -> Fits:
    """Which of full, LoRA, QLoRA training and inference fits in `gib` GiB, and what to change for the rest.

    reserve_gib: kept free for what isn't predicted, the context of CUDA and gaps in the allocator. setting:
    as for `estimate`. The advice has figures: what each change saves by itself and, when none is
    enough, how many of them together are. Raises ValueError unless gib is above reserve_gib, and what
    `estimate` raises.
    """
    if not 0 <= reserve_gib < gib < float("inf"):
        raise ValueError(f"显存 gib={gib!r} 应当大于预留的 reserve_gib={reserve_gib!r}，都以 GiB 计。")
    room = round((gib - reserve_gib) * GIB)
    verdicts = {}
    for method in METHODS:
        quantization = setting.get("quantization") if method == "inference" else None
        job = _job(source, method, setting | {"quantization": quantization})
        now = _estimate(job)
        enough = now.total_bytes <= room
        verdicts[method] = Verdict(now, enough, () if enough else tuple(_advice(job, room)))
    return Fits(gib, verdicts)


def format_bytes(n: int) -> str:
    """Bytes in GiB, or in MiB or KiB when they are few: `1.25 GiB`."""
    for unit, size in (("GiB", GIB), ("MiB", 1 << 20)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n / 1024:.1f} KiB"


def _html_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}</table>"


def _choose(what: str, value, known) -> None:
    """Raise ValueError, with the choices, unless `value` is one of `known`."""
    if value in tuple(known):
        return
    near = get_close_matches(str(value).lower(), [str(name) for name in known], n=1)
    hint = f"是不是 {near[0]!r}？" if near else ""
    raise ValueError(f"{what} 不能是 {value!r}。{hint}可以是：{'、'.join(str(name) for name in known)}")


# ── the model and the job ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class _Model:
    """What of a configuration decides the memory. Widths are floats a token."""

    title: str
    family: str
    components: dict[str, int]
    """Parameters by component."""
    linears: list[params.LinearShape]
    """The linear layers but the head."""
    layers: int
    hidden: int
    vocab: int
    positions: int | None
    heads: int
    kv_heads: int
    query: int
    key: int
    value: int
    attended: int
    """Output of attention, before its projection."""
    cached: int
    """What a layer keeps of a token in the cache."""
    inner: int
    """Inner width of the feed-forward network, or of one expert."""
    gated: bool
    """Whether that network is down(act(gate) · up), Shazeer 2020 (arXiv:2002.05202), or down(act(up))."""
    experts: int = 0
    routed: int = 0
    """Experts that a token is sent to; 0 in a dense model."""
    shared: int = 0
    """Inner width of the experts that all tokens are sent to."""

    @property
    def tied(self) -> bool:
        """Whether output layer and embeddings are one tensor."""
        return "lm_head" not in self.components


@dataclass(frozen=True)
class _Job:
    """A model, a method and a setting, checked."""

    model: _Model
    method: str
    setting: Setting
    targets: list[params.LinearShape]
    """The layers with LoRA; empty for other methods."""
    trained: int
    """Trained parameters."""

    @property
    def tokens(self) -> int:
        return self.setting.batch_size * self.setting.seq_len

    @property
    def c(self) -> int:
        """Bytes of one number in the computation, and of a weight that isn't quantized."""
        return BYTES[self.setting.dtype]

    @property
    def quantization(self) -> str | None:
        return "nf4" if self.method == "qlora" else self.setting.quantization

    @property
    def trained_bytes(self) -> int:
        """Bytes of one trained weight: adapters are float32."""
        return 4 if self.targets else self.c

    @property
    def adapter_bytes(self) -> int:
        """Bytes of one number that an adapter computes."""
        return self.c if self.setting.autocast else 4

    @property
    def copies(self) -> bool:
        """Whether each adapter keeps a copy of its input: peft casts it to the adapter's float32, autocast
        back again. In 4-bit layers peft leaves the cast to autocast, when that is on."""
        return self.c != 4 and not (self.method == "qlora" and self.setting.autocast)

    @property
    def on_experts(self) -> bool:
        """Whether LoRA is also on experts, which are no linear layers."""
        on_linears = sum(self.setting.r * (layer.d_in + layer.d_out) for layer in self.targets)
        return bool(self.targets) and self.trained > on_linears

    @property
    def state_bytes(self) -> int:
        """Bytes of the optimizer's states, wherever they are."""
        if self.setting.optimizer == "sgd" or self.method == "inference":
            return 0
        if self.setting.optimizer.endswith("8bit"):  # both moments in int8, a float32 scale for each 256
            return 2 * (self.trained + 4 * -(-self.trained // 256))
        return 2 * self.trained * self.trained_bytes

    @property
    def paged_bytes(self) -> int:
        return self.state_bytes if self.setting.optimizer.startswith("paged") else 0


def _job(source, method: str, setting: dict) -> _Job:
    """Check what `estimate` is given and look up what it means for this model."""
    _choose("方法 (method)", method, METHODS)
    unknown = sorted(set(setting) - {field.name for field in fields(Setting)})
    if unknown:
        names = "、".join(field.name for field in fields(Setting))
        raise TypeError(f"不认识设置 (setting) {'、'.join(unknown)}。可以是：{names}")
    setting = Setting(**setting)
    if setting.quantization and method != "inference":
        raise ValueError(f"quantization 只用于推理 (inference)，方法是 {method!r}。量化后训练请用 'qlora'。")
    config = params.load_config(source)
    counted, linears = _counted(config)
    title = Path(source).name if isinstance(source, (str, Path)) else counted.name
    model = _model(config, title, counted.by_component, linears)
    if method not in ("lora", "qlora"):
        return _Job(model, method, setting, [], sum(model.components.values()) if method == "full" else 0)
    trained = params.lora_count(config, setting.r, setting.targets)
    targets = [layer for layer in linears if _targeted(layer, setting.targets)]
    return _Job(model, method, setting, targets, trained)


def _targeted(layer: params.LinearShape, targets: Sequence[str] | str) -> bool:
    """Whether LoRA goes on `layer`; that `targets` is right, `params.lora_count` has checked."""
    if targets == "all-linear":
        return layer.component != "lm_head"
    return any(layer.name == target or layer.name.endswith(f".{target}") for target in targets)


def _counted(config: "PretrainedConfig") -> tuple[params.ParamCount, list[params.LinearShape]]:
    """Parameters and linear layers of `config`, looked up once: a slider asks for the same model often."""
    key = (config.name_or_path, config.to_json_string(use_diff=False))
    if key not in _COUNTED:
        _COUNTED[key] = params.count(config), params.linears(config)
    return _COUNTED[key]


def _model(
    config: "PretrainedConfig", title: str, components: dict[str, int], linears: list[params.LinearShape]
) -> _Model:
    """The sizes in `config`. Raises ValueError when it doesn't describe a Transformer decoder."""
    text = config.get_text_config()
    linears = [layer for layer in linears if layer.component != "lm_head"]
    inner, gated = _feed_forward(text, linears)
    sizes = {"inner": inner, "gated": gated} | _attention_sizes(text)
    if "experts" in components:
        sizes |= _experts_sizes(text)
    return _Model(
        title=title,
        family=text.model_type,
        components=components,
        linears=linears,
        layers=_size(text, "num_hidden_layers"),
        hidden=_size(text, "hidden_size"),
        vocab=_size(text, "vocab_size"),
        positions=getattr(text, "max_position_embeddings", None),
        **sizes,
    )


def _attention_sizes(text: "PretrainedConfig") -> dict[str, int]:
    heads = _size(text, "num_attention_heads")
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    sizes = {"heads": heads, "kv_heads": kv_heads}
    if getattr(text, "kv_lora_rank", None):  # multi-head latent attention, DeepSeek-V2, arXiv:2405.04434
        query = heads * (text.qk_nope_head_dim + text.qk_rope_head_dim)
        value = heads * text.v_head_dim
        cached = text.kv_lora_rank + text.qk_rope_head_dim
        return sizes | {"query": query, "key": query, "value": value, "attended": value, "cached": cached}
    head = getattr(text, "head_dim", None) or _size(text, "hidden_size") // heads
    query, key = heads * head, kv_heads * head
    return sizes | {"query": query, "key": key, "value": key, "attended": query, "cached": 2 * key}


def _feed_forward(text: "PretrainedConfig", linears: list[params.LinearShape]) -> tuple[int, bool]:
    """Inner width of the feed-forward network, and whether it is gated: twice that width leads in."""
    ffn = [layer for layer in linears if layer.component == "ffn"]
    down = next((layer for layer in reversed(ffn) if layer.d_out == text.hidden_size != layer.d_in), None)
    if down is None:
        return getattr(text, "intermediate_size", None) or 4 * _size(text, "hidden_size"), True
    block = down.name.rpartition(".")[0] + "."
    into = sum(layer.d_out for layer in ffn if layer.name.startswith(block) and layer is not down)
    return down.d_in, into == 2 * down.d_in


def _experts_sizes(text: "PretrainedConfig") -> dict[str, int]:
    inner = getattr(text, "moe_intermediate_size", None) or _size(text, "intermediate_size")
    shared = getattr(text, "shared_expert_intermediate_size", None)
    return {
        "experts": _size(text, "num_experts", "num_local_experts", "n_routed_experts"),
        "routed": _size(text, "num_experts_per_tok", "top_k_experts", "moe_topk"),
        "inner": inner,
        "gated": True,
        "shared": shared or inner * (getattr(text, "n_shared_experts", None) or 0),
    }


def _size(text: "PretrainedConfig", *names: str) -> int:
    """The first of these sizes that the configuration has."""
    value = next((getattr(text, name) for name in names if getattr(text, name, None)), None)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"配置 {type(text).__name__} 里没有可用的 {names[0]}（是 {value!r}）。"
            "这里只估算 Transformer 解码器 (decoder)：每层一个注意力、一个前馈网络。"
        )
    return value


# ── the moments of a step ────────────────────────────────────────────────────────────────────────


def _estimate(job: _Job) -> Estimate:
    """The moment that holds most."""
    held = _inference_moments(job) if job.method == "inference" else _training_moments(job)
    moments = {moment: sum(parts.values()) for moment, parts in held.items()}
    peak = held[max(moments, key=moments.get)]
    return Estimate(
        title=job.model.title,
        method=job.method,
        parts={part: peak[part] for part in PARTS if peak.get(part)},
        moments=moments,
        static={part: n for part, n in (_resident(job) | {"gradients": _gradients(job)}).items() if n},
        host_bytes=job.paged_bytes,
        notes=tuple(_notes(job)),
    )


def _training_moments(job: _Job) -> dict[str, dict[str, int]]:
    """Moment -> part -> bytes; see the module's docstring."""
    m, c = job.model, job.c
    always = _resident(job)
    one_layer = sum(_layer_activations(job).values())
    all_layers, others = _all_layers(job, one_layer)
    activations = {
        "loss": all_layers + _last_norm(job),
        "lm_head": all_layers + _last_norm(job),
        "last layer": others + one_layer,
        "first layer": _shared_tensors(job) + one_layer,
    }
    scores = job.tokens * m.vocab
    logits = {"loss": 3 * 4 * scores, "lm_head": c * scores}
    temporary = dict.fromkeys(("last layer", "first layer"), _layer_temporaries(job))
    temporary["lm_head"] = c * job.tokens * m.hidden
    return {
        moment: always
        | {"activations": activations.get(moment, 0), "logits and loss": logits.get(moment, 0)}
        | {"gradients": gradients, "temporary buffers": temporary.get(moment, 0) + adding}
        for moment, (gradients, adding) in _gradients_by_moment(job).items()
    }


def _inference_moments(job: _Job) -> dict[str, dict[str, int]]:
    """Moment -> part -> bytes. Without autograd a tensor lives only until its last use."""
    m, c = job.model, job.c
    always = _resident(job) | {"kv cache": c * job.tokens * m.cached * m.layers}
    prefill = _shared_tensors(job) + _prefill_temporaries(job)
    return {
        "prefill": always | {"temporary buffers": prefill},
        "next token": always | {"logits and loss": (c + 4) * job.setting.batch_size * m.vocab},
    }


def _resident(job: _Job) -> dict[str, int]:
    """What stays from step to step."""
    quantized = job.model.linears if job.quantization else []
    codes = sum(layer.d_in * layer.d_out for layer in quantized)
    others = sum(job.model.components.values()) - codes
    return {
        "weights": others * job.c + (codes // 2 if job.quantization == "nf4" else codes),
        "quantization constants": sum(_constants(job, layer) for layer in quantized),
        "adapters": job.trained * job.trained_bytes if job.targets else 0,
        "optimizer states": job.state_bytes - job.paged_bytes,
    }


def _constants(job: _Job, layer: params.LinearShape) -> int:
    """Bytes that bitsandbytes keeps beside the codes of a quantized weight.

    int8: a float32 scale a row. NF4 (Dettmers et al. 2023, arXiv:2305.14314, section 3): a float32 scale a
    block and the table of 16 levels. Double quantization: an int8 scale a block, for each 256 of them a
    float32 scale, their mean, and a table of 256 levels more.
    """
    if job.quantization == "int8":
        return 4 * layer.d_out
    blocks = -(-layer.d_in * layer.d_out // job.setting.block_size)
    if not job.setting.double_quant:
        return 4 * blocks + 4 * 16
    return blocks + 4 * -(-blocks // 256) + 4 + 4 * (16 + 256)


def _gradients(job: _Job) -> int:
    """Bytes of the gradients of all trained weights."""
    return job.trained * job.trained_bytes


def _gradients_by_moment(job: _Job) -> dict[str, tuple[int, int]]:
    """Moment -> bytes of the gradients, and of gradients on the way to be added to them.

    In a layer's feed-forward network that layer's `down` is the first to have its gradient. With gradient
    accumulation all gradients are there already, and each new one comes beside them.
    """
    m, c = job.model, job.c
    every = _gradients(job)
    head = down = layer = 0
    if job.method == "full":
        outside = sum(m.components.get(part, 0) for part in ("embedding", "lm_head", *_NOT_TEXT))
        layer = c * (job.trained - outside) // m.layers
        down = c * m.hidden * (m.inner * max(m.experts, 1) + m.shared)
        head = c * m.components["embedding" if m.tied else "lm_head"]
    pending = head if m.tied else 0
    if job.setting.gradient_accumulation > 1:
        new = {"loss": 0, "lm_head": head, "last layer": pending + down, "first layer": pending + down}
        new |= {"embedding": 3 * pending or head, "optimizer": 0}
        return {moment: (every, adding) for moment, adding in new.items()}
    return {
        "loss": (0, 0),
        "lm_head": (head, 0),
        "last layer": (head + down, 0),
        "first layer": (every - layer + down - (head - pending), 0),
        "embedding": (every, 2 * pending),
        "optimizer": (every, 0),
    }


def _all_layers(job: _Job, one_layer: int) -> tuple[int, int]:
    """Bytes kept when all layers are through, and those of them besides the last layer's own.

    With checkpointing it is each layer's input; the layer that is computed again shares its input with what
    its norm keeps, unless that has to be a copy in float32. Without it, and with frozen embeddings,
    nothing before the first layer's norm needs a gradient, so that norm keeps nothing.
    """
    m, tokens = job.model, job.tokens
    shared = _shared_tensors(job)
    if job.setting.gradient_checkpointing:
        layer_input = job.c * tokens * m.hidden
        inputs = m.layers * layer_input
        return shared + inputs, shared + inputs - (layer_input if job.c == 4 else 0)
    unneeded = 4 * tokens * (m.hidden + 1) if job.targets else 0
    return shared + m.layers * one_layer - unneeded, shared + (m.layers - 1) * one_layer - unneeded


def _shared_tensors(job: _Job) -> int:
    """Token ids, labels and mask in int64, and the cosines and sines of the rotary embedding."""
    head = job.model.query // job.model.heads
    return 3 * 8 * job.tokens + 2 * job.c * job.setting.seq_len * head


def _last_norm(job: _Job) -> int:
    """What the last norm and the output layer keep: x and 1/rms; when they are trained, two tensors more."""
    width = job.model.hidden
    more = 2 * job.c * width if job.method == "full" else 0
    return job.tokens * (4 * (width + 1) + more)


def _notes(job: _Job) -> Iterator[str]:
    """What a reader should know about this estimate."""
    m, seq_len = job.model, job.setting.seq_len
    if m.positions and seq_len > m.positions:
        yield (
            f"序列长度 {seq_len} 超过模型的位置上限 max_position_embeddings={m.positions}："
            "内存照算，但模型没学过这么长的位置。"
        )
    if m.routed and job.quantization:
        yield "专家的权重是三维张量，bitsandbytes 不量化它们，这里按不量化计算。"
    if job.on_experts:
        yield "LoRA 也加在专家上：peft 每次前向都把 W + BA 算成完整的权重，这很占内存。"
    if m.family not in _MEASURED:
        yield f"模型类型 {m.family} 的激活值按 Llama 式的层估算，没有与实测核对过：GPT-2 那样的旧结构实际要多得多。"
    if set(_NOT_TEXT) & set(m.components):
        yield "只算文字：图像或声音部分的权重已计入，它们的激活值没有。"
    if job.paged_bytes:
        yield f"分页的优化器状态 {format_bytes(job.paged_bytes)} 可以移到内存里，没有算进合计。"


# ── what autograd keeps ──────────────────────────────────────────────────────────────────────────


def _layer_activations(job: _Job) -> dict[str, int]:
    """See `layer_activations`. A norm computes in float32: what it keeps has 4 bytes in any dtype."""
    m, tokens = job.model, job.tokens
    norm = 4 * tokens * (m.hidden + 1)
    normalized = job.c * tokens * m.hidden if job.method == "full" else 0
    adapted = [layer for layer in job.targets if layer.component not in _NOT_TEXT]
    return {
        "norm 1: x and 1/rms": norm,
        "norm 1: normalized x": normalized,
        "input of q, k, v": _linear_input(job, m.hidden, _is_qkv),
        **_attention_activations(job),
        "norm 2: x and 1/rms": norm,
        "norm 2: normalized x": normalized,
        **_ffn_activations(job),
        "LoRA: A·x": job.adapter_bytes * tokens * job.setting.r * len(adapted) // m.layers,
    }


def _attention_activations(job: _Job) -> dict[str, int]:
    """What attention keeps, from the projections on to the input of the output projection."""
    m, c, tokens = job.model, job.c, job.tokens
    kept = {}
    if m.family in _HEAD_NORM:
        kept["norms of q, k: x and 1/rms"] = 4 * tokens * (m.query + m.key + m.heads + m.kv_heads)
        if job.method == "full":
            kept["norms of q, k: normalized x"] = c * tokens * (m.query + m.key)
    kept["q"] = c * tokens * m.query
    output = _linear_input(job, m.attended, lambda layer: layer.component == "attention_o")
    if job.setting.attention == "eager":
        kept["k, v, repeated for each head"] = c * tokens * (m.key + m.value) * m.heads // m.kv_heads
        kept["attention weights"] = _scores(job) * (4 if c == 4 else 4 + c)
        return kept | {"attention output": output}
    kept["k, v"] = c * tokens * (m.key + m.value)
    kept["attention output"] = c * tokens * m.attended
    kept["log-sum-exp of scores"] = 4 * tokens * m.heads
    return kept | {"attention output, copy for LoRA": output if job.targets and job.copies else 0}


def _ffn_activations(job: _Job) -> dict[str, int]:
    if job.model.routed:
        return _experts_activations(job)
    return _mlp_activations(job, job.model.inner)


def _mlp_activations(job: _Job, inner: int, label: str = "") -> dict[str, int]:
    """What a feed-forward network keeps: down(act(gate(x)) · up(x)), or down(act(up(x)))."""
    width = job.c * job.tokens * inner
    kept = {"input of gate, up": _linear_input(job, job.model.hidden, _is_up), "up": width}
    if job.model.gated:
        kept |= {"gate": width, "act(gate)": width}
    kept["input of down"] = _linear_input(job, inner, _is_down)
    return {label + name: n for name, n in kept.items()}


def _experts_activations(job: _Job) -> dict[str, int]:
    """What a layer of experts keeps: each token is there once for each expert it is sent to."""
    m, c = job.model, job.c
    sent = c * job.tokens * m.routed
    trained = job.method == "full" or job.on_experts
    kept = {
        "input of router": c * job.tokens * m.hidden if trained else 0,
        "router: probabilities": 4 * job.tokens * m.experts,
        "experts: input": sent * m.hidden if trained else 0,
        "experts: gate, up, act(gate)": 3 * sent * m.inner,
        "input of down": sent * m.inner if trained else 0,
        "experts: output": sent * m.hidden,
        "experts: W + BA": _experts_update(job),
    }
    return kept | (_mlp_activations(job, m.shared, "shared expert: ") if m.shared else {})


def _experts_update(job: _Job) -> int:
    """Bytes of one layer's experts when LoRA is on them: peft puts all of W + BA together to use it."""
    m = job.model
    return 3 * job.c * m.experts * m.hidden * m.inner if job.on_experts else 0


def _linear_input(job: _Job, width: int, among: Callable[[params.LinearShape], bool]) -> int:
    """Bytes of the input, `width` floats a token, that the linear layers which are `among` keep together.

    It is one tensor for all of them, unless adapters make copies of it.
    """
    if job.method == "full":
        return job.c * job.tokens * width
    targets = [layer for layer in job.targets if among(layer)]
    if job.copies:
        return job.adapter_bytes * job.tokens * sum(layer.d_in for layer in targets) // job.model.layers
    return job.c * job.tokens * width if targets else 0


def _is_qkv(layer: params.LinearShape) -> bool:
    return layer.component.startswith("attention") and layer.component != "attention_o"


def _is_up(layer: params.LinearShape) -> bool:
    """Whether `layer` leads into a feed-forward network; the one that leads out makes x narrower."""
    return layer.component in ("ffn", "shared_experts") and layer.d_in <= layer.d_out


def _is_down(layer: params.LinearShape) -> bool:
    return layer.component in ("ffn", "shared_experts") and layer.d_in > layer.d_out


def _scores(job: _Job) -> int:
    """Attention scores of a layer."""
    return job.setting.batch_size * job.model.heads * job.setting.seq_len**2


# ── what is there for a moment ───────────────────────────────────────────────────────────────────


def _layer_temporaries(job: _Job) -> int:
    """The most that a layer holds beyond its activations, while it is the one computed. One of these:

    product      backward, act(gate) · up is taken apart: the gradient of the residual stream, those of
                 the product, of act(gate) and of up; the product itself has gone
    dequantized  a little before: a 4-bit weight in full, and two of these three
    scores       eager attention, backward: the gradient after and before the softmax; what the
                 feed-forward network kept has gone, and the weights' copy in half precision
    experts      forward, the product BA for all experts, where these have LoRA
    adapter      forward, where adapters aren't in the layers' dtype: see `_adapter_temporaries`
    """
    m, c, tokens = job.model, job.c, job.tokens
    ffn = _ffn_activations(job)
    product = ffn["input of down"]
    width = tokens * (m.inner * max(m.routed, 1) + m.shared)
    stream = c * tokens * m.hidden
    largest = [stream + (3 if m.gated else 2) * c * width - product, stream + _experts_update(job)]
    if job.method == "qlora":
        largest.append(stream + 2 * c * width + c * _widest(job) - product)
    if job.setting.attention == "eager":
        largest.append(stream + (8 if c == 4 else 8 - c) * _scores(job) - sum(ffn.values()))
    if job.targets and job.copies and product:
        largest.append(_adapter_temporaries(job, width) - (0 if job.setting.autocast else product))
    return max(largest)


def _adapter_temporaries(job: _Job, width: int) -> int:
    """What float32 adapters on layers in half precision hold for a moment, forward, in bytes.

    With autocast, at `down`: its input, and that in float32 on the way to the adapter's dtype. Without it,
    at `up`, where peft adds update and output: of a 4-bit layer in half precision, when the update is there
    in both; of others in float32: update, output and sum. Besides, the embeddings, the layer's input, the
    residual stream and its norm.
    """
    apart = job.setting.autocast or job.method == "qlora"
    return 4 * job.c * job.tokens * job.model.hidden + (4 + job.c if apart else 3 * 4) * width


def _prefill_temporaries(job: _Job) -> int:
    """The most that a layer's forward pass holds without autograd.

    The embeddings, the layer's input, the residual stream and its norm; besides, act(gate), up, their
    product and a dequantized weight, or, with eager attention, the mask, q, k and v for each head, and the
    scores in float32 before and after the softmax. Experts make gate and up in one tensor, and hold their
    input too.
    """
    m, c, tokens = job.model, job.c, job.tokens
    ffn = (3 if m.gated else 2) * c * tokens * m.inner + (c * _widest(job) if job.quantization else 0)
    if m.routed:
        ffn = c * tokens * m.routed * (4 * m.inner + m.hidden)
    scores = 0
    if job.setting.attention == "eager":
        mask = c * job.setting.batch_size * job.setting.seq_len**2
        heads = c * tokens * (m.query + (m.key + m.value) * m.heads // m.kv_heads - m.hidden)
        scores = (8 if c == 4 else 8 + c) * _scores(job) + mask + heads
    return 4 * c * tokens * m.hidden + max(ffn, scores)


def _widest(job: _Job) -> int:
    """Weights of the largest linear layer of the decoder."""
    decoder = [layer for layer in job.model.linears if layer.component not in _NOT_TEXT]
    return max(layer.d_in * layer.d_out for layer in decoder)


# ── advice ───────────────────────────────────────────────────────────────────────────────────────


def _advice(job: _Job, room: int) -> Iterator[str]:
    """Changes and what each saves; then, when none is enough, the first few that are, taken together."""
    now = _estimate(job).total_bytes
    together, count, enough = job, 0, False
    for words, change in _changes(job):
        alone = _estimate(_with(job, change)).total_bytes
        if now - alone < 0.01 * now:
            continue
        enough |= alone <= room
        answer = "，这一项就够" if alone <= room else ""
        yield f"{words}：省 {format_bytes(now - alone)}，到 {format_bytes(alone)}{answer}"
        if _estimate(together).total_bytes > room:
            together, count = _with(together, change), count + 1
    left = _estimate(together).total_bytes
    if left > room:
        other = {"full": "LoRA 或 QLoRA", "lora": "QLoRA"}.get(job.method, "小一些的模型，或大一些的显卡")
        yield f"全用上还要 {format_bytes(left)}，请换 {other}"
    elif not enough:
        yield f"前 {count} 项一起用，到 {format_bytes(left)}，放得下"


def _with(job: _Job, change: dict) -> _Job:
    return replace(job, setting=replace(job.setting, **change))


def _changes(job: _Job) -> Iterator[tuple[str, dict]]:
    """What can be changed, those first that cost least, as words and as fields of Setting."""
    setting, training = job.setting, job.method != "inference"
    if setting.attention == "eager":
        yield "注意力用 sdpa", {"attention": "sdpa"}
    if training and not setting.gradient_checkpointing:
        yield "打开梯度检查点 (gradient checkpointing)", {"gradient_checkpointing": True}
    if setting.batch_size > 1:
        words = f"批大小 (batch_size) {setting.batch_size} → 1"
        more = {"gradient_accumulation": setting.gradient_accumulation * setting.batch_size}
        yield f"{words}，用梯度累积补回来" if training else words, {"batch_size": 1} | more
    if job.state_bytes and not setting.optimizer.endswith("8bit"):
        yield "用 8 位优化器 (adamw_8bit)", {"optimizer": "adamw_8bit"}
    if not training and not job.quantization:
        yield "权重量化 (quantization='nf4')", {"quantization": "nf4"}
    if setting.seq_len > 256:
        half = setting.seq_len // 2
        yield f"序列长度 (seq_len) {setting.seq_len} → {half}", {"seq_len": half}


# ── measuring ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Peak:
    """What a step was measured to hold, in bytes of live tensors."""

    bytes: int
    """The most at one time."""
    before: int
    """What of it was there before the step: weights, adapters, optimizer states."""


def measure(step: Callable[[], object], device: str = "cpu") -> Peak:
    """Run `step()` and give the most bytes of tensors that were alive at one time in it.

    On the CPU torch's profiler reports each allocation and release of torch's allocator; their running
    sum, begun at `live_bytes()`, has the peak. That counts every tensor, also those inside autograd and
    inside an operation, but neither the scratch memory of MKL and oneDNN nor what malloc keeps after a
    release: `peak_rss` sees these. A tensor from before the step counts to the end even when the step
    frees it, so set gradients to None first. On CUDA it is `torch.cuda.max_memory_allocated()`.
    """
    import torch

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return Peak(torch.cuda.max_memory_allocated(device), before)
    before = live_bytes()
    profiler = torch.autograd.profiler.profile(profile_memory=True)
    with _silent_stderr():
        profiler.__enter__()
    try:
        step()
    finally:
        with _silent_stderr():
            profiler.__exit__(*sys.exc_info())
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = before
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return Peak(most, before)


def live_bytes() -> int:
    """Bytes of all tensors on the CPU that Python can see, and of their gradients; shared storage once."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor  # torch.compile's, which have no memory

    gc.collect()
    storages = {}
    for found in gc.get_objects():
        if issubclass(type(found), torch.Tensor) and not issubclass(type(found), FakeTensor):
            for tensor in (found, found.grad if found.is_leaf else None):
                if tensor is not None and tensor.device.type == "cpu" and tensor.layout == torch.strided:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def peak_rss(step: Callable[[], object]) -> tuple[int, int]:
    """This process's resident memory before `step()` and its highest during it, in bytes; Linux only.

    The kernel keeps the highest as `VmHWM`, which is set back first. It has all that is in memory: the
    libraries' scratch, what malloc holds for later (little, if the process was started with
    `MALLOC_MMAP_THRESHOLD_=65536`), and not the pages of a file of weights that nothing has read.

    Raises OSError where the kernel doesn't offer this.
    """
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step()
    return before, _status("VmHWM")


def _status(name: str) -> int:
    """A size from /proc/self/status, in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)[1]) * 1024


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep the line that torch's profiler writes when it starts and ends off the screen."""
    sys.stderr.flush()
    saved, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)


def saved_tensors(model: "torch.nn.Module", input_ids: "torch.Tensor") -> dict[str, int]:
    """Module -> bytes that autograd keeps for it after a forward pass with a loss, weights not counted.

    input_ids: (batch, seq) int64. A tensor that several operations keep counts once, for the module that
    kept it first; the loss is the model's own: "", or "base_model" with peft around it.
    """
    import torch

    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    found, alive, inside = {}, [], [""]

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found.setdefault(storage.data_ptr(), (inside[-1], storage.nbytes()))
            alive.append(tensor)
        return tensor

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: inside.append(name)))
        hooks.append(module.register_forward_hook(lambda *_: inside.pop() and None))
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(input_ids=input_ids, labels=input_ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    sizes = {}
    for name, size in found.values():
        sizes[name] = sizes.get(name, 0) + size
    return sizes


def measured_step(
    source: "str | Path | Callable[[], PreTrainedModel]",
    method: str,
    seq_len: int,
    batch_size: int,
    *,
    device: str = "cpu",
    measuring: Callable = measure,
    **setting,
):
    """Load the model in the folder `source`, run one step of `method` on random tokens, and measure it.

    `source` may be a function that makes the model instead, for QLoRA already in 4 bit, as `models.random` can.
    Full; LoRA by peft; QLoRA by bitsandbytes in NF4 and peft; inference reads a prompt into a cache. A
    short step comes before the measured one, so that the optimizer's states are there, as in the middle of a
    training. setting: fields of `Setting`; dtype is float32 unless it is given, optimizer `adamw`
    (fused) or `sgd`, and NF4 has transformers' blocks of 64. On the CPU 4-bit layers of peft don't
    notice autocast.

    Gives a `Peak`, less the tensors that were alive before; or, with another `measuring`, what that
    gives for the step, such as `peak_rss`. Raises ValueError for what `estimate` refuses and for a setting
    that can't be run here.
    """
    _choose("方法 (method)", method, METHODS)
    setting = Setting(seq_len=seq_len, batch_size=batch_size, **({"dtype": "float32"} | setting))
    _choose("实测的优化器 (optimizer)", setting.optimizer, ("adamw", "sgd"))
    _choose("实测的量化 (quantization)", setting.quantization, (None,))
    _choose("实测的分块大小 (block_size)", setting.block_size, (64,))
    import torch

    others = 0 if device == "cpu" else torch.cuda.memory_allocated(device)
    gc.freeze()  # what is there already, `live_bytes` won't see
    try:
        step = _step(_load(source, method, setting, device), method, setting, device)
        step(1, min(8, seq_len))
        if measuring is not measure:
            return measuring(lambda: step(batch_size, seq_len))
        peak = measure(lambda: step(batch_size, seq_len), device)
    finally:
        gc.unfreeze()
    return Peak(peak.bytes - others, peak.before - others)


def _load(source: "str | Path | Callable", method: str, setting: Setting, device: str = "cpu"):
    """The model in the folder `source`, or made by it, as `method` trains it."""
    models.quiet()
    model = source() if callable(source) else _from_folder(source, method, setting, device)
    if setting.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if method in ("lora", "qlora"):
        from peft import LoraConfig, get_peft_model

        targets = setting.targets if isinstance(setting.targets, str) else list(setting.targets)
        model = get_peft_model(model, LoraConfig(r=setting.r, target_modules=targets, task_type="CAUSAL_LM"))
    return model.train(method != "inference")


def _from_folder(folder: str | Path, method: str, setting: Setting, device: str):
    """The model in `folder`, in 4 bit for QLoRA."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, setting.dtype)
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=setting.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    return AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=setting.attention,
        device_map=device,
        quantization_config=four_bit if method == "qlora" else None,
    )


def _step(model, method: str, setting: Setting, device: str) -> Callable[[int, int], None]:
    """A function of (batch, seq) that runs one step on random tokens."""
    import torch

    vocab = model.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(0)
    kind = torch.device(device).type
    dtype = getattr(torch, setting.dtype)

    def tokens(batch: int, seq: int) -> torch.Tensor:
        return torch.randint(0, vocab, (batch, seq), generator=draw).to(device)

    def read(batch: int, seq: int) -> None:
        with torch.no_grad():
            model(input_ids=tokens(batch, seq), use_cache=True, logits_to_keep=1)

    if method == "inference":
        return read
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adamw = setting.optimizer == "adamw"
    optimizer = torch.optim.AdamW(trained, fused=True) if adamw else torch.optim.SGD(trained)

    def train(batch: int, seq: int) -> None:
        for _ in range(setting.gradient_accumulation):
            ids = tokens(batch, seq)
            with torch.autocast(kind, dtype, enabled=setting.autocast and dtype != torch.float32):
                mask = torch.ones_like(ids)
                loss = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train
