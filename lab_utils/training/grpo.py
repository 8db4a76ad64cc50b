"""TRL's GRPO in a notebook: rows for its trainer (`dataset`), poems kept on the way (`Samples`).

The trainer itself is TRL's `GRPOTrainer`, unchanged; `lab_utils.training.history` makes a table of its log.
"""

from collections.abc import Sequence

import torch
from transformers import TrainerCallback

from lab_utils.errors import InvalidValue
from lab_utils.evaluation.verse_exam import evaluate_policy
from lab_utils.training.history import reward_means


def dataset(rows: Sequence[dict]):
    """Rows of `verse_exam.questions` as TRL wants them: a `Dataset` of prompt, form, theme.

    `prompt` is a conversation, so TRL puts the chat template around it; `form` and `theme` go to the
    reward functions as columns. Raises InvalidValue for no rows, or one that ends with an answer.
    """
    from datasets import Dataset

    if not rows:
        raise InvalidValue("没有提示词 (prompts)：rows 是空的", "至少给出一题，例如 verse_exam.questions 的")
    for i, row in enumerate(rows, 1):
        if row["messages"][-1]["role"] != "user":
            raise InvalidValue(
                f"第 {i} 行以 {row['messages'][-1]['role']!r} 结尾",
                "GRPO 的数据只有问题，回答由模型自己写：去掉最后一轮",
            )
    return Dataset.from_list(
        [{"prompt": row["messages"], "form": row["form"], "theme": row["theme"]} for row in rows]
    )


class Samples(TrainerCallback):
    """Has the policy answer the same rows before the first step and after every `every` steps, and
    prints how far the training is each time.

    `tables`: step → DataFrame of `verse_exam.evaluate_policy`, same seed each time. The training's own random
    numbers are not touched. Raises InvalidValue for `every` below 1.
    """

    def __init__(self, tokenizer, rows: Sequence[dict], every: int, max_new_tokens: int = 48):
        if every < 1:
            raise InvalidValue(f"every 应至少为 1，收到 {every}", "每几步写一次，就填几")
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
            self.tables[step] = evaluate_policy(
                model, self.tokenizer, self.rows, max_new_tokens=self.max_new_tokens
            )
        model.train(training)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.global_step % self.every == 0 and "reward" in logs:
            means = "，".join(f"{name} {mean:.2f}" for name, mean in reward_means(logs).items())
            print(f"第 {state.global_step} / {state.max_steps} 步：{means}", flush=True)
