import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from lab_utils.swift import learning_rate_at, optimizer_steps


@pytest.mark.parametrize(("total", "warmup"), [(100, 10), (57, 0), (20, 19), (1, 0)])
def test_learning_rate_equals_transformers(total, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, total)
    for step in range(total + 1):
        assert learning_rate_at(step, total, 3e-4, warmup) == pytest.approx(
            schedule.get_last_lr()[0], abs=1e-12
        )
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [((2560, 16, 1, 1), 160), ((100, 8, 4, 2), 8), ((1, 16, 8, 3), 3), ((33, 16, 2, 1), 2)],
)
def test_optimizer_steps(arguments, steps):
    assert optimizer_steps(*arguments) == steps


def test_less_than_one_is_refused():
    with pytest.raises(ValueError, match="至少为 1"):
        optimizer_steps(10, 0, 1, 1)
