"""Means and whitening under a mask equal those of TRL's PPO; errors."""

import pytest
import torch
from trl.experimental.ppo import ppo_trainer as trl_ppo

from lab_utils import align
from lab_utils.errors import InvalidValue
from tests.align.trl_code import generators, integer, mask_of, normal, same


def test_masked_mean_and_whiten_equal_trl():
    for generator in generators():
        rows, width = integer(generator, 1, 5), integer(generator, 2, 9)
        values, mask = normal(generator, rows, width) * 3, mask_of(generator, rows, width, least=2)
        same(align.masked_mean(values, mask), trl_ppo.masked_mean(values, mask))
        same(align.masked_mean(values, mask, 1), trl_ppo.masked_mean(values, mask, 1))
        for shift in (True, False):
            same(align.whiten(values, mask, shift), trl_ppo.masked_whiten(values, mask, shift))


def test_whitened_has_mean_zero_and_variance_one():
    values, mask = torch.arange(8.0).view(2, 4) ** 2, torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    kept = align.whiten(values, mask)[mask.bool()]
    assert kept.mean().item() == pytest.approx(0, abs=1e-6) and kept.std().item() == pytest.approx(1)


ROWS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: align.masked_mean(ROWS, torch.tensor([[1, 1, 1], [0, 0, 0]]), 1), "一行全是 0"),
        (lambda: align.whiten(torch.zeros(1, 2), torch.tensor([[1, 0]])), "至少要有 2 个"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()
