"""A run and what came of it: curves over the steps, rates with their intervals, a reward beside what it stands for."""

from collections.abc import Mapping

from lab_utils.evaluation.intervals import Interval
from lab_utils.plots.style import BRIGHT, DARK, SOFT, axes


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


def reward_vs_quality(
    upper, lower, log, reward: str, quality: Mapping[str, str], names: tuple[str, str]
) -> None:
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
