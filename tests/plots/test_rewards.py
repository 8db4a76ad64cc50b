"""Rewards and advantages."""

from matplotlib.figure import Figure

from lab_utils import plots
from tests.plots.drawn import words


def test_the_layers_of_a_reward_add_up_behind_the_bar(ax):
    plots.reward_layers(ax, ["甲", "乙"], {"a": [2.0, 0.0], "b": [0.5, 0.125]})
    assert words(ax) == ["2.5", "0.125"]
    ends = [bar.get_x() + bar.get_width() for bar in ax.containers[1]]
    assert ends == [2.5, 0.125]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_a_group_without_difference_has_no_side(ax):
    bottom = Figure(layout="none").subplots()
    plots.group_bars(ax, bottom, {"甲": [1, 0], "乙": [1, 1]}, {"甲": [0.7, -0.7], "乙": [0.0, 0.0]})
    colors = [bar.get_facecolor() for container in ax.containers for bar in container]
    assert len(set(colors)) == 3 and colors[2] == colors[3]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.5, 0.5], [1.0, 1.0]]
    assert [bar.get_height() for container in bottom.containers for bar in container] == [0.7, -0.7, 0, 0]
