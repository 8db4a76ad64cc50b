"""ORPO equals TRL's ORPOTrainer from logits to gradient; known values; errors."""

import math

import pytest
import torch
from trl.experimental.orpo import ORPOTrainer

from lab_utils import align
from lab_utils.errors import InvalidValue
from tests.align.trl_code import (
    VOCAB,
    Bigram,
    bare,
    generators,
    integer,
    logps_of,
    number,
    paired_batch,
    prompts_and_completions,
    same,
    same_gradients,
)


def test_orpo_equals_trl(accelerator):
    for generator in generators():
        rows = integer(generator, 1, 5)
        chosen, rejected = (
            prompts_and_completions(generator, rows, VOCAB, integer(generator, 2, 9)) for _ in range(2)
        )
        policy, beta = Bigram(VOCAB, generator), number(generator, 0.05, 1.0)
        trainer = bare(
            ORPOTrainer,
            model=policy,
            accelerator=accelerator,
            beta=beta,
            is_encoder_decoder=False,
            padding_value=0,
            aux_loss_enabled=False,
        )
        theirs, logged = trainer.get_batch_loss_metrics(policy, paired_batch(chosen, rejected))
        everything = chosen["input_ids"].where(chosen["attention_mask"].bool(), -100)
        tokens = align.token_logps(policy(chosen["input_ids"]).logits, everything)
        nll = -tokens.sum() / (everything[:, 1:] != -100).sum()
        logps = [logps_of(policy, side, average=True) for side in (chosen, rejected)]
        same_gradients(align.orpo_loss(*logps, nll, beta).mean(), theirs, policy.table)
        assert logged["log_odds_chosen"] == pytest.approx(
            align.log_odds_ratio(*logps).mean().item(), abs=1e-6, rel=1e-6
        )


def test_known_values():
    half, fifth = torch.tensor([math.log(1 / 2)]), torch.tensor([math.log(1 / 5)])
    same(align.log_odds_ratio(half, fifth), torch.tensor([math.log(4)]))
    same(align.orpo_loss(half, fifth, torch.tensor(1.0), 0.1), torch.tensor([1 - 0.1 * math.log(4 / 5)]))


def test_log_odds_are_finite_near_one_in_float32():
    sure = torch.tensor([-1e-6], requires_grad=True)
    odds = align.log_odds_ratio(sure, torch.tensor([-30.0]))
    odds.sum().backward()
    assert odds.item() == pytest.approx(30 - math.log(1e-6), rel=1e-5) and torch.isfinite(sure.grad).all()


ONE = torch.zeros(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: align.log_odds_ratio(ONE - 1, ONE), "rejected_logps 里有不小于 0 的值"),
        (lambda: align.orpo_loss(ONE - 1, ONE - 1, ONE, 0.1), r"chosen_nll 的形状"),
        (lambda: align.orpo_loss(ONE - 1, ONE - 1, torch.tensor(1.0), 0), "beta"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()
