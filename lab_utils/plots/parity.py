"""An exported model beside the one it was made from: how far it drifted, and which faults a parity check finds."""

from collections.abc import Mapping

from lab_utils.plots.style import BRIGHT, DARK, text_color


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


def parity_table(ax, faults: Mapping[str, Mapping[str, str]], stages: Mapping[str, str]) -> None:
    """A table on `ax`, a row a fault, a column a stage of the parity gate.

    faults: name → stage → what was measured there, with "✗" in front where the gate finds a difference;
    the first of those in a row is orange, later ones light. stages: key → name at the head of the column.
    """
    for row, measured in enumerate(faults.values()):
        first = True
        for column, stage in enumerate(stages):
            text = measured[stage]
            wrong = text.startswith("✗")
            color = (BRIGHT if first else "#f2c08a") if wrong else "#e3ebf0"
            first = first and not wrong
            ax.barh(row, 0.94, 0.86, column - 0.47, color=color)
            shown = text.removeprefix("✗").strip()
            ax.text(column, row, shown, ha="center", va="center", fontsize=9, color=text_color(color))
    ax.set(xlim=(-0.55, len(stages) - 0.45), ylim=(len(faults) - 0.45, -0.55))
    ax.set_xticks(range(len(stages)), list(stages.values()))
    ax.set_yticks(range(len(faults)), list(faults))
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(False)
