"""Explorers of the labs: move a slider, and the picture and its figures follow.

An explorer is the last expression of a cell. Where widgets are shown (JupyterLab, Notebook, VS Code) it
is sliders, a picture and a table; everywhere else (GitHub, nbconvert, a notebook run by a program,
plain Python, no ipywidgets) it is the table of its present setting, and `set(...)` changes the setting.
The arithmetic is that of `params`, `lowrank`, `quant` and `vram`; here it is only shown.
"""

import html
import io
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from lab_utils import plots

VIEW = "application/vnd.jupyter.widget-view+json"
"""The MIME type under which a front end looks for a widget."""

PIXELS_PER_INCH = 120
"""Of the pictures: somewhat more than a notebook shows, for sharp screens."""

RESERVE_GIB = 1.0
"""Of a card's memory, kept free for what isn't predicted, as in `vram.fits`."""


@dataclass(frozen=True)
class Control:
    """One thing to set: its label, the values it can take, in order, and the one it starts with."""

    label: str
    options: tuple
    value: Any
    kind: str = "slider"
    """"slider", "menu", or "switch" for a choice between False and True."""
    show: Callable[[Any], str] = str
    """How a value is written beside the slider."""

    def widget(self):
        """An ipywidgets control for it."""
        import ipywidgets

        look = {
            "description": self.label,
            "style": {"description_width": "112px"},
            "layout": {"width": "auto"},
        }
        if self.kind == "switch":
            return ipywidgets.Checkbox(value=self.value, **look)
        kind = {"slider": ipywidgets.SelectionSlider, "menu": ipywidgets.Dropdown}[self.kind]
        return kind(options=[(self.show(v), v) for v in self.options], value=self.value, **look)


@dataclass(frozen=True)
class Reading:
    """What an explorer tells about one setting: a line, a table, and how to draw the picture."""

    headline: str
    columns: tuple[str, ...]
    """The first holds text and is set left, the others right."""
    rows: Sequence[tuple[str, ...]]
    draw: Callable[[Any], None]
    """Draws on an empty matplotlib Figure."""
    note: str = ""
    shares: Sequence[float] = ()
    """A share from 0 to 1 for each row: a bar of blocks beside it where the picture isn't shown."""

    def __str__(self) -> str:
        grid = [self.columns, *self.rows]
        widths = [max(_width(row[i]) for row in grid) for i in range(len(self.columns))]
        bars = ["", *map(_bar, self.shares)]
        lines = []
        for row, bar in zip_longest(grid, bars, fillvalue=""):
            first, *others = zip(row, widths, strict=True)
            cells = [_pad(*first, "left"), *(_pad(text, width, "right") for text, width in others), bar]
            lines.append("  ".join(cells).rstrip())
        lines.insert(1, "─" * (sum(widths) + 2 * len(widths) - 2))
        return "\n".join([self.headline, "", *lines, *([self.note] if self.note else [])])

    def html(self, bars: bool) -> str:
        """The table and the note as HTML, with the bars of `shares` or without."""
        rows = [_html_row("th", self.columns)]
        for row, share in zip_longest(self.rows, self.shares if bars else ()):
            rows.append(_html_row("td", row, share))
        note = f"<div style='opacity:.7;margin-top:6px'>{html.escape(self.note)}</div>" if self.note else ""
        return f"<table style='border-collapse:collapse;line-height:1.5'>{''.join(rows)}</table>{note}"


