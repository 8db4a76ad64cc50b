"""Sizes of a model: shares of its parameters, and its memory beside that of graphics cards."""

from collections.abc import Mapping

from lab_utils.plots.style import BRIGHT, DARK, text_color


def stacked_shares(
    ax, bars: Mapping[str, Mapping[str, float]], parts: Mapping[str, tuple[str, str]], xlabel: str
) -> None:
    """Horizontal bars on `ax`, one an entry from the top down, each made of its parts.

    bars: name of a bar → part → size. parts: part → its name in the legend and its color, in the order
    of drawing. A part's share of its bar is written in it where there is room.
    """
    totals = [sum(sizes.values()) for sizes in bars.values()]
    begins = [0.0] * len(bars)
    for part, (name, color) in parts.items():
        sizes = [bar.get(part, 0) for bar in bars.values()]
        if not any(sizes):
            continue
        drawn = ax.barh(range(len(bars)), sizes, 0.64, begins, color=color, edgecolor="white", label=name)
        shares = zip(sizes, totals, strict=True)
        texts = [f"{size / total:.0%}" if size > 0.045 * max(totals) else "" for size, total in shares]
        ax.bar_label(drawn, texts, label_type="center", color=text_color(color), fontsize=9)
        begins = [begin + size for begin, size in zip(begins, sizes, strict=True)]
    ax.set(xlabel=xlabel, xlim=(0, max(totals) * 1.02), yticks=range(len(bars)), yticklabels=list(bars))
    ax.xaxis.set_major_formatter(_billions)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(
        frameon=False,
        ncols=len(parts),
        loc="lower left",
        bbox_to_anchor=(-0.07, 1),
        fontsize=9,
        columnspacing=1.3,
        handlelength=1,
        handletextpad=0.4,
    )


def memory_steps(ax, parts: Mapping[str, float], cards: Mapping[str, float], reserve: float) -> None:
    """Memory in GiB on `ax`, each part beginning where the one above it ends, and the sum below.

    cards: name of a graphics card → its memory in GiB, a line each, whole where the sum and `reserve` fit;
    cards of more than twice the sum are left out, but never the smallest.
    """
    total = sum(parts.values())
    near = {name: size for name, size in cards.items() if size <= max(2 * total, min(cards.values()))}
    end = 1.1 * max(total, *near.values())
    begin = 0.0
    for row, (name, size) in enumerate([*parts.items(), ("合计", total)]):
        start, color = (0.0, DARK) if name == "合计" else (begin, "#55809b")
        ax.barh(row, size, 0.66, start, color=color, zorder=2)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        ax.text(start + size + 0.008 * end, row, f"{size:.2f}", va="center", fontsize=9, bbox=box, zorder=3)
        begin += size
    for i, (name, size) in enumerate(near.items()):
        ax.axvline(
            size, color=BRIGHT, linewidth=1.5, linestyle=":" if size < total + reserve else "-", zorder=1.9
        )
        if size < 0.1 * end and size < max(near.values()):  # no room for its name beside the others'
            continue
        look = {"ha": "center" if size > 0.1 * end else "left", "color": "#8c4a0f", "fontsize": 9}
        above, top = (0, 3 + 12 * (i % 2)), ax.get_xaxis_transform()
        ax.annotate(name, (size, 1), above, top, "offset points", **look)
    ax.set(xlim=(0, end), ylim=(len(parts) + 0.6, -0.6), xlabel="内存 (GiB)")
    ax.set_yticks(range(len(parts) + 1), [*parts, "合计"])
    ax.grid(axis="y", visible=False)


def _billions(value: float, _: object = None) -> str:
    """A count of parameters in short: 7 B, 135 M, 72."""
    for size, letter in ((1e9, " B"), (1e6, " M"), (1e3, " K")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
