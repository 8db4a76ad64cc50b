"""Arithmetic of a training run: optimizer steps and the learning rate at each."""

import math

from lab_utils.errors import InvalidValue


def optimizer_steps(rows: int, batch_size: int, accumulation: int, epochs: int) -> int:
    """Optimizer steps of a run on one device, as transformers' Trainer counts them.

    Each epoch has ceil(rows / batch_size) micro-batches; every `accumulation` of them, and
    what is left at the end of an epoch, make one step.

    Raises InvalidValue when an argument is below 1.
    """
    if min(rows, batch_size, accumulation, epochs) < 1:
        raise InvalidValue("rows、batch_size、accumulation、epochs 都至少为 1", "请检查传进来的数")
    return math.ceil(math.ceil(rows / batch_size) / accumulation) * epochs


def learning_rate_at(step: int, total: int, peak: float, warmup: int) -> float:
    """Learning rate after `step` of `total` steps: linear warm-up, then half a cosine to zero.

    `step` 0 is before the first update. Loshchilov & Hutter 2017 (SGDR), eq. 5, without restarts.
    """
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