class Explorer:
    """Controls, and what they give: a picture and a table, or a message where a setting is impossible."""

    def __init__(self, title: str, controls: Mapping[str, Control], read: Callable[..., Reading]):
        """`read` takes the controls' values by name; its ValueError is shown in place of the picture."""
        self.title = title
        self.controls = dict(controls)
        self.values = {name: control.value for name, control in controls.items()}
        """The present setting."""
        self._read = read

    def set(self, **values) -> "Explorer":
        """Change the setting; the explorer itself, so that it shows when the call ends a cell.

        Raises ValueError, changing nothing, for an unknown name or a value the control doesn't have.
        """
        for name, value in values.items():
            if name not in self.controls:
                raise ValueError(f"没有叫 {name!r} 的设置。可以改的有：{'、'.join(self.controls)}")
            options = self.controls[name].options
            if value not in options:
                raise ValueError(f"{name} 不能是 {value!r}。可选：{_some(options)}")
        self.values |= values
        if "widgets" in vars(self):
            for name, value in values.items():
                self.widgets[name].value = value
        self._refresh()
        return self

    def reading(self) -> Reading:
        """What the present setting gives. Raises ValueError when it is impossible."""
        return self._read(**self.values)

    @cached_property
    def widgets(self) -> dict:
        """Name of a setting → its ipywidgets control, whose `value` may be assigned."""
        made = {}
        for name, control in self.controls.items():
            made[name] = control.widget()
            made[name].value = self.values[name]
            made[name].observe(lambda change, name=name: self._moved(name, change["new"]), names="value")
        return made

    @cached_property
    def view(self):
        """The explorer as one widget, its picture a PNG."""
        import ipywidgets

        title = ipywidgets.HTML(f"<b style='font-size:15px'>{html.escape(self.title)}</b>")
        self._headline = ipywidgets.HTML()
        self._picture = ipywidgets.Image(format="png", layout={"width": "98%", "max_width": "780px"})
        self._table = ipywidgets.HTML()
        left = ipywidgets.VBox([title, *self.widgets.values()], layout={"flex": "0 1 400px"})
        right = ipywidgets.VBox(
            [self._headline, self._picture, self._table], layout={"flex": "1 1 480px", "overflow": "visible"}
        )
        self._show()
        return ipywidgets.HBox([left, right], layout={"flex_flow": "row wrap", "align_items": "flex-start"})

    def _moved(self, name: str, value: Any) -> None:
        """A control has moved, by hand or by `set`, which has then noted the value already."""
        if self.values[name] != value:
            self.values[name] = value
            self._refresh()

    def _refresh(self) -> None:
        if "view" in vars(self):
            self._show()

    def _show(self) -> None:
        """Bring the view up to the present setting; a message takes the place of an impossible picture."""
        try:
            reading = self.reading()
            self._headline.value, self._table.value = _headline(reading), reading.html(bars=False)
            self._picture.value = _png(reading)
            self._picture.layout.visibility = None
        except ValueError as problem:
            self._headline.value, self._table.value = _message(problem), ""
            self._picture.layout.visibility = "hidden"  # its room stays, so nothing jumps

    def __str__(self) -> str:
        try:
            return f"{self.title}\n{self.reading()}"
        except ValueError as problem:
            return f"{self.title}\n⚠️ {problem}"

    __repr__ = __str__

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        """The table as text and HTML, and the widget where somebody can move it."""
        try:
            reading = self.reading()
            text, words = str(reading), _headline(reading) + reading.html(bars=True)
        except ValueError as problem:
            text, words = f"⚠️ {problem}", _message(problem)
        name = next(iter(self.values))
        way = f"在 JupyterLab 里运行这一格，就有滑块和图；没有滑块的地方用 .set({name}=…) 换设置。"
        bundle = {
            "text/plain": f"{self.title}\n{text}",
            "text/html": f"<h4>{html.escape(self.title)}</h4>{words}<p style='opacity:.7'>{way}</p>",
        }
        if _has_widgets() and not _run_by_a_program():
            bundle[VIEW] = self.view._repr_mimebundle_()[VIEW]
        return bundle


def _has_widgets() -> bool:
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return True


def _run_by_a_program() -> bool:
    """Whether nobody sits before this kernel, so that a widget would only leave a dead view in the notebook.

    `labs run` and `labs build` say so by LAB_HEADLESS; nbclient, nbval and `nbconvert --execute` by
    taking no input.
    """
    if os.environ.get("LAB_HEADLESS"):
        return True
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    return kernel is not None and not getattr(kernel, "_allow_stdin", True)


