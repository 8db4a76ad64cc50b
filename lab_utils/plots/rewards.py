"""Rewards of reinforcement learning: what each reward function gave, and the advantages in a group."""

from collections.abc import Mapping, Sequence

from lab_utils.plots.style import BRIGHT, DARK, SOFT


def reward_layers(ax, answers: Sequence[str], scores: Mapping[str, Sequence[float]]) -> None:
    """Stacked horizontal bars on `ax`: of each answer, top down, what each reward function gave it.

    scores: name of a reward → one value >= 0 per answer. The sum stands behind each bar.
    """
    colors = (BRIGHT, "#f2c08a", DARK, "#55809b", SOFT)
    begins = [0.0] * len(answers)
    for (name, values), color in zip(scores.items(), colors, strict=False):
        ax.barh(range(len(answers)), values, 0.62, begins, color=color, edgecolor="white", label=name)
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
    begin, centers = 0, []
    for name, rewards in groups.items():
        at = range(begin, begin + len(rewards))
        mean = sum(rewards) / len(rewards)
        top.bar(at, rewards, 0.8, color=[_side(reward - mean) for reward in rewards])
        top.plot([begin - 0.5, begin + len(rewards) - 0.5], [mean, mean], color="black", linewidth=1.2)
        bottom.bar(at, advantages[name], 0.8, color=[_side(value) for value in advantages[name]])
        centers.append(begin + (len(rewards) - 1) / 2)
        begin += len(rewards) + 1
    bottom.axhline(0, color="black", linewidth=0.8)
    top.set(ylabel="奖励", xticks=[])
    bottom.set(ylabel="优势 (advantage)", xticks=centers, xticklabels=list(groups))
    for ax in (top, bottom):
        ax.grid(axis="x", visible=False)


def _side(value: float) -> str:
    """Color of what lies above, below, or at a mean."""
    return SOFT if abs(value) < 1e-9 else BRIGHT if value > 0 else DARK
