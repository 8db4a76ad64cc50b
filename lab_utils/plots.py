"""Figures of the labs: one look, readable Chinese, colours that survive greyscale."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab_utils.evaluation.intervals import Interval

FONTS = Path(__file__).parent / "assets" / "fonts"
DARK, BRIGHT, SOFT = "#1b4965", "#e07a1f", "#9fb8c8"
"""Dark blue, orange and light blue: far apart in lightness, safe for colour-blind readers."""


def use_course_style() -> None:
    """Set matplotlib up for the course: the shipped Chinese font, light grid, no box.

    Raises FileNotFoundError when the font is missing from the installation.
    """
    import matplotlib
    from matplotlib import font_manager

    fonts = sorted(FONTS.glob("*.[to]tf"))
    if not fonts:
        raise FileNotFoundError(f"找不到中文字体 (font)：{FONTS} 里没有 .ttf/.otf。请重新安装 lab_utils")
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for font in fonts:
        if str(font) not in known:
            font_manager.fontManager.addfont(font)
    family = font_manager.FontProperties(fname=fonts[0]).get_name()
    matplotlib.rcParams.update(
        {
            "font.family": [family],
            "axes.unicode_minus": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlesize": 13,
            "axes.titlelocation": "left",
            "axes.prop_cycle": matplotlib.cycler(color=[DARK, BRIGHT, SOFT]),
            "grid.color": "#e6e6e6",
            "figure.figsize": (7.5, 3.6),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
        }
    )


def axes(title: str, xlabel: str, ylabel: str):
    """A figure with one pair of axes in the course's style; the axes."""
    import matplotlib.pyplot as plt

    use_course_style()
    _, ax = plt.subplots()
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return ax


def curve(log, column: str, title: str, ylabel: str, smooth: int = 10):
    """One column of a run's log against the step, with its moving mean over `smooth` points; the axes.

    log: DataFrame with `step` and `column`; rows without a value are left out.
    """
    rows = log.dropna(subset=[column])
    ax = axes(title, "优化步数 (step)", ylabel)
    ax.plot(rows["step"], rows[column], color=SOFT, label="每步")
    if len(rows) > smooth:
        mean = rows[column].rolling(smooth, min_periods=1).mean()
        ax.plot(rows["step"], mean, color=DARK, linewidth=2, label=f"{smooth} 点移动平均")
        ax.legend(frameon=False)
    return ax


def rates(groups: Mapping[str, Mapping[str, Interval]], title: str, ylabel: str):
    """Grouped bars with their intervals; `groups`: group name → series name → interval. The axes."""
    ax = axes(title, "", ylabel)
    series = list(next(iter(groups.values())))
    width = min(0.8 / len(series), 0.3)
    for k, name in enumerate(series):
        values = [group[name] for group in groups.values()]
        at = [i + (k - (len(series) - 1) / 2) * width for i in range(len(groups))]
        errors = [[v.value - v.low for v in values], [v.high - v.value for v in values]]
        bars = ax.bar(at, [v.value for v in values], width * 0.92, yerr=errors, capsize=4, label=name)
        ax.bar_label(bars, [f"{v.value:.0%}" for v in values], padding=3)
    ax.set_xticks(range(len(groups)), list(groups))
    ax.set_xlim(-0.8, len(groups) - 0.2)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    ax.set_ylim(0, 1.12)
    ax.legend(frameon=False, ncols=len(series), loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1)
    ax.grid(axis="x", visible=False)
    return ax


def token_mask(tokens: Sequence[str], supervised: Sequence[bool]) -> str:
    """HTML that shows each token in a box: filled where it is supervised, hollow where masked."""
    boxes = []
    for token, on in zip(tokens, supervised, strict=True):
        shown = html.escape(token.replace("\n", "⏎").replace(" ", "␣"))
        style = f"background:{BRIGHT};color:#fff" if on else "color:#57606a"
        boxes.append(
            f'<span style="display:inline-block;border:1px solid #c8d1d9;border-radius:3px;margin:1px;'
            f'padding:1px 4px;font-family:monospace;{style}">{shown}</span>'
        )
    key = "橙色：计入损失 (supervised)；无色：标签为 -100，不计入"
    return f'<div style="line-height:2">{"".join(boxes)}</div><div style="color:#57606a">{key}</div>'