def _png(reading: Reading) -> bytes:
    """The picture, drawn outside pyplot: no figure stays open, and no back end shows it a second time."""
    from matplotlib.figure import Figure

    plots.use_course_style()
    figure = Figure(layout="none")
    reading.draw(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=PIXELS_PER_INCH)
    return png.getvalue()


def _html_row(tag: str, cells: Sequence[str], share: float | None = None) -> str:
    style = "padding:1px 16px 1px 0;border-bottom:1px solid rgba(128,128,128,.3);text-align:"
    shown = []
    for i, cell in enumerate(cells):
        shown.append(f"<{tag} style='{style}{'right' if i else 'left'}'>{html.escape(cell)}</{tag}>")
    if share is not None:
        shown.append(f"<td style='text-align:left;color:{plots.BRIGHT}'>{_bar(share)}</td>")
    return f"<tr>{''.join(shown)}</tr>"


def _headline(reading: Reading) -> str:
    return f"<div style='line-height:1.6'><b>{html.escape(reading.headline)}</b></div>"


def _message(problem: ValueError) -> str:
    style = f"border-left:4px solid {plots.BRIGHT};padding:6px 12px;margin:8px 0;line-height:1.6"
    return f"<div style='{style}'>⚠️ {html.escape(str(problem))}</div>"


