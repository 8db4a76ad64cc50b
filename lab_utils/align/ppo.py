"""Proximal policy optimization: GAE, the clipped objective, the policy's and the value's loss.

Tensors of tokens are (batch, time) with a mask of the same shape: 1 for a token of the completion,
0 for padding. What stands under a 0 is never used, but must be finite.
"""

import torch

from lab_utils.align.masked import masked_mean
from lab_utils.align.validation import require_between, require_constant, require_positive, require_tensors
from lab_utils.errors import InvalidValue


def gae(
    rewards: torch.Tensor, values: torch.Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalized advantage estimates and the returns `advantages + values`; all (batch, time).

    delta_t = r_t + gamma * V_{t+1} - V_t, A_t = delta_t + gamma * lam * A_{t+1} (Schulman et al. 2015,
    Eq. 11 and 16). After the last position V and A are 0. Padding at the end must hold reward and
    value 0. lam=1: discounted return minus value; lam=0: the TD error delta.
    Raises InvalidValue for differing shapes, NaN or inf, and gamma or lam outside 0 to 1.
    """
    require_tensors(2, rewards=rewards, values=values)
    require_between(0, 1, gamma=gamma, lam=lam)
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = rewards + gamma * following - values
    advantages, later = [], torch.zeros_like(values[:, 0])
    for delta in reversed(deltas.unbind(1)):
        later = delta + gamma * lam * later
        advantages.append(later)
    advantages = torch.stack(advantages[::-1], dim=1)
    return advantages, advantages + values


def clipped_objective(
    ratio: torch.Tensor, advantages: torch.Tensor, epsilon: float, epsilon_high: float | None = None
) -> torch.Tensor:
    """min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon_high) * A), to be maximized.

    ratio = pi / pi_old; shapes that broadcast. Schulman et al. 2017 (PPO), Eq. 7. epsilon_high is
    epsilon unless given: a wider upper side is DAPO's clip-higher (Yu et al. 2025, section 3.1).
    Raises InvalidValue unless 0 < epsilon < 1 and epsilon_high is above 0.
    """
    epsilon_high = epsilon if epsilon_high is None else epsilon_high
    require_positive(epsilon=epsilon, epsilon_high=epsilon_high)
    if epsilon >= 1:
        raise InvalidValue(
            f"epsilon 应小于 1，收到 {epsilon}", "比值 (ratio) 的下界 1 - epsilon 要大于 0，常用 0.2"
        )
    return torch.min(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon_high) * advantages)


def ppo_policy_loss(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Policy loss of PPO, a scalar: minus the mean of `clipped_objective` over the mask's tokens.

    All (batch, time); ratio = exp(logps - old_logps). Schulman et al. 2017, Eq. 7.
    Raises InvalidValue for differing shapes, NaN or inf, and old_logps with a gradient.
    """
    require_tensors(2, logps=logps, old_logps=old_logps, advantages=advantages)
    require_constant(old_logps=old_logps, advantages=advantages)
    ratio = torch.exp(logps - old_logps)
    return -masked_mean(clipped_objective(ratio, advantages, epsilon), mask)


def ppo_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Value loss of PPO, a scalar: half the mean of the larger squared error, with and without clipping.

    All (batch, time). The clipped value stays within epsilon of old_values. Squared error is Schulman
    et al. 2017, Eq. 9; the clipping comes from OpenAI's implementation and is what TRL does.
    Raises InvalidValue for differing shapes, NaN or inf, epsilon not above 0, a target with a gradient.
    """
    require_tensors(2, values=values, old_values=old_values, returns=returns)
    require_constant(old_values=old_values, returns=returns)
    require_positive(epsilon=epsilon)
    clipped = torch.clamp(values, old_values - epsilon, old_values + epsilon)
    return 0.5 * masked_mean(torch.max((values - returns) ** 2, (clipped - returns) ** 2), mask)