def side_by_side(
    columns: Mapping[str, Sequence[str]], marks: Mapping[str, Sequence[bool]] | None = None
) -> str:
    """HTML table of texts, one row an item; `marks` puts ✅ or ❌ before the texts of a column."""
    head = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in columns)
    rows = []
    for i in range(len(next(iter(columns.values())))):
        cells = []
        for name, texts in columns.items():
            mark = ("✅ " if marks[name][i] else "❌ ") if marks and name in marks else ""
            text = html.escape(texts[i]).replace("\n", "<br>")
            cells.append(f"<td style='text-align:left;vertical-align:top'>{mark}{text}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def stacked_shares(
    ax, bars: Mapping[str, Mapping[str, float]], parts: Mapping[str, tuple[str, str]], xlabel: str
) -> None:
    """Horizontal bars on `ax`, one an entry from the top down, each made of its parts.

    bars: name of a bar → part → size. parts: part → its name in the legend and its colour, in the order
    of drawing. A part's share of its bar is written in it where there is room.
    """
    totals = [sum(sizes.values()) for sizes in bars.values()]
    begins = [0.0] * len(bars)
    for part, (name, colour) in parts.items():
        sizes = [bar.get(part, 0) for bar in bars.values()]
        if not any(sizes):
            continue
        drawn = ax.barh(range(len(bars)), sizes, 0.64, begins, color=colour, edgecolor="white", label=name)
        shares = zip(sizes, totals, strict=True)
        texts = [f"{size / total:.0%}" if size > 0.045 * max(totals) else "" for size, total in shares]
        ax.bar_label(drawn, texts, label_type="center", color=_on(colour), fontsize=9)
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


def matrix_image(ax, matrix, title: str, kind: str, like=None) -> None:
    """A matrix on `ax`: kind "image" from black to white, "matrix" from blue through white at zero to orange.

    The colours span the values of `like`, or of the matrix itself.
    """
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    shown = matrix if like is None else like
    if kind == "image":
        look = {"cmap": "gray", "vmin": shown.min(), "vmax": shown.max(), "aspect": "equal"}
    else:
        most = np.quantile(np.abs(shown), 0.995)  # a few outliers would leave the rest white
        colours = LinearSegmentedColormap.from_list("course", [DARK, "white", BRIGHT])
        look = {"cmap": colours, "vmin": -most, "vmax": most, "aspect": "auto"}
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
    for row, ((name, points), colour) in enumerate(zip(levels.items(), (BRIGHT, DARK), strict=True), start=1):
        low = -0.24 * top * row
        ax.vlines(points, low + 0.05 * top, low + 0.2 * top, color=colour, linewidth=2)
        ax.text(-1.04, low + 0.125 * top, name, ha="right", va="center", color=colour, fontsize=11)
    ax.set(xlim=(-1.03, 1.03), ylim=(-0.5 * top, 1.05 * top), yticks=[])
    ax.set_xlabel("权重 ÷ 本块最大绝对值 (weight / absmax)")
    ax.spines["left"].set_visible(False)
    ax.grid(visible=False)


def error_by_block(ax, names: Sequence[str], errors: Mapping[str, Sequence[float]], chosen: int) -> None:
    """Relative errors on `ax` of two codes by block size, those of number `chosen` ringed.

    errors: name of a code → one share for each of `names`.
    """
    for (code, values), colour, mark in zip(errors.items(), (BRIGHT, DARK), "os", strict=True):
        ax.plot(range(len(names)), values, color=colour, marker=mark, markersize=4)
        ax.plot(chosen, values[chosen], mark, color=colour, markersize=11, fillstyle="none", mew=2)
        end = (len(names) - 1, values[-1])
        ax.annotate(code, end, (0, 9), textcoords="offset points", ha="right", color=colour)
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set(xlabel="块大小 (block size)", ylim=(0, 1.15 * max(map(max, errors.values()))))
    ax.set_title("相对误差 (relative error)", fontsize=11)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


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
        start, colour = (0.0, DARK) if name == "合计" else (begin, "#55809b")
        ax.barh(row, size, 0.66, start, color=colour, zorder=2)
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


