"""The Bradley-Terry loss equals TRL's RewardTrainer with its gradient; known values; errors."""

import math
from types import SimpleNamespace

import pytest
import torch
from trl import RewardTrainer

from lab_utils import align
from lab_utils.errors import InvalidValue
from tests.align.trl_code import (
    VOCAB,
    Scorer,
    bare,
    generators,
    integer,
    normal,
    prompts_and_completions,
    same_gradients,
)


@pytest.mark.parametrize("with_margin", [False, True])
def test_bradley_terry_equals_reward_trainer(accelerator, with_margin):
    for generator in generators():
        rows = integer(generator, 1, 6)
        batch = prompts_and_completions(generator, 2 * rows, VOCAB, integer(generator, 2, 9))
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        model = Scorer(VOCAB, generator)
        margin = normal(generator, rows).abs() if with_margin else None
        chosen, rejected = model(**inputs).logits.squeeze(-1).chunk(2)
        ours = align.bradley_terry_loss(chosen, rejected, margin)
        trainer = bare(
            RewardTrainer,
            model=model,
            accelerator=accelerator,
            args=SimpleNamespace(center_rewards_coefficient=None),
        )
        theirs = trainer.compute_loss(model, inputs | ({"margin": margin} if with_margin else {}))
        same_gradients(ours.mean(), theirs, model.table)
        accuracy = align.reward_accuracy(chosen, rejected).item()
        assert trainer._metrics["train"]["accuracy"] == [pytest.approx(accuracy)]


def test_two_equal_rewards_cost_ln_2():
    assert align.bradley_terry_loss(torch.ones(1), torch.ones(1)).item() == pytest.approx(math.log(2))


def test_a_tie_is_no_success():
    assert align.reward_accuracy(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0])).item() == 0.5


ONE, TWO, THREE = torch.zeros(2), torch.zeros(2), torch.zeros(3)
NAN = torch.tensor([0.0, math.nan])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: align.bradley_terry_loss(ONE, THREE), "形状"),
        (lambda: align.bradley_terry_loss(ONE, TWO, THREE), "margin"),
        (lambda: align.reward_accuracy(ONE, NAN), "nan"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()


def test_a_list_is_no_tensor():
    with pytest.raises(TypeError, match="rewards_chosen 应为张量"):
        align.bradley_terry_loss([1.0], torch.zeros(1))
