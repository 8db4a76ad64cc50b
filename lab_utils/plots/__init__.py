"""Figures of the labs: one look, readable Chinese, colors that survive grayscale.

    style      font, colors, axes
    runs       curves over the steps, rates with intervals, a reward beside what it stands for
    texts      tokens and answers as HTML
    sizes      shares of parameters; memory beside graphics cards
    matrices   heat maps of weights and codes, ranks, levels of a quantization
    rewards    reward functions, groups and advantages
    serving    batching, the memory of the KV cache, load tests
    parity     drift of an exported model, the table of a parity check

A function that takes `ax` draws there; the others make their own axes. Importing this loads no matplotlib.
"""

from lab_utils.plots.matrices import error_by_block, level_histogram, matrix_image, rank_errors
from lab_utils.plots.parity import drift_bars, parity_table
from lab_utils.plots.rewards import group_bars, reward_layers
from lab_utils.plots.runs import curve, rates, reward_vs_quality
from lab_utils.plots.serving import batching_timeline, load_bars, memory_map, request_timeline
from lab_utils.plots.sizes import memory_steps, stacked_shares
from lab_utils.plots.style import BRIGHT, DARK, FONTS, SOFT, axes, text_color, use_course_style
from lab_utils.plots.texts import side_by_side, token_mask

__all__ = [
    "BRIGHT",
    "DARK",
    "FONTS",
    "SOFT",
    "axes",
    "batching_timeline",
    "curve",
    "drift_bars",
    "error_by_block",
    "group_bars",
    "level_histogram",
    "load_bars",
    "matrix_image",
    "memory_map",
    "memory_steps",
    "parity_table",
    "rank_errors",
    "rates",
    "request_timeline",
    "reward_layers",
    "reward_vs_quality",
    "side_by_side",
    "stacked_shares",
    "text_color",
    "token_mask",
    "use_course_style",
]