def _on(colour: str) -> str:
    """Black or white, whichever can be read on `colour`."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 140 else "black"


def reward_layers(ax, answers: Sequence[str], scores: Mapping[str, Sequence[float]]) -> None:
    """Stacked horizontal bars on `ax`: of each answer, top down, what each reward function gave it.

    scores: name of a reward → one value >= 0 per answer. The sum stands behind each bar.
    """
    colours = (BRIGHT, "#f2c08a", DARK, "#55809b", SOFT)
    begins = [0.0] * len(answers)
    for (name, values), colour in zip(scores.items(), colours, strict=False):
        ax.barh(range(len(answers)), values, 0.62, begins, color=colour, edgecolor="white", label=name)
        begins = [begin + value for begin, value in zip(begins, values, strict=True)]
    for row, total in enumerate(begins):
        ax.text(total + 0.05, row, f"{total:.4g}", va="center", fontsize=9)
    ax.set(xlabel="奖励之和", yticks=range(len(answers)), yticklabels=answers, xlim=(0, 1.1 * max(begins)))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(frameon=False, fontsize=9, loc="upper right")


def group_bars(
    top, bottom, groups: Mapping[str, Sequence[float]], advantages: Mapping[str, Sequence[float]]
) -> None:
    """Rewards of each group on `top` with the group's mean as a line, and their advantages on `bottom`.

    Bars above the mean are orange, below blue. Both mappings: name of a group → one value a completion.
    """
    begin, centres = 0, []
    for name, rewards in groups.items():
        at = range(begin, begin + len(rewards))
        mean = sum(rewards) / len(rewards)
        top.bar(at, rewards, 0.8, color=[_side(reward - mean) for reward in rewards])
        top.plot([begin - 0.5, begin + len(rewards) - 0.5], [mean, mean], color="black", linewidth=1.2)
        bottom.bar(at, advantages[name], 0.8, color=[_side(value) for value in advantages[name]])
        centres.append(begin + (len(rewards) - 1) / 2)
        begin += len(rewards) + 1
    bottom.axhline(0, color="black", linewidth=0.8)
    top.set(ylabel="奖励", xticks=[])
    bottom.set(ylabel="优势 (advantage)", xticks=centres, xticklabels=list(groups))
    for ax in (top, bottom):
        ax.grid(axis="x", visible=False)


def _side(value: float) -> str:
    """Colour of what lies above, below, or at a mean."""
    return SOFT if abs(value) < 1e-9 else BRIGHT if value > 0 else DARK


def rise_and_fall(upper, lower, log, reward: str, quality: Mapping[str, str], names: tuple[str, str]) -> None:
    """Two charts over the same steps: on `upper` the reward trained on, on `lower` what it should have meant.

    log: DataFrame with `step`, the column `reward` names and those of `quality` (column → its name, shares 0 to 1).
    names: labels of the two y axes.
    """
    upper.plot(log["step"], log[reward], color=BRIGHT, linewidth=2)
    upper.set(ylabel=names[0], ylim=(0, None))
    for (column, name), style in zip(quality.items(), ("-", "--", ":"), strict=False):
        lower.plot(log["step"], log[column], style, color=DARK, linewidth=2, label=name)
    lower.set(xlabel="优化步数 (step)", ylabel=names[1], ylim=(-0.03, 1.03))
    lower.xaxis.get_major_locator().set_params(integer=True)
    lower.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    lower.legend(frameon=False, fontsize=9)


def batching_timeline(ax, schedule, steps: int) -> None:
    """A `serving.scheduling.Schedule` on `ax`: a row a slot, a bar a request with its number, and hatched,
    labelled for a legend, where a slot is held although its request is written. `steps`: end of the time axis."""
    for span in schedule.spans:
        colour = DARK if span.job % 2 else "#55809b"
        ax.barh(span.slot, span.end - span.start, 0.8, span.start, color=colour, edgecolor="white")
        if span.end - span.start > 0.02 * steps:
            middle = (span.start + span.end) / 2
            ax.text(middle, span.slot, str(span.job), color="white", ha="center", va="center", fontsize=8)
    held = [span for span in schedule.spans if span.released > span.end]
    if held:
        rows, begins = [span.slot for span in held], [span.end for span in held]
        widths = [span.released - span.end for span in held]
        look = {"color": "#f7dcc0", "edgecolor": BRIGHT, "hatch": "////", "linewidth": 0}
        ax.barh(rows, widths, 0.8, begins, label="写完了，还占着槽位", **look)
    ax.axvline(schedule.makespan, color=BRIGHT, linewidth=1.5)
    ax.set(xlim=(0, steps), xlabel="步 (step)", ylabel="槽位 (slot)", yticks=range(schedule.slots))
    ax.set_ylim(schedule.slots - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def memory_map(ax, memory, per_row: int, unit: int) -> None:
    """A `serving.scheduling.MemoryMap` on `ax` as rows of `per_row` places: filled places blue with the number
    of their request, reserved but empty ones orange, free ones white; a line after every `unit` places.
    Labelled for a legend."""
    import numpy as np
    from matplotlib.colors import ListedColormap

    kinds = np.where(memory.owner < 0, 0, np.where(memory.filled, 2 + memory.owner % 2, 1))
    rows = len(kinds) // per_row
    colours = ListedColormap(["white", "#f2b380", "#55809b", DARK])
    ax.imshow(kinds.reshape(rows, per_row), cmap=colours, vmin=0, vmax=3, aspect="auto", interpolation="none")
    for start in range(0, len(kinds), unit):
        row, column = divmod(start, per_row)
        if memory.owner[start] >= 0:
            ax.text(column + 0.2, row, str(memory.owner[start]), color="white", va="center", fontsize=7)
        if column == 0 or unit < per_row:
            ax.plot([column - 0.5] * 2, [row - 0.5, row + 0.5], color="white", linewidth=1.5)
    ax.hlines(np.arange(0.5, rows - 1), -0.5, per_row - 0.5, color="white", linewidth=1.5)
    for colour, kind in ((DARK, "有词元"), ("#f2b380", "预留了，没有用"), ("white", "空闲")):
        ax.fill([], [], color=colour, edgecolor="#8a949e", label=kind)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set(visible=True, color="#8a949e")


def load_bars(ax, tests, figure: str, ylabel: str, scale: float = 1.0) -> None:
    """One figure of load tests on `ax`: a group a concurrency, a bar a contestant, its value above.

    tests: `serving.load.LoadTest`s. `figure`: key of their summary, shown times `scale`.
    """
    names, loads = dict.fromkeys(t.name for t in tests), sorted({t.concurrency for t in tests})
    values = {(t.name, t.concurrency): scale * t.summary()[figure] for t in tests}
    width = 0.84 / len(names)
    for k, (name, colour) in enumerate(zip(names, (SOFT, DARK, BRIGHT), strict=False)):
        at = [i + (k - (len(names) - 1) / 2) * width for i in range(len(loads))]
        heights = [values.get((name, load), float("nan")) for load in loads]
        bars = ax.bar(at, heights, width * 0.94, color=colour, label=name)
        ax.bar_label(bars, [_short(height) for height in heights], padding=2, fontsize=8)
    ax.set_xticks(range(len(loads)), [f"{load}" for load in loads])
    ax.set(xlabel="同时的请求数 (concurrency)", ylabel=ylabel)
    ax.margins(y=0.12)
    ax.grid(axis="x", visible=False)


def _short(value: float) -> str:
    """A measured value in a few digits; empty for NaN."""
    return "" if value != value else f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def request_timeline(ax, test, seconds: float) -> None:
    """Every request of a `serving.load.LoadTest` as a row on `ax`: waiting for its first text, then receiving;
    one that failed is marked by a cross. `seconds`: end of the time axis. Labelled for a legend."""
    begin = min(trace.sent for trace in test.traces)
    for row, trace in enumerate(test.traces):
        sent, done = trace.sent - begin, trace.done - begin
        first = trace.pieces[0] - begin if trace.pieces else done
        ax.barh(row, first - sent, 0.8, sent, color="#f2b380", label="_" * (row > 0) + "等第一个字")
        ax.barh(row, done - first, 0.8, first, color=DARK, label="_" * (row > 0) + "收到文字")
        if trace.error:
            ax.plot(done, row, "x", color="black", markersize=5)
    ax.set(xlim=(0, seconds), ylim=(len(test.traces) - 0.3, -0.7), xlabel="秒", ylabel="请求")
    ax.grid(axis="y", visible=False)


def drift_bars(ax, drifts: Mapping[str, float], notes: Mapping[str, str]) -> None:
    """Horizontal bars on `ax`, top down and on a logarithmic scale: KL in nats per token of each way to
    merge or store a model; a note behind each bar. The largest is orange."""
    worst = max(drifts.values())
    for row, (name, kl) in enumerate(drifts.items()):
        ax.barh(row, kl, 0.6, color=BRIGHT if kl == worst else DARK)
        ax.text(kl * 1.6, row, notes[name], va="center", fontsize=9)
    low = min(drifts.values())
    ax.set(xscale="log", xlim=(low / 10, worst * (worst / low) ** 0.55))
    ax.set_xticks([10.0**power for power in range(-15, 1, 3) if 10.0**power > low / 10])
    ax.set(yticks=range(len(drifts)), yticklabels=list(drifts), xlabel="KL（纳特 / 词元，对数刻度）")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


def caught_at(ax, faults: Mapping[str, Mapping[str, str]], stages: Mapping[str, str]) -> None:
    """A table on `ax`, a row a fault, a column a stage of the parity gate.

    faults: name → stage → what was measured there, with "✗" in front where the gate finds a difference;
    the first of those in a row is orange, later ones light. stages: key → name at the head of the column.
    """
    for row, measured in enumerate(faults.values()):
        first = True
        for column, stage in enumerate(stages):
            text = measured[stage]
            wrong = text.startswith("✗")
            colour = (BRIGHT if first else "#f2c08a") if wrong else "#e3ebf0"
            first = first and not wrong
            ax.barh(row, 0.94, 0.86, column - 0.47, color=colour)
            said = text.removeprefix("✗").strip()
            ax.text(column, row, said, ha="center", va="center", fontsize=9, color=_on(colour))
    ax.set(xlim=(-0.55, len(stages) - 0.45), ylim=(len(faults) - 0.45, -0.55))
    ax.set_xticks(range(len(stages)), list(stages.values()))
    ax.set_yticks(range(len(faults)), list(faults))
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(False)
