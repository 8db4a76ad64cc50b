"""Supervised fine-tuning in one plain torch loop: every parameter, an adapter's, whatever `requires_grad`.

For what a lab wants to open up and look into. Runs to be kept are trained by `lab_utils.swift`.
"""

import math
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from lab_utils.data import formats
from lab_utils.data.loss_mask import IGNORE

Example = tuple[list[int], list[int]]
"""Token ids and labels of one conversation, both (seq,); the label is -100 where nothing is learned."""

WARMUP = 0.05
"""Share of the steps over which the learning rate rises from zero."""


def encode_rows(tokenizer, rows: list[dict]) -> list[Example]:
    """Rows of `messages` as examples. Raises ValueError for no rows, or a row that supervises no token."""
    examples = [formats.encode(tokenizer, row["messages"]) for row in rows]
    if not examples:
        raise ValueError("没有数据行 (rows)：请至少给出一行带 messages 的数据。")
    for number, (_, labels) in enumerate(examples, 1):
        if all(label == IGNORE for label in labels[1:]):
            raise ValueError(
                f"第 {number} 行没有要学习的词元 (zero supervised tokens)：补上 assistant 的回答。"
            )
    return examples


def collate(examples: list[Example], pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `labels`, each (batch, longest) int64, padded on the right."""
    longest = max(len(ids) for ids, _ in examples)

    def padded(row: list[int], filler: int) -> list[int]:
        return row + [filler] * (longest - len(row))

    return {
        "input_ids": torch.tensor([padded(ids, pad_id) for ids, _ in examples]),
        "attention_mask": torch.tensor([padded([1] * len(ids), 0) for ids, _ in examples]),
        "labels": torch.tensor([padded(labels, IGNORE) for _, labels in examples]),
    }


def answer_loss(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of the supervised tokens of a batch from `collate`: scalar, nats per token."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten())


def train(
    model,
    examples: list[Example],
    steps: int,
    learning_rate: float,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
    loss_of: Callable = answer_loss,
) -> list[float]:
    """Train in place, by AdamW, what in `model` has `requires_grad`; the loss of each step, nats per token.

    The learning rate rises over the first 5 % of the steps and then falls linearly to zero; gradients
    are clipped to norm 1; no weight decay. Every epoch has an order of its own, drawn from `seed`.
    `loss_of(model, batch)`: what is minimised. With `progress`, a line is printed at each tenth.
    The model is left in the mode (train or eval) it came in.

    Raises ValueError for no examples, nothing trainable, or a number that isn't positive;
    RuntimeError, before the weights are touched, when a loss or its gradient is no longer finite.
    """
    for name, value in (("steps", steps), ("learning_rate", learning_rate), ("batch_size", batch_size)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} 应是正数，却是 {value}。")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("模型里没有可训练的参数 (trainable parameters)：所有 requires_grad 都是 False。")
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    was_training = model.training
    losses, began = [], time.perf_counter()
    torch.manual_seed(seed)
    model.train()
    try:
        for step, batch in enumerate(_batches(model, examples, steps, batch_size, seed)):
            optimizer.param_groups[0]["lr"] = learning_rate * rate_factor(step, steps)
            loss = loss_of(model, batch)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
                raise RuntimeError(
                    f"第 {step + 1} 步的损失是 {loss.item()}，梯度范数是 {norm.item()} (NaN/inf)，训练已停，"
                    f"权重停在上一步。请把学习率 (learning_rate={learning_rate}) 调小再试，并检查数据和权重。"
                )
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if progress and (step + 1) * 10 // steps > step * 10 // steps:
                pace = (time.perf_counter() - began) / (step + 1)
                print(f"第 {step + 1}/{steps} 步，损失 {losses[-1]:.3f}，每步 {pace:.2f} 秒", flush=True)
    finally:
        optimizer.zero_grad()
        model.train(was_training)
    return losses


def rate_factor(step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` (from 0) of `steps`: rises over 5 %, then falls to zero."""
    warmup = max(1, round(WARMUP * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)


def held_out_loss(model, examples: list[Example], batch_size: int = 32) -> float:
    """Mean cross-entropy in nats over all supervised tokens of `examples`; `math.exp` of it: perplexity.

    Every token counts the same, whichever batch it fell into. Raises ValueError for no examples.
    """
    if not examples:
        raise ValueError("没有留出的数据 (held-out examples)，无从计算损失。")
    total, count, was_training = 0.0, 0, model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(examples), batch_size):
            batch = _to_device(model, examples[start : start + batch_size])
            tokens = int((batch["labels"][:, 1:] != IGNORE).sum())
            total += answer_loss(model, batch).item() * tokens
            count += tokens
    model.train(was_training)
    return total / count


def _batches(model, examples: list[Example], steps: int, batch_size: int, seed: int) -> Iterator[dict]:
    """`steps` batches, epoch after epoch; the last batch of an epoch may be smaller."""
    if not examples:
        raise ValueError("没有训练数据 (examples)：先用 encode_rows 编码数据行。")
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        order = order or torch.randperm(len(examples), generator=generator).tolist()
        picked, order = order[:batch_size], order[batch_size:]
        yield _to_device(model, [examples[i] for i in picked])


def _to_device(model, examples: list[Example]) -> dict[str, torch.Tensor]:
    device = next(model.parameters()).device
    pad_id = model.config.pad_token_id or 0
    return {name: value.to(device) for name, value in collate(examples, pad_id).items()}
