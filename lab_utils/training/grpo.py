"""TRL's GRPO in a notebook: rows for its trainer, its log as a table, poems kept on the way.

The trainer itself is TRL's `GRPOTrainer`, unchanged.
"""

from collections.abc import Mapping, Sequence

import torch
from transformers import TrainerCallback

from lab_utils.evaluation.verse_exam import sit

SHORT_NAMES = {
    "loss": "loss",
    "reward": "reward",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "grad_norm": "grad_norm",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut_off",
}
"""TRL's names of what `frame` keeps, and the columns' names; `length` is in tokens, `cut_off` a share."""


def dataset(rows: Sequence[dict]):
    """Rows of `verse_exam.questions` as TRL wants them: a `Dataset` of prompt, form, theme.

    `prompt` is a conversation, so TRL puts the chat template around it; `form` and `theme` go to the
    reward functions as columns. Raises ValueError for no rows, or one that ends with an answer.
    """
    from datasets import Dataset

    if not rows:
        raise ValueError("没有提示词 (prompts)：rows 是空的")
    for i, row in enumerate(rows, 1):
        if row["messages"][-1]["role"] != "user":
            raise ValueError(
                f"第 {i} 行以 {row['messages'][-1]['role']!r} 结尾：GRPO 的数据只有问题，回答由模型自己写"
            )
    return Dataset.from_list(
        [{"prompt": row["messages"], "form": row["form"], "theme": row["theme"]} for row in rows]
    )


def frame(history: Sequence[dict], weights: Mapping[str, float] | None = None):
    """`trainer.state.log_history` as a DataFrame, one row a step: `step`, `SHORT_NAMES`, and the mean of
    each reward function under its own name.

    TRL 0.29.1 learns from the weighted sum of the rewards and logs as `reward` the plain one; with
    `weights` (name of a reward function → weight) the column `reward` is the weighted sum.

    Also takes the rows of ms-swift's `logging.jsonl` that hold a `step`. Rows without a reward (the
    closing summary) are left out; ValueError when none is left, or a weighted reward wasn't logged.
    """
    import pandas as pd

    steps = [row for row in history if "reward" in row and "step" in row]
    if not steps:
        raise ValueError("日志 (log) 里没有一步记了 reward：训练还没有开始，或 logging_steps 太大")
    table = pd.DataFrame([{"step": row["step"], **_figures(row)} for row in steps])
    if weights:
        if missing := [name for name in weights if name not in table]:
            raise ValueError(f"日志里没有奖励函数 {'、'.join(missing)}；有的列是 {'、'.join(table.columns)}")
        table["reward"] = sum(weight * table[name] for name, weight in weights.items())
    return table


def _figures(row: dict) -> dict:
    return {short: row[name] for name, short in SHORT_NAMES.items() if name in row} | _means(row)


def _means(row: dict) -> dict[str, float]:
    """Mean of each reward function in one row of a log."""
    keys = [key for key in row if key.startswith("rewards/") and key.endswith("/mean")]
    return {key.split("/")[1]: row[key] for key in keys}


class Samples(TrainerCallback):
    """Has the policy answer the same rows before the first step and after every `every` steps, and
    prints how far the training is each time.

    `tables`: step → DataFrame of `verse_exam.sit`, same seed each time. The training's own random
    numbers are not touched. Raises ValueError for `every` below 1.
    """

    def __init__(self, tokenizer, rows: Sequence[dict], every: int, max_new_tokens: int = 48):
        if every < 1:
            raise ValueError(f"every 应至少为 1，收到 {every}")
        self.tokenizer, self.rows = tokenizer, list(rows)
        self.every, self.max_new_tokens = every, max_new_tokens
        self.tables: dict = {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self._write(0, model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every == 0:
            self._write(state.global_step, model)

    def _write(self, step: int, model) -> None:
        training = model.training
        model.eval()
        with torch.random.fork_rng():
            self.tables[step] = sit(model, self.tokenizer, self.rows, max_new_tokens=self.max_new_tokens)
        model.train(training)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.global_step % self.every == 0 and "reward" in logs:
            said = "，".join(f"{name} {mean:.2f}" for name, mean in _means(logs).items())
            print(f"第 {state.global_step} / {state.max_steps} 步：{said}", flush=True)