def _width(text: str) -> int:
    """Columns of a terminal that `text` takes; a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _pad(text: str, width: int, side: str) -> str:
    space = " " * (width - _width(text))
    return text + space if side == "left" else space + text


def _some(options: Sequence) -> str:
    shown = [repr(option) for option in options]
    return "、".join(shown if len(shown) <= 12 else [*shown[:6], "…", *shown[-5:]])


def _bar(share: float) -> str:
    """A share from 0 to 1 as a row of blocks, twenty for the whole: readable where no picture is."""
    return "█" * round(20 * share) or "▏"


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
"""Component of a dense decoder → its formula without biases and norms of single heads, and its colour."""


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
        layers, found = sizes["num_hidden_layers"], _by_layer(config | sizes)
        now = _add_up(layers, found)
        total = sum(now.values())

        def draw(figure) -> None:
            figure.set_size_inches(8.6, 2.9)
            ax = figure.subplots(gridspec_kw={"left": 0.07, "right": 0.98, "top": 0.87, "bottom": 0.19})
            names = {part: (params.COMPONENTS[part], colour) for part, (_, colour) in _FORMULAS.items()}
            plots.stacked_shares(ax, {"起点": before, "现在": now}, names, "参数量")

        return Reading(
            f"共 {total:,} 个参数，bf16 存放要 {total * 2 / 2**30:.2f} GiB；每个头 d_h = {head_dim or d // heads} 维",
            ("部分", "公式", "层数 × 每层 + 层外", "参数量", "占比"),
            _parameter_rows(layers, found, total),
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


def _add_up(layers: int, found: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """Component → its parameters in all."""
    return {part: layers * layer + rest for part, (layer, rest) in found.items()}


def _check_heads(d: int, heads: int, groups: int, head_dim: int | None) -> None:
    """Raise ValueError where heads can't share evenly; `head_dim` is their size where it doesn't depend on d."""
    if heads % groups:
        even = [n for n in _SIZES["num_key_value_heads"][1] if heads % n == 0]
        raise ValueError(
            f"{heads} 个查询头分不到 {groups} 个 KV 头：每组要一样多。h = {heads} 时 h_kv 可以是 {_some(even)}"
        )
    if not head_dim and d % heads:
        even = [n for n in _SIZES["num_attention_heads"][1] if d % n == 0]
        raise ValueError(f"隐藏维度 d = {d} 不能平分给 {heads} 个头。d = {d} 时 h 可以是 {_some(even)}")


def _parameter_rows(layers: int, found: Mapping[str, tuple[int, int]], total: int) -> list[tuple[str, ...]]:
    """A row for each component: its name, its formula, the figures put in, the result and its share."""
    from lab_utils import params

    rows = []
    for part, (layer, rest) in found.items():
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
        own = getattr(full, "head_dim", None)
        if own != getattr(params.load_config(config), "head_dim", None):
            config["head_dim"] = own
        if _add_up(config["num_hidden_layers"], _by_layer(config)) == parts:
            wider = params.load_config(config | {"hidden_size": 2 * config["hidden_size"]})
            return config, own if own == getattr(wider, "head_dim", None) else None
    raise ValueError(
        f"这几个滑块描述不了 {full.model_type}：它们只管稠密解码器 (dense decoder)，即词嵌入、注意力、门控前馈网络和归一化。"
        "混合专家 (MoE) 和多模态模型请直接用 params.count(…)。可以换成 'Llama-2-7B'、'Qwen2.5-7B' 或 'Qwen3-0.6B'"
    )


def rank_explorer(matrix, kind: str = "image") -> Explorer:
    """A matrix beside its best approximation of rank k, and what that costs and loses.

    matrix: (m, n), torch tensor or numpy array; kind: "image" shows it in greys, "matrix" in colours
    about zero. Raises ValueError for another kind, and what `lowrank.truncate` and `lowrank.energy`
    raise: not two dimensions, empty, NaN or infinity, all zeros.
    """
    import torch

    from lab_utils import lowrank

    if kind not in ("image", "matrix"):
        raise ValueError(f"kind 只有 'image'（灰度图）和 'matrix'（矩阵）两种，收到 {kind!r}")
    sigma = lowrank.spectrum(matrix)
    energy = lowrank.energy(sigma)
    left, right = lowrank.truncate(matrix, len(sigma))  # its first k columns and rows are those of rank k
    whole = torch.as_tensor(matrix).detach().float().numpy()
    m, n = whole.shape
    break_even = m * n / (m + n)
    errors = [lowrank.truncation_error(sigma, k) for k in range(len(sigma) + 1)]
    errors = [error / errors[0] for error in errors]

    def row(k: int, chosen: int) -> tuple[str, ...]:
        size = k * (m + n)
        mark = " ◀" if k == chosen else ""
        return f"{k}{mark}", f"{size:,}", f"{size / (m * n):.1%}", f"{errors[k]:.2%}", f"{energy[k - 1]:.2%}"

    def read(k: int) -> Reading:
        def draw(figure) -> None:
            figure.set_size_inches(8.6, 3.1)
            boxes = ((0.01, 0.06, 0.31, 0.84), (0.345, 0.06, 0.31, 0.84), (0.73, 0.16, 0.255, 0.74))
            first, second, third = (figure.add_axes(box) for box in boxes)
            plots.matrix_image(first, whole, f"原来：{m}×{n}", kind)
            near = (left[:, :k] @ right[:k]).numpy()
            plots.matrix_image(second, near, f"秩 {k}：相对误差 {errors[k]:.1%}", kind, like=whole)
            plots.rank_errors(third, errors[1:], k, break_even)

        ladder = sorted({*(2**i for i in range(len(sigma).bit_length())), len(sigma), k})
        return Reading(
            f"秩 k = {k}：存 k(m+n) = {k * (m + n):,} 个数，原来 mn = {m * n:,} 个；相对误差 {errors[k]:.2%}",
            ("秩 k", "参数 k(m+n)", "占 mn", "相对误差", "保留的能量"),
            [row(i, k) for i in ladder],
            draw,
            f"k 小于 mn/(m+n) ≈ {break_even:.1f} 才省。相对误差是弗罗贝尼乌斯范数之比；能量是 σ² 之和的占比。",
        )

    control = Control("秩 k", _ranks(len(sigma)), min(8, len(sigma)))
    return Explorer("低秩近似：几个方向就够", {"k": control}, read)


def _ranks(most: int) -> tuple[int, ...]:
    """Ranks from 1 to `most`: every one to 32, then 16 to a doubling, so that a slider is fine where it matters."""
    return tuple(k for k in range(1, most + 1) if k == most or k % 2 ** max(0, (k - 1).bit_length() - 5) == 0)


def nf4_explorer(weights) -> Explorer:
    """Real weights against the levels of NF4 and of evenly spaced int4, by block size.

    weights: torch tensor of any shape, float32, bfloat16 or float16, at least 64 of them. The errors
    of all block sizes are worked out once, here. Raises what `quant.quantize_nf4` raises, and
    ValueError for fewer than 64 weights.
    """
    import torch

    from lab_utils import quant

    if isinstance(weights, torch.Tensor) and 0 < weights.numel() < quant.BLOCK_SIZE:
        raise ValueError(
            f"权重 (weights) 只有 {weights.numel()} 个，连一块也不够；至少要 {quant.BLOCK_SIZE} 个"
        )
    quant.quantize_nf4(weights)
    weights = weights.detach().float().flatten()
    whole = 2 ** (len(weights) - 1).bit_length()
    sizes = (*(size for size in (16, 32, 64, 128, 256, 1024, 4096) if size < whole), whole)
    costs = {size: _four_bits(weights, size) for size in sizes}
    levels = {"NF4": quant.nf4_levels().tolist(), "int4": (torch.arange(-7, 8) / 7).tolist()}
    names = {size: "整个张量" if size == whole else str(size) for size in sizes}

    def read(block_size: int) -> Reading:
        _, nf4, int4 = costs[block_size]
        packed = quant.quantize_nf4(weights, block_size)

        def draw(figure) -> None:
            figure.set_size_inches(8.6, 3.5)
            margins = {"left": 0.06, "right": 0.985, "top": 0.91, "bottom": 0.16, "wspace": 0.16}
            left, right = figure.subplots(1, 2, width_ratios=(1.75, 1), gridspec_kw=margins)
            scales = packed.absmax.clamp(min=1e-38).repeat_interleave(block_size)[: len(weights)]
            plots.level_histogram(left, (weights / scales).numpy(), levels)
            left.set_title(f"权重的分布，块大小：{names[block_size]}", fontsize=11)
            errors = {
                "NF4": [cost[1] for cost in costs.values()],
                "int4": [cost[2] for cost in costs.values()],
            }
            plots.error_by_block(right, [*map(str, sizes[:-1]), "全部"], errors, sizes.index(block_size))

        return Reading(
            f"块大小 {names[block_size]}：NF4 的相对误差 {nf4:.2%}；int4 的 {int4:.2%}，是它的 {_times(int4, nf4)} 倍",
            ("块大小", "每个参数的位数", "NF4 相对误差", "int4 相对误差", "int4 ÷ NF4"),
            _block_rows(costs, names, block_size),
            draw,
            "相对误差 (relative error)：误差的均方根除以权重的均方根。位数含每块一个 32 位的缩放 (absmax)。",
        )

    start = quant.BLOCK_SIZE if quant.BLOCK_SIZE in sizes else whole
    return Explorer(
        "NF4 与 int4：同样 4 位，级放在哪里",
        {"block_size": Control("块大小", sizes, start, show=names.get)},
        read,
    )


def _block_rows(costs: dict, names: dict, chosen: int) -> list[tuple[str, ...]]:
    """A row for each block size: bits of a parameter, the two errors, the second over the first."""
    rows = []
    for size, (bits, nf4, int4) in costs.items():
        mark = " ◀" if size == chosen else ""
        rows.append((names[size] + mark, f"{bits:.3f}", f"{nf4:.3%}", f"{int4:.3%}", _times(int4, nf4)))
    return rows


def _times(value: float, unit: float) -> str:
    return f"{value / unit:.2f}" if unit else "—"


def _four_bits(weights, block_size: int) -> tuple[float, float, float]:
    """Bits of a parameter, and the relative errors of NF4 and of absmax int4, with this block size."""
    from lab_utils import quant

    nf4 = quant.quantize_nf4(weights, block_size)
    int4 = quant.quantize_int(weights, 4, min(block_size, len(weights)))
    errors = (
        quant.relative_error(weights, copy)
        for copy in (quant.dequantize_nf4(nf4), quant.dequantize_int(int4))
    )
    return nf4.bits_per_parameter, *errors


def memory_calculator(sources=None) -> Explorer:
    """What training or running a model takes in GPU memory, part by part, against common cards.

    sources: a name of `params.load_config`, several of them, or name → anything it takes; None: the
    configurations that ship with the course. Raises ValueError for none at all, and what
    `vram.estimate` raises for the first.
    """
    from lab_utils import params, vram

    if sources is None:
        sources = sorted(params.known(), key=lambda name: name != "Qwen2.5-7B")
    if isinstance(sources, str):
        sources = [sources]
    known = dict(sources) if isinstance(sources, Mapping) else {name: name for name in sources}
    if not known:
        raise ValueError("没有给出模型 (sources)。例如 memory_calculator(['Qwen2.5-7B', 'Qwen3-0.6B'])")
    cards = _cards(vram.GPUS)
    controls = {
        "model": Control("模型", tuple(known), next(iter(known)), "menu"),
        "method": Control("方法", tuple(vram.METHODS), "qlora", "menu", vram.METHODS.get),
        "seq_len": Control("序列长度 (词元)", tuple(2**n for n in range(7, 16)), 1024),
        "batch_size": Control("批大小", (1, 2, 4, 8, 16, 32, 64), 1),
        "r": Control("LoRA 的秩 r", (1, 2, 4, 8, 16, 32, 64, 128, 256), 8),
        "gradient_checkpointing": Control("梯度检查点", (False, True), True, "switch"),
    }

    def read(model: str, method: str, **sizes) -> Reading:
        found = vram.estimate(known[model], method, **sizes)
        fits = [name for name, size in vram.GPUS.items() if found.gib + RESERVE_GIB <= size]
        parts = {vram.PARTS[part]: number / vram.GIB for part, number in found.parts.items()}

        def draw(figure) -> None:
            figure.set_size_inches(8.6, 3.5)
            margins = {"left": 0.13, "right": 0.98, "top": 0.88, "bottom": 0.14}
            plots.memory_steps(figure.subplots(gridspec_kw=margins), parts, cards, RESERVE_GIB)

        moment = f"各部分取总和最大的那一刻：{vram.MOMENTS[found.peak_moment]}。"
        reserve = f"判断放不放得下时，给 CUDA 上下文和碎片另留 {RESERVE_GIB:g} GiB。"
        return Reading(
            f"{model}，{vram.METHODS[method]}：最多时约 {found.gib:.2f} GiB。放得下的卡：{'、'.join(fits) or '没有'}",
            ("部分", "大小", "占比"),
            found.rows(),
            draw,
            "".join((moment, reserve, *found.notes)),
            [number / found.total_bytes for number in found.parts.values()],
        )

    read(**{name: control.value for name, control in controls.items()})
    return Explorer("训练和推理要多少显存", controls, read)


def _cards(memory: Mapping[str, int]) -> dict[str, int]:
    """Cards of equal memory on one line."""
    names = {}
    for name, size in memory.items():
        names.setdefault(size, []).append(name)
    return {f"{' / '.join(same)} ({size})": size for size, same in names.items()}


class ChatPage:
    """A page to chat on: the conversation, a line to write in, a menu of models.

    Where widgets are shown it is that; everywhere else it is the conversation as it stands, and
    `say(…)` goes on with it.
    """

    def __init__(self, ask: Callable[[str, list[dict]], Iterable[str]], names: Sequence[str], title: str):
        """`ask(model, messages)` gives the pieces of the answer as they come; what it raises is shown."""
        if not names:
            raise ValueError("至少要有一个模型的名字 (names)，才能聊天")
        self.title, self.names, self.model = title, tuple(names), names[0]
        self.turns: list[dict] = []
        """The conversation: `role`, `content`, and for an answer the `model` that gave it."""
        self._ask = ask

    def say(self, text: str, model: str | None = None) -> "ChatPage":
        """Say `text` to `model`, the one chosen last if None; the page itself, so that it shows at a cell's end.

        Raises ValueError for an empty text or an unknown model, and what the model's server raises; the
        conversation is then as before.
        """
        if model is not None and model not in self.names:
            raise ValueError(f"没有叫 {model!r} 的模型。可以选的有：{'、'.join(self.names)}")
        if not text.strip():
            raise ValueError("先写点什么 (text)，再发送")
        self.model = model or self.model
        before = len(self.turns)
        self.turns += [
            {"role": "user", "content": text},
            {"role": "assistant", "content": "", "model": self.model},
        ]
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in self.turns[:-1]]
        try:
            for piece in self._ask(self.model, messages):
                self.turns[-1]["content"] += piece
                self._refresh()
        except BaseException:
            del self.turns[before:]
            raise
        finally:
            self._refresh()
        return self

    def clear(self) -> "ChatPage":
        """Begin a new conversation."""
        self.turns.clear()
        self._refresh()
        return self

    @cached_property
    def view(self):
        """The page as one widget."""
        import ipywidgets

        self._talk = ipywidgets.HTML(self.html())
        self._problem = ipywidgets.HTML()
        self.menu = ipywidgets.Dropdown(options=self.names, value=self.model, layout={"width": "220px"})
        self.line = ipywidgets.Text(placeholder="写点什么，按回车发送", layout={"flex": "1 1 auto"})
        self.line.continuous_update = False
        self.send = ipywidgets.Button(description="发送", button_style="primary", layout={"width": "80px"})
        again = ipywidgets.Button(description="新对话", layout={"width": "80px"})
        self.send.on_click(self._sent)
        again.on_click(lambda _: self.clear())
        title = ipywidgets.HTML(f"<b style='font-size:15px'>{html.escape(self.title)}</b>")
        row = ipywidgets.HBox([self.line, self.send, again])
        return ipywidgets.VBox(
            [title, self.menu, self._talk, self._problem, row], layout={"max_width": "780px"}
        )

    def _sent(self, _) -> None:
        """Somebody pressed the button."""
        text, self.line.value, self._problem.value = self.line.value, "", ""
        self.send.disabled = True
        try:
            self.say(text, self.menu.value)
        except Exception as problem:  # whatever the server says is for the one who sits before the page
            self._problem.value = _message(problem)
            self.line.value = text
        finally:
            self.send.disabled = False

    def _refresh(self) -> None:
        if "view" in vars(self):
            self._talk.value = self.html()

    def html(self) -> str:
        """The conversation as HTML."""
        shown = []
        for turn in self.turns:
            own = turn["role"] == "user"
            who = "你" if own else turn["model"]
            side = "margin-left:25%" if own else "margin-right:25%"
            edge = plots.BRIGHT if own else plots.DARK
            shown.append(
                f"<div style='{side};border-left:4px solid {edge};padding:4px 10px;margin-top:6px;line-height:1.6'>"
                f"<span style='opacity:.6'>{html.escape(who)}</span><br>"
                f"<span style='white-space:pre-wrap'>{html.escape(turn['content'])}</span></div>"
            )
        return "".join(shown) or "<div style='opacity:.6'>还没有说话。</div>"

    def __str__(self) -> str:
        lines = [f"{'你' if t['role'] == 'user' else t['model']}：{t['content']}" for t in self.turns]
        return "\n".join([self.title, *(lines or ["还没有说话。"])])

    __repr__ = __str__

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        """The conversation as text and HTML, and the widget where somebody can write."""
        way = "在 JupyterLab 里运行这一格，就可以接着聊；没有输入框的地方用 .say('…')。"
        text = f"<h4>{html.escape(self.title)}</h4>{self.html()}<p style='opacity:.7'>{way}</p>"
        bundle = {"text/plain": str(self), "text/html": text}
        if _has_widgets() and not _run_by_a_program():
            bundle[VIEW] = self.view._repr_mimebundle_()[VIEW]
        return bundle


def chat_page(server, title: str = "和模型聊天", **options) -> ChatPage:
    """A chat page on a running server: anything with `names` and `client()`, as `serving.serve` gives.

    `options` go with every request: `temperature`, `max_tokens`, `extra_body` …
    """
    from lab_utils.serving.clients import pieces

    client = server.client(max_retries=0)
    return ChatPage(lambda model, messages: pieces(client, model, messages, **options), server.names, title)
