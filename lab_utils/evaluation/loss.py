"""The loss on answers, in training and on what was held out: nats per supervised token, and perplexity."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lab_utils.data.batches import Example, batch_for
from lab_utils.data.loss_mask import IGNORE
from lab_utils.errors import InvalidValue

if TYPE_CHECKING:
    import torch


def answer_loss(model, batch: "Mapping[str, torch.Tensor]") -> "torch.Tensor":
    """Mean cross-entropy of the supervised tokens of a batch from `data.batches.collate`: scalar, nats per token."""
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten())


def held_out_loss(model, examples: Sequence[Example], batch_size: int = 32) -> float:
    """Mean cross-entropy in nats over all supervised tokens of `examples`.

    Every token counts the same, whichever batch it fell into; the model's mode (train or eval) is kept. Raises
    InvalidValue for no examples.
    """
    import torch

    if not examples:
        raise InvalidValue(
            "没有留出的数据 (held-out examples)，无从计算损失", "先用 encode_rows 编码几行数据"
        )
    total, count, was_training = 0.0, 0, model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(examples), batch_size):
            batch = batch_for(model, examples[start : start + batch_size])
            tokens = int((batch["labels"][:, 1:] != IGNORE).sum())
            total += answer_loss(model, batch).item() * tokens
            count += tokens
    model.train(was_training)
    return total / count


def perplexity(nats_per_token: float) -> float:
    """Among how many equally likely tokens a loss leaves the model undecided: e to the loss."""
    return math.exp(nats_per_token)
