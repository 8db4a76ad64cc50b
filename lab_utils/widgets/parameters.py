"""The explorer of a dense decoder's parameters: where they are, as its sizes change."""

from collections.abc import Mapping

from lab_utils import plots
from lab_utils.errors import InvalidValue
from lab_utils.widgets.explorer import Control, Explorer, Reading, listed

# fmt: off
_SIZES = {
    "hidden_size": ("隐藏维度 d", (
        64, 128, 192, 256, 384, 512, 576, 768, 896, 1024, 1280, 1536, 2048, 2560, 3072, 3584, 4096, 5120, 8192,
    )),
    "num_hidden_layers": ("层数 L", tuple(range(1, 97))),
    "num_attention_heads": ("查询头数 h", (1, 2, 3, 4, 6, 8, 9, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)),
    "num_key_value_heads": ("KV 头数 h_kv", (1, 2, 3, 4, 6, 7, 8, 9, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)),
    "intermediate_size": ("前馈宽度 f", (
        256, 512, 768, 1024, 1536, 2048, 3072, 4096, 4864, 6144, 8192, 9728, 11008, 13696, 16384, 18944, 28672,
    )),
    "vocab_size": ("词表大小 V", (
        256, 1000, 5000, 10000, 20000, 32000, 50000, 65024, 100000, 128256, 151936, 200000, 262144,
    )),
}
# fmt: on
"""Field of a configuration → its label and the sizes offered, to which a model's own is added."""

_FORMULAS = {
    "embedding": ("V·d", "#c9ced1"),
    "attention_q": ("L·d·(h·d_h)", plots.DARK),
    "attention_k": ("L·d·(h_kv·d_h)", "#55809b"),
    "attention_v": ("L·d·(h_kv·d_h)", plots.SOFT),
    "attention_o": ("L·(h·d_h)·d", "#33658a"),
    "ffn": ("L·3·d·f", plots.BRIGHT),
    "norm": ("L·2·d + d", "#2f2f2f"),
    "lm_head": ("V·d", "#8d979c"),
}
"""Component of a dense decoder → its formula without biases and norms of single heads, and its color."""


def parameter_explorer(source=None) -> Explorer:
    """Where a dense decoder keeps its parameters, as its sizes change.

    source: what `params.load_config` takes: a name, a dict, a folder or a transformers configuration;
    None: Llama-2-7B, whose blocks have neither biases nor shared keys.
    Raises what it raises, and ValueError for a model that its seven sizes don't describe: a mixture of
    experts, vision, other blocks than attention and gated FFN.
    """
    from lab_utils import params

    config, head_dim = _sized_config("Llama-2-7B" if source is None else source)
    before = _add_up(config["num_hidden_layers"], _by_layer(config))
    controls = {}
    for field, (label, options) in _SIZES.items():
        controls[field] = Control(
            label, tuple(sorted({*options, config[field]})), config[field], show="{:,}".format
        )
    tied = config["tie_word_embeddings"]
    controls["tie_word_embeddings"] = Control("共享嵌入与输出头 (tied)", (False, True), tied, "switch")

    def read(**sizes) -> Reading:
        d, heads = sizes["hidden_size"], sizes["num_attention_heads"]
        _check_heads(d, heads, sizes["num_key_value_heads"], head_dim)
        layers, counts = sizes["num_hidden_layers"], _by_layer(config | sizes)
        now = _add_up(layers, counts)
        total = sum(now.values())

        def draw(figure) -> None:
            figure.set_size_inches(8.6, 2.9)
            ax = figure.subplots(gridspec_kw={"left": 0.07, "right": 0.98, "top": 0.87, "bottom": 0.19})
            names = {part: (params.COMPONENTS[part], color) for part, (_, color) in _FORMULAS.items()}
            plots.stacked_shares(ax, {"起点": before, "现在": now}, names, "参数量")

        return Reading(
            f"共 {total:,} 个参数，bf16 存放要 {total * 2 / 2**30:.2f} GiB；每个头 d_h = {head_dim or d // heads} 维",
            ("部分", "公式", "层数 × 每层 + 层外", "参数量", "占比"),
            _parameter_rows(layers, counts, total),
            draw,
            "公式没有写出偏置 (bias) 和按头的归一化；“每层”里的数字包括它们。",
            [number / total for number in now.values()],
        )

    return Explorer("参数从哪里来", controls, read)


