"""Curves of a run."""

from matplotlib.figure import Figure

from lab_utils import plots


def test_what_rises_and_what_falls_share_their_steps(ax):
    import pandas as pd

    lower = Figure(layout="none").subplots()
    log = pd.DataFrame({"step": [1, 2], "count": [3.0, 9.0], "form": [1.0, 0.2]})
    plots.reward_vs_quality(ax, lower, log, "count", {"form": "形式"}, ("字数", "比例"))
    assert ax.lines[0].get_ydata().tolist() == [3.0, 9.0]
    assert lower.lines[0].get_ydata().tolist() == [1.0, 0.2] and lower.lines[0].get_label() == "形式"
