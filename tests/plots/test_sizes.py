"""Shares of parameters, and memory beside graphics cards."""

import pytest

from lab_utils import plots
from tests.plots.drawn import words


def test_stacked_shares_add_up_and_keep_a_color_for_a_part(ax):
    bars = {"甲": {"a": 3, "b": 1, "c": 0.001}, "乙": {"b": 2}}
    parts = {
        "a": ("第一", plots.DARK),
        "b": ("第二", plots.SOFT),
        "c": ("第三", plots.BRIGHT),
        "d": ("无", "#000000"),
    }
    plots.stacked_shares(ax, bars, parts, "参数量")
    ends = [[patch.get_x() + patch.get_width() for patch in group] for group in ax.containers]
    assert ends == [[3, 0], [4, 2], [pytest.approx(4.001), 2]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["第一", "第二", "第三"]
    assert words(ax) == ["75%", "", "25%", "100%", "", ""]
    assert ax.texts[0].get_color() == "white"
    assert ax.texts[3].get_color() == "black"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["甲", "乙"]
    assert ax.yaxis_inverted()


@pytest.mark.parametrize(
    ("value", "text"), [(7e9, "7 B"), (1.5e8, "150 M"), (2000, "2 K"), (72, "72"), (0, "0")]
)
def test_counts_on_an_axis_are_short(ax, value, text):
    plots.stacked_shares(ax, {"甲": {"a": 7e9}}, {"a": ("第一", plots.DARK)}, "参数量")
    assert ax.xaxis.get_major_formatter()(value, 0) == text


def test_memory_goes_down_in_steps_to_the_sum(ax):
    plots.memory_steps(ax, {"权重": 10.0, "激活值": 8.0}, {"T4": 16, "RTX 4090": 24, "A100 80G": 80}, 1.0)
    spans = [(bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert spans == [(0, 10), (10, 8), (0, 18)]
    assert words(ax)[:3] == ["10.00", "8.00", "18.00"]
    assert words(ax)[3:] == ["T4", "RTX 4090"]
    assert [line.get_linestyle() for line in ax.lines] == [":", "-"]


@pytest.mark.parametrize(("reserve", "line"), [(1.0, "-"), (1.01, ":")])
def test_a_card_fits_with_what_is_kept_free(ax, reserve, line):
    plots.memory_steps(ax, {"权重": 15.0}, {"T4": 16}, reserve)
    assert [card.get_linestyle() for card in ax.lines] == [line]


def test_the_smallest_card_is_shown_however_little_is_needed(ax):
    plots.memory_steps(ax, {"权重": 0.1}, {"T4": 16, "RTX 4090": 24}, 1.0)
    assert words(ax)[2:] == ["T4"]
    assert ax.get_xlim()[1] > 16


def test_cards_far_below_the_sum_keep_a_line_and_the_largest_its_name(ax):
    plots.memory_steps(ax, {"权重": 1300.0}, {"T4": 16, "RTX 4090": 24, "A100 80G": 80}, 1.0)
    assert len(ax.lines) == 3
    assert words(ax)[2:] == ["A100 80G"]
