"""SimPO equals TRL's CPOTrainer from logits to gradient; known values; errors."""

import math

import pytest
import torch
from trl.experimental.cpo import CPOTrainer

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


def test_simpo_equals_trl(accelerator):
    for generator in generators():
        rows = integer(generator, 1, 5)
        chosen, rejected = (
            prompts_and_completions(generator, rows, VOCAB, integer(generator, 2, 9)) for _ in range(2)
        )
        policy, beta, gamma = Bigram(VOCAB, generator), number(generator, 0.5, 3.0), number(generator, 0, 2)
        trainer = bare(
            CPOTrainer,
            model=policy,
            accelerator=accelerator,
            alpha=0.0,
            beta=beta,
            simpo_gamma=gamma,
            loss_type="simpo",
            label_smoothing=0.0,
            cpo_alpha=0.0,
            is_encoder_decoder=False,
            pad_token_id=0,
            aux_loss_enabled=False,
        )
        theirs, _ = trainer.get_batch_loss_metrics(policy, paired_batch(chosen, rejected))
        logps = [logps_of(policy, side, average=True) for side in (chosen, rejected)]
        same_gradients(align.simpo_loss(*logps, beta, gamma).mean(), theirs, policy.table)


def test_equal_answers_without_margin_cost_ln_2():
    same(align.simpo_loss(-torch.ones(1), -torch.ones(1), 2.0, 0.0), torch.tensor([math.log(2)]))


ONE = torch.zeros(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: align.simpo_loss(ONE, ONE, 2.0, -1), "gamma"),
        (lambda: align.simpo_loss(ONE, ONE, 0.0, 1), "beta"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()
