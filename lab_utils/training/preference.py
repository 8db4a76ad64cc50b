"""What stands around TRL's trainers when a policy learns from preferences: the policy they all start
from, the log-probability that any policy gives to an answer, a reward model on the language model's
own head, a run's history as a table.

Rows are preference pairs as in `lab_utils.data.preference`.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from lab_utils.align import sequence_logps, token_logps
from lab_utils.data.formats import encode
from lab_utils.data.loss_mask import IGNORE
from lab_utils.files import atomic_folder
from lab_utils.training import loop


def save_policy(folder: str | Path, name: str, adapter: str | Path) -> Path:
    """Merge `adapter` into the model `name` and save it, with its tokenizer, as a model folder.

    Trainers that start from this folder start from the very same weights. A folder that is there is
    replaced, once the new one is complete. Raises what `models.load` raises.
    """
    from lab_utils import models

    folder = Path(folder)
    model, tokenizer = models.load(name, adapter=adapter)
    with atomic_folder(folder) as made:
        model.merge_and_unload().save_pretrained(made)
        tokenizer.save_pretrained(made)
    return folder


def collate(tokenizer, conversations: Sequence[list[dict]]) -> tuple[torch.Tensor, torch.Tensor]:
    """`(input_ids, labels)`, both (batch, seq) int64, padded on the right; only answers have labels.

    Raises ValueError for no conversation, or one without an answer.
    """
    if not conversations:
        raise ValueError("没有对话：至少给出一段 (conversations)")
    encoded = [encode(tokenizer, messages) for messages in conversations]
    for number, (_, labels) in enumerate(encoded):
        if all(label == IGNORE for label in labels):
            raise ValueError(f"第 {number} 段对话里没有 assistant 的回答，没有可以计算的词元")
    batch = loop.collate(encoded, tokenizer.pad_token_id)
    return batch["input_ids"], batch["labels"]


def answer_logps(
    model, tokenizer, conversations: Sequence[list[dict]], batch_size: int = 40, adapter: bool = True
) -> torch.Tensor:
    """Summed log-probability of the answer of each conversation, (rows,) float32 on the CPU, in nats.

    `adapter` False: with the model's LoRA adapter switched off, as TRL reads the reference off a
    policy under training. No gradient; the model's mode (train or eval) is kept.
    """
    sums, was_training = [], model.training
    model.eval()
    with torch.no_grad(), nullcontext() if adapter else model.disable_adapter():
        for start in range(0, len(conversations), batch_size):
            ids, labels = collate(tokenizer, conversations[start : start + batch_size])
            mask = torch.arange(ids.shape[1]) < _lengths(labels)
            answer_from = int((labels != IGNORE).any(0).nonzero()[0])
            kept = ids.shape[1] - answer_from + 1  # no logits where no answer stands
            out = model(
                input_ids=ids.to(model.device),
                attention_mask=mask.long().to(model.device),
                logits_to_keep=kept,
            )
            sums.append(sequence_logps(out.logits.float().cpu(), labels[:, -kept:]))
    model.train(was_training)
    return torch.cat(sums)


def pair_logps(model, tokenizer, rows: Sequence[dict], **how) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the chosen and of the rejected answers, each (rows,); `how`: of `answer_logps`."""
    chosen = answer_logps(model, tokenizer, [row["prompt"] + row["chosen"] for row in rows], **how)
    return chosen, answer_logps(model, tokenizer, [row["prompt"] + row["rejected"] for row in rows], **how)


def kl_on_samples(policy, reference, tokenizer, questions: Sequence[dict], texts: Sequence[str]) -> float:
    """KL(policy || reference) per answer in nats, from `texts` that `policy` sampled at temperature 1.

    The mean of log policy - log reference (the estimate k1 of a whole answer): unbiased, so a small
    KL may come out below 0. questions: rows with `messages`, in the order of `texts`.
    """
    said = [
        row["messages"] + [{"role": "assistant", "content": text}]
        for row, text in zip(questions, texts, strict=True)
    ]
    difference = answer_logps(policy, tokenizer, said) - answer_logps(reference, tokenizer, said)
    return difference.mean().item()


class TokenScores(nn.Module):
    """Running sum over an answer of log p - log p_ref: `policy` with its LoRA adapter, and without."""

    def __init__(self, policy, header: list[int]):
        super().__init__()
        self.policy, self.header = policy, header

    def forward(self, input_ids, attention_mask, position_ids=None, **_) -> BaseModelOutput:
        """`hidden_states[-1]`: (batch, seq, 1) float32, the sum up to each token.

        input_ids, attention_mask: (batch, seq). The answer follows the second turn's `header`, the tokens
        of "<|im_start|>assistant" and a line break; the prompt, and padding on either side, add nothing.
        Other arguments are ignored.
        """
        how = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        with torch.no_grad(), self.policy.disable_adapter():
            reference = token_logps(self.policy(**how).logits, input_ids)
        gained = token_logps(self.policy(**how).logits, input_ids) - reference
        begun = (input_ids == self.header[0]).cumsum(1) >= 2
        answer = begun.roll(len(self.header), 1) & begun & attention_mask.bool()
        sums = (gained * answer[:, 1:]).cumsum(1)
        return BaseModelOutput(hidden_states=(nn.functional.pad(sums, (1, 0)).unsqueeze(-1),))


class LikelihoodReward(nn.Module):
    """A reward model on the language model's own head: r(x, y) = log p(y|x) - log p_ref(y|x).

    `forward` gives `logits` (batch, 1), as a sequence classifier of one label does, for TRL's
    RewardTrainer; `base_model_prefix` and `score` are what its PPOTrainer asks of a reward model.
    The form is that of Rafailov et al. 2023, eq. 5, with beta 1 and without the term in x alone.
    """

    base_model_prefix = "tokens"

    def __init__(self, policy, tokenizer):
        super().__init__()
        self.tokens = TokenScores(policy, tokenizer("<|im_start|>assistant\n").input_ids)
        self.score = nn.Identity()
        self.config = policy.get_base_model().config
        self.config.num_labels = 1

    def forward(self, input_ids, attention_mask, **_) -> SequenceClassifierOutput:
        """The reward of each answer, `logits` (batch, 1) float32. input_ids, attention_mask: (batch, seq)."""
        return SequenceClassifierOutput(
            logits=self.tokens(input_ids, attention_mask).hidden_states[-1][:, -1]
        )

    def add_model_tags(self, tags) -> None:
        """TRL labels the models it trains; there is no model card here to put `tags` on."""


def history(trainer):
    """A trainer's log as a DataFrame: `step`, and each measure under the name TRL logs it by.

    Rows of evaluations and the closing summary are left out.
    """
    import pandas as pd

    rows = [row for row in trainer.state.log_history if "learning_rate" in row or "lr" in row]
    return pd.DataFrame([{name: float(value) for name, value in row.items()} for row in rows])


def _lengths(labels: torch.Tensor) -> torch.Tensor:
    """Length of each conversation, (batch, 1): an answer stands at its end. labels: (batch, seq)."""
    places = torch.arange(1, labels.shape[1] + 1) * (labels != IGNORE)
    return places.amax(1, keepdim=True)
