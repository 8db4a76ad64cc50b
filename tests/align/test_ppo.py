"""GAE and PPO's losses equal TRL's PPOTrainer on random batches, with gradients; known values; errors."""

import math
from types import SimpleNamespace

import pytest
import torch
from trl.experimental.ppo import PPOTrainer

from lab_utils import align
from lab_utils.errors import InvalidValue
from tests.align.trl_code import (
    generators,
    integer,
    mask_of,
    normal,
    number,
    same,
    same_gradients,
    statements,
)


def test_gae_equals_ppo_trainer():
    trl = statements(PPOTrainer.train, "lastgaelam = 0", "advantages = torch.masked_fill")
    for generator in generators():
        rows, width = integer(generator, 1, 5), integer(generator, 2, 9)
        mask = mask_of(generator, rows, width, least=2)
        rewards, values = normal(generator, rows, width) * mask, normal(generator, rows, width) * mask
        gamma, lam = number(generator, 0.5, 1.0), number(generator, 0.0, 1.0)
        scope = trl(
            {
                "responses": mask,
                "rewards": rewards,
                "values": values,
                "args": SimpleNamespace(gamma=gamma, lam=lam),
                "padding_mask": mask == 0,
            }
        )
        advantages, returns = align.gae(rewards, values, gamma, lam)
        same(returns, scope["returns"])
        same(align.whiten(advantages, mask) * mask, scope["advantages"])


def test_ppo_losses_equal_ppo_trainer_with_gradients():
    trl = statements(PPOTrainer.train, "vpredclipped = ", "loss = pg_loss")
    for generator in generators():
        rows, width = integer(generator, 1, 5), integer(generator, 2, 9)
        mask, value_mask = mask_of(generator, rows, width), mask_of(generator, rows, width)
        old, old_values, returns, advantages = normal(generator, 4, rows, width)
        logps = (old + 0.3 * normal(generator, rows, width)).requires_grad_()
        values = (old_values + 0.4 * normal(generator, rows, width)).requires_grad_()
        epsilon, value_epsilon = number(generator, 0.05, 0.4), number(generator, 0.05, 0.4)
        scope = trl(
            {
                "vpred": values,
                "mb_values": old_values,
                "mb_return": returns,
                "new_logprobs": logps,
                "mb_logprobs": old,
                "mb_advantage": advantages,
                "padding_mask": mask == 0,
                "padding_mask_p1": value_mask == 0,
                "micro_batch_inds": slice(None),
                "args": SimpleNamespace(cliprange=epsilon, cliprange_value=value_epsilon, vf_coef=0.1),
            }
        )
        policy_loss = align.ppo_policy_loss(logps, old, advantages, mask, epsilon)
        value_loss = align.ppo_value_loss(values, old_values, returns, value_mask, value_epsilon)
        same(policy_loss, scope["pg_loss"])
        same(value_loss, scope["vf_loss"])
        same_gradients(policy_loss + 0.1 * value_loss, scope["loss"], logps, values)


def test_gae_with_lambda_one_is_the_discounted_return_minus_the_value():
    rewards, values = normal(torch.Generator().manual_seed(1), 2, 3, 6)
    discounted = [
        [sum(0.9**k * row[t + k] for k in range(6 - t)) for t in range(6)] for row in rewards.tolist()
    ]
    advantages, returns = align.gae(rewards, values, gamma=0.9, lam=1.0)
    same(returns, torch.tensor(discounted, dtype=torch.float64))
    same(advantages, torch.tensor(discounted, dtype=torch.float64) - values)


def test_gae_with_lambda_zero_is_the_td_error():
    rewards, values = normal(torch.Generator().manual_seed(2), 2, 3, 6)
    advantages, _ = align.gae(rewards, values, gamma=0.9, lam=0.0)
    same(advantages[:, :-1], rewards[:, :-1] + 0.9 * values[:, 1:] - values[:, :-1])
    same(advantages[:, -1], rewards[:, -1] - values[:, -1])


def test_clipping_stops_the_gradient_only_where_it_should():
    """Beyond the clip nothing more is to be gained, but a way back is always open."""
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    objective = align.clipped_objective(ratio, advantages, 0.2)
    same(objective, torch.tensor([1.2, -1.5, 0.5, -0.8, 1.1]))
    objective.sum().backward()
    assert ratio.grad.tolist() == [0.0, -1.0, 1.0, 0.0, 1.0]


def test_clip_higher_moves_only_the_upper_side():
    ratio = torch.tensor([1.5, 0.5])
    same(align.clipped_objective(ratio, torch.tensor([1.0, -1.0]), 0.2, 0.4), torch.tensor([1.4, -0.8]))


ROWS, ONES = torch.zeros(2, 3), torch.ones(2, 3)
NAN = torch.full((2, 3), math.nan)
LIVE = torch.zeros(2, 3, requires_grad=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: align.gae(ROWS, torch.zeros(2, 4)), "形状"),
        (lambda: align.gae(ROWS, NAN), "values 在位置"),
        (lambda: align.gae(ROWS, ROWS, gamma=1.1), "gamma 应在"),
        (lambda: align.gae(ROWS, ROWS, lam=-0.1), "lam 应在"),
        (lambda: align.ppo_policy_loss(ROWS, LIVE, ROWS, ONES, 0.2), "old_logps 还连着"),
        (lambda: align.ppo_policy_loss(ROWS, ROWS, torch.zeros(2), ONES, 0.2), "advantages 的形状"),
        (lambda: align.ppo_value_loss(ROWS, ROWS, LIVE, ONES, 0.2), "returns 还连着"),
        (lambda: align.ppo_value_loss(ROWS, ROWS, ROWS, ONES, 0.0), "epsilon"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()
