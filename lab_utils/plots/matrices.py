"""Matrices and their codes: heat maps, the error of a rank, levels of a quantization, the error of a block size."""

from collections.abc import Mapping, Sequence

from lab_utils.plots.style import BRIGHT, DARK, SOFT


def matrix_image(ax, matrix, title: str, kind: str, like=None) -> None:
    """A matrix on `ax`: kind "image" from black to white, "matrix" from blue through white at zero to orange.

    The colors span the values of `like`, or of the matrix itself.
    """
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    shown = matrix if like is None else like
    if kind == "image":
        look = {"cmap": "gray", "vmin": shown.min(), "vmax": shown.max(), "aspect": "equal"}
    else:
        most = np.quantile(np.abs(shown), 0.995)  # a few outliers would leave the rest white
        colors = LinearSegmentedColormap.from_list("course", [DARK, "white", BRIGHT])
        look = {"cmap": colors, "vmin": -most, "vmax": most, "aspect": "auto"}
    ax.imshow(matrix, **look)
    ax.set_title(title, fontsize=11)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(False)


def rank_errors(ax, errors: Sequence[float], k: int, break_even: float) -> None:
    """Relative error on `ax` against the rank 1, 2, …: that of `k` marked, ranks that save nothing shaded."""
    ax.plot(range(1, len(errors) + 1), errors, color=DARK, linewidth=2)
    ax.plot(k, errors[k - 1], "o", color=BRIGHT, markersize=9, clip_on=False, zorder=3)
    ax.axvspan(break_even, len(errors), color=SOFT, alpha=0.4, linewidth=0)
    above = ax.get_xaxis_transform()
    ax.text(break_even * 0.9, 0.98, "再大不省参数", transform=above, ha="right", va="top", fontsize=9)
    ax.set_xscale("log", base=2)
    ax.set(xlabel="秩 k", xlim=(1, max(2, len(errors))), ylim=(0, None))
    ax.set_title("相对误差", fontsize=11)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def level_histogram(ax, values, levels: Mapping[str, Sequence[float]]) -> None:
    """Histogram on `ax` of values within [-1, 1], and below it the levels of two codes as rows of strokes."""
    import numpy as np

    counts, edges = np.histogram(values, bins=120, range=(-1, 1))
    top = counts.max()
    ax.stairs(counts, edges, fill=True, color=SOFT)
    for row, ((name, points), color) in enumerate(zip(levels.items(), (BRIGHT, DARK), strict=True), start=1):
        low = -0.24 * top * row
        ax.vlines(points, low + 0.05 * top, low + 0.2 * top, color=color, linewidth=2)
        ax.text(-1.04, low + 0.125 * top, name, ha="right", va="center", color=color, fontsize=11)
    ax.set(xlim=(-1.03, 1.03), ylim=(-0.5 * top, 1.05 * top), yticks=[])
    ax.set_xlabel("权重 ÷ 本块最大绝对值 (weight / absmax)")
    ax.spines["left"].set_visible(False)
    ax.grid(visible=False)


def error_by_block(ax, names: Sequence[str], errors: Mapping[str, Sequence[float]], chosen: int) -> None:
    """Relative errors on `ax` of two codes by block size, those of number `chosen` ringed.

    errors: name of a code → one share for each of `names`.
    """
    for (code, values), color, mark in zip(errors.items(), (BRIGHT, DARK), "os", strict=True):
        ax.plot(range(len(names)), values, color=color, marker=mark, markersize=4)
        ax.plot(chosen, values[chosen], mark, color=color, markersize=11, fillstyle="none", mew=2)
        end = (len(names) - 1, values[-1])
        ax.annotate(code, end, (0, 9), textcoords="offset points", ha="right", color=color)
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set(xlabel="块大小 (block size)", ylim=(0, 1.15 * max(map(max, errors.values()))))
    ax.set_title("相对误差 (relative error)", fontsize=11)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
