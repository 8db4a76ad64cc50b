"""Supervised fine-tuning in one plain torch loop: every parameter, an adapter's, whatever `requires_grad`.

For what a lab wants to open up and look into. Runs to be kept are trained by `lab_utils.swift`. Rows become examples
in `lab_utils.data.batches`; the loss is `lab_utils.evaluation.loss.answer_loss`.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from lab_utils.align.validation import require_positive
from lab_utils.data.batches import Example, batch_for
from lab_utils.errors import InvalidValue, LabError
from lab_utils.evaluation.loss import answer_loss

WARMUP = 0.05
"""Share of the steps over which the learning rate rises from zero."""
MAX_GRADIENT_NORM = 1.0


class TrainingDiverged(LabError, RuntimeError):
    """A loss or a gradient is no longer finite."""


def train(
    model,
    examples: Sequence[Example],
    steps: int,
    learning_rate: float,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
    loss_of: Callable = answer_loss,
) -> list[float]:
    """Train in place, by AdamW, what in `model` has `requires_grad`; the loss of each step, nats per token.

    The learning rate rises over the first 5 % of the steps and then falls linearly to zero; gradients are clipped to
    norm 1; no weight decay. Every epoch has an order of its own, drawn from `seed`. `loss_of(model, batch)`: what is
    minimized. With `progress`, a line is printed at each tenth. The model is left in the mode (train or eval) it
    came in.

    Raises InvalidValue for no examples, nothing trainable, or a number that isn't positive; TrainingDiverged, before
    the weights are touched, when a loss or its gradient is no longer finite.
    """
    require_positive(steps=steps, learning_rate=learning_rate, batch_size=batch_size)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InvalidValue(
            "模型里没有可训练的参数 (trainable parameters)：所有 requires_grad 都是 False",
            "装上适配器，或对要训练的层调用 requires_grad_()",
        )
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    was_training, began = model.training, time.perf_counter()
    losses: list[float] = []
    torch.manual_seed(seed)
    model.train()
    try:
        for step, batch in enumerate(_batches(model, examples, steps, batch_size, seed)):
            optimizer.param_groups[0]["lr"] = learning_rate * rate_factor(step, steps)
            loss = loss_of(model, batch)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            _stop_if_diverged(step, loss.item(), norm.item(), learning_rate)
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


def _stop_if_diverged(step: int, loss: float, norm: float, learning_rate: float) -> None:
    """Raise TrainingDiverged when the loss or the gradient norm isn't a finite number."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingDiverged(
            f"第 {step + 1} 步的损失是 {loss}，梯度范数是 {norm} (NaN/inf)，训练已停，权重停在上一步",
            f"请把学习率 (learning_rate={learning_rate}) 调小再试，并检查数据和权重",
        )


def _batches(
    model, examples: Sequence[Example], steps: int, batch_size: int, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """`steps` batches, epoch after epoch; the last batch of an epoch may be smaller."""
    if not examples:
        raise InvalidValue("没有训练数据 (examples)", "先用 encode_rows 编码数据行")
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        order = order or torch.randperm(len(examples), generator=generator).tolist()
        picked, order = order[:batch_size], order[batch_size:]
        yield batch_for(model, [examples[i] for i in picked])
