"""Batching, the memory of the KV cache, load tests."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from lab_utils import plots
from tests.plots.drawn import words


def test_a_batching_timeline_shows_work_and_held_slots(ax):
    from lab_utils.serving.scheduling import Job, static_batching

    plots.batching_timeline(ax, static_batching([Job(0, 6), Job(0, 2), Job(1, 3)], 2), steps=20)
    bars = [
        (round(bar.get_y() + 0.4, 9), bar.get_x(), bar.get_width(), bool(bar.get_hatch()))
        for bar in ax.patches
    ]
    assert bars == [(0, 0, 6, False), (1, 0, 2, False), (0, 6, 3, False), (1, 2, 4, True)]
    assert words(ax) == ["0", "1", "2"]
    assert ax.get_legend_handles_labels()[1] == ["写完了，还占着槽位"]
    assert (ax.get_xlim(), ax.yaxis_inverted()) == ((0, 20), True)
    assert ax.lines[0].get_xdata()[0] == 9


def test_a_memory_map_shows_who_holds_what(ax):
    from lab_utils.serving.scheduling import contiguous_memory, paged_memory

    plots.memory_map(ax, contiguous_memory([3, 1], places=20, max_length=8), per_row=4, unit=8)
    assert ax.images[0].get_array().tolist() == [[2, 2, 2, 1], [1] * 4, [3, 1, 1, 1], [1] * 4, [0] * 4]
    assert words(ax) == ["0", "1"]
    assert ax.get_legend_handles_labels()[1] == ["有词元", "预留了，没有用", "空闲"]
    other = Figure(layout="none").subplots()
    plots.memory_map(other, paged_memory([3, 1], places=8, block_size=2), per_row=4, unit=2)
    assert other.images[0].get_array().tolist() == [[2, 2, 3, 1], [2, 1, 0, 0]]
    assert words(other) == ["0", "1", "0"]


def load_test(name: str, concurrency: int, seconds: float):
    from lab_utils.serving.load import LoadTest, Trace

    good = Trace(0.0, (seconds / 4, seconds), seconds, 30, "诗")
    return LoadTest(name, concurrency, (good, Trace(0.0, (), seconds / 2, 0, "", "HTTP 500")))


def test_load_bars_put_each_contestant_beside_the_others(ax):
    tests = [load_test("甲", 8, 2.0), load_test("甲", 1, 1.0), load_test("乙", 8, 4.0)]
    plots.load_bars(ax, tests, "tokens_per_second", "词元 / 秒")
    assert [[bar.get_height() for bar in group] for group in ax.containers] == [[30, 15], [pytest.approx(np.nan, nan_ok=True), 7.5]]  # fmt: skip
    assert words(ax) == ["30", "15", "", "7.5"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "8"]
    assert ax.get_legend_handles_labels()[1] == ["甲", "乙"]


def test_load_bars_scale_a_figure(ax):
    plots.load_bars(ax, [load_test("甲", 1, 2.0)], "ttft_p95", "毫秒", scale=1000)
    assert words(ax) == ["500"]


def test_a_request_timeline_shows_waiting_receiving_and_failing(ax):
    plots.request_timeline(ax, load_test("甲", 2, 2.0), seconds=5)
    bars = [(round(bar.get_y() + 0.4, 9), bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert bars == [(0, 0, 0.5), (0, 0.5, 1.5), (1, 0, 1), (1, 1, 0)]
    assert ax.get_legend_handles_labels()[1] == ["等第一个字", "收到文字"]
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[1, 1]]]
