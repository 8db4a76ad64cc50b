"""What a trainer logged, as a table: `steps` for any of TRL's, `reward_steps` for GRPO's.

ms-swift writes its log to a file; `lab_utils.artifacts.run_log` reads that.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lab_utils.errors import InvalidValue

if TYPE_CHECKING:
    import pandas as pd

SHORT_NAMES = {
    "loss": "loss",
    "reward": "reward",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "grad_norm": "grad_norm",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut_off",
}
"""TRL's names of what `reward_steps` keeps, and the columns' names; `length` is in tokens, `cut_off` a share."""


def steps(log_history: Sequence[Mapping]) -> "pd.DataFrame":
    """`trainer.state.log_history` as a DataFrame: one row a training step, each measure under the trainer's own name.

    All columns are floats. Rows of evaluations and the closing summary are left out.
    """
    import pandas as pd

    rows = [row for row in log_history if "learning_rate" in row or "lr" in row]
    return pd.DataFrame([{name: float(value) for name, value in row.items()} for row in rows])


def reward_steps(
    log_history: Sequence[Mapping], weights: Mapping[str, float] | None = None
) -> "pd.DataFrame":
    """The log of a GRPO run as a DataFrame, one row a step: `step`, `SHORT_NAMES`, and the mean of each reward
    function under its own name.

    log_history: `trainer.state.log_history`, or the rows of ms-swift's `logging.jsonl` that hold a `step`. TRL 0.29.1
    learns from the weighted sum of the rewards and logs as `reward` the plain one; with `weights` (name of a reward
    function → weight) the column `reward` is the weighted sum. Rows without a reward (the closing summary) are left
    out. Raises InvalidValue when none is left, or a weighted reward wasn't logged.
    """
    import pandas as pd

    rows = [row for row in log_history if "reward" in row and "step" in row]
    if not rows:
        raise InvalidValue(
            "日志 (log) 里没有一步记了 reward：训练还没有开始，或 logging_steps 太大", "先训练几步"
        )
    table = pd.DataFrame([{"step": row["step"], **_short(row), **reward_means(row)} for row in rows])
    if weights:
        if missing := [name for name in weights if name not in table]:
            raise InvalidValue(
                f"日志里没有奖励函数 {'、'.join(missing)}", f"有的列是 {'、'.join(table.columns)}"
            )
        table["reward"] = sum(weight * table[name] for name, weight in weights.items())
    return table


def reward_means(row: Mapping) -> dict[str, float]:
    """Mean of each reward function in one row of a GRPO log, under the function's name."""
    keys = [key for key in row if key.startswith("rewards/") and key.endswith("/mean")]
    return {key.split("/")[1]: row[key] for key in keys}


def _short(row: Mapping) -> dict:
    return {short: row[name] for name, short in SHORT_NAMES.items() if name in row}
