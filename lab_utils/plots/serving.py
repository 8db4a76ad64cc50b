"""Serving: slots over time, the memory of the KV cache, load tests and their requests."""

from lab_utils.plots.style import BRIGHT, DARK, SOFT


def batching_timeline(ax, schedule, steps: int) -> None:
    """A `serving.scheduling.Schedule` on `ax`: a row a slot, a bar a request with its number, and hatched,
    labeled for a legend, where a slot is held although its request is written. `steps`: end of the time axis."""
    for span in schedule.spans:
        color = DARK if span.job % 2 else "#55809b"
        ax.barh(span.slot, span.end - span.start, 0.8, span.start, color=color, edgecolor="white")
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
    Labeled for a legend."""
    import numpy as np
    from matplotlib.colors import ListedColormap

    kinds = np.where(memory.owner < 0, 0, np.where(memory.filled, 2 + memory.owner % 2, 1))
    rows = len(kinds) // per_row
    colors = ListedColormap(["white", "#f2b380", "#55809b", DARK])
    ax.imshow(kinds.reshape(rows, per_row), cmap=colors, vmin=0, vmax=3, aspect="auto", interpolation="none")
    for start in range(0, len(kinds), unit):
        row, column = divmod(start, per_row)
        if memory.owner[start] >= 0:
            ax.text(column + 0.2, row, str(memory.owner[start]), color="white", va="center", fontsize=7)
        if column == 0 or unit < per_row:
            ax.plot([column - 0.5] * 2, [row - 0.5, row + 0.5], color="white", linewidth=1.5)
    ax.hlines(np.arange(0.5, rows - 1), -0.5, per_row - 0.5, color="white", linewidth=1.5)
    for color, kind in ((DARK, "有词元"), ("#f2b380", "预留了，没有用"), ("white", "空闲")):
        ax.fill([], [], color=color, edgecolor="#8a949e", label=kind)
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
    for k, (name, color) in enumerate(zip(names, (SOFT, DARK, BRIGHT), strict=False)):
        at = [i + (k - (len(names) - 1) / 2) * width for i in range(len(loads))]
        heights = [values.get((name, load), float("nan")) for load in loads]
        bars = ax.bar(at, heights, width * 0.94, color=color, label=name)
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
    one that failed is marked by a cross. `seconds`: end of the time axis. Labeled for a legend."""
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