def _by_layer(config: dict) -> dict[str, tuple[int, int]]:
    """Component → its parameters in a layer, and outside the layers: from a model of one layer and one of two.

    The layers of a dense decoder are all alike, so these two small models say it for any number of them.
    """
    from lab_utils import params

    one, two = (params.count(config | {"num_hidden_layers": n}).by_component for n in (1, 2))
    return {part: (two[part] - one[part], 2 * one[part] - two[part]) for part in one}


def _add_up(layers: int, counts: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Component → its parameters in all."""
    return {part: layers * layer + rest for part, (layer, rest) in counts.items()}


def _check_heads(d: int, heads: int, groups: int, head_dim: int | None) -> None:
    """Raise ValueError where heads can't share evenly; `head_dim` is their size where it doesn't depend on d."""
    if heads % groups:
        even = [n for n in _SIZES["num_key_value_heads"][1] if heads % n == 0]
        raise InvalidValue(
            f"{heads} 个查询头分不到 {groups} 个 KV 头：每组要一样多",
            f"h = {heads} 时 h_kv 可以是 {listed(even)}",
        )
    if not head_dim and d % heads:
        even = [n for n in _SIZES["num_attention_heads"][1] if d % n == 0]
        raise InvalidValue(f"隐藏维度 d = {d} 不能平分给 {heads} 个头", f"d = {d} 时 h 可以是 {listed(even)}")


def _parameter_rows(layers: int, counts: Mapping[str, tuple[int, int]], total: int) -> list[tuple[str, ...]]:
    """A row for each component: its name, its formula, the figures put in, the result and its share."""
    from lab_utils import params

    rows: list[tuple[str, ...]] = []
    for part, (layer, rest) in counts.items():
        number = layers * layer + rest
        terms = [f"{layers} × {layer:,}" if layer else "", f"{rest:,}" if rest else ""]
        figures = " + ".join(term for term in terms if term)
        share = f"{number / total:.1%}"
        rows.append((params.COMPONENTS[part], _FORMULAS[part][0], figures, f"{number:,}", share))
    return rows


def _sized_config(source) -> tuple[dict, int | None]:
    """The configuration by its seven sizes alone, and the size of a head where it doesn't follow from d and h.

    Raises ValueError when these don't give the count of `source`.
    """
    from lab_utils import params

    full = params.load_config(source)
    fields = ("model_type", *_SIZES, "tie_word_embeddings", "attention_bias", "mlp_bias")
    config = {field: getattr(full, field) for field in fields if getattr(full, field, None) is not None}
    parts = params.count(source).by_component
    if {"model_type", *_SIZES} <= set(config) and set(parts) <= set(_FORMULAS):
        head_dim = getattr(full, "head_dim", None)
        if head_dim != getattr(params.load_config(config), "head_dim", None):
            config["head_dim"] = head_dim
        if _add_up(config["num_hidden_layers"], _by_layer(config)) == parts:
            wider = params.load_config(config | {"hidden_size": 2 * config["hidden_size"]})
            return config, head_dim if head_dim == getattr(wider, "head_dim", None) else None
    raise InvalidValue(
        f"这几个滑块描述不了 {full.model_type}：它们只管稠密解码器 (dense decoder)，即词嵌入、注意力、门控前馈网络和归一化",
        "混合专家 (MoE) 和多模态模型请直接用 params.count(…)。可以换成 'Llama-2-7B'、'Qwen2.5-7B' 或 'Qwen3-0.6B'",
    )
