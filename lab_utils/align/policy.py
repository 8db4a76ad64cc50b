"""Policy gradients on tokens: KL estimators, advantages, PPO and GRPO.

Tensors of tokens are (batch, time) with a mask of the same shape: 1 for a token of the completion,
0 for padding. What stands under a 0 is never used, but must be finite.
"""

import torch

from lab_utils.align.validation import (
    require_between,
    require_constant,
    require_finite,
    require_mask,
    require_positive,
    require_tensors,
)


def kl_k1(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """Estimate k1 of KL(pi || pi_ref) per token: log pi - log pi_ref. Unbiased; noisy; may be negative.

    Tokens sampled from pi. Any shape, the same for both. Schulman 2020, "Approximating KL
    divergence", as are k2 and k3. All raise ValueError for differing shapes, NaN or inf.
    """
    require_tensors(None, logps=logps, ref_logps=ref_logps)
    return logps - ref_logps


def kl_k2(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """Estimate k2 per token: (log pi - log pi_ref)^2 / 2. Biased; low variance; never negative."""
    require_tensors(None, logps=logps, ref_logps=ref_logps)
    return (logps - ref_logps) ** 2 / 2


def kl_k3(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """Estimate k3 per token: r - 1 - log r with r = pi_ref / pi. Unbiased and never negative.

    The one that GRPO subtracts (Shao et al. 2024, DeepSeekMath, Eq. 4).
    """
    require_tensors(None, logps=logps, ref_logps=ref_logps)
    log_ratio = ref_logps - logps
    return torch.expm1(log_ratio) - log_ratio


def masked_mean(values: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Mean of `values` where `mask` is 1, over everything or along `dim`.

    As `masked_mean` of TRL's PPO. Raises ValueError for differing shapes, a mask that isn't 0/1, and
    when there is nothing to take the mean of.
    """
    mask = require_mask(mask, values)
    count = mask.sum() if dim is None else mask.sum(dim)
    if (count == 0).any():
        raise ValueError("mask 有一行全是 0：这一行没有要计入的词元，没有平均数可求")
    total = values * mask
    return (total.sum() if dim is None else total.sum(dim)) / count


def whiten(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
    """`values` scaled to variance 1 (and mean 0) over the places where `mask` is 1; same shape.

    Unbiased variance, + 1e-8, as `masked_whiten` of TRL's PPO. With shift_mean=False the mean stays.
    Raises ValueError as `masked_mean`, and for fewer than 2 places.
    """
    weights = require_mask(mask, values, least=2)
    mean = masked_mean(values, mask)
    variance = ((values - mean) ** 2 * weights).sum() / (weights.sum() - 1)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return whitened if shift_mean else whitened + mean


def gae(
    rewards: torch.Tensor, values: torch.Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalized advantage estimates and the returns `advantages + values`; all (batch, time).

    delta_t = r_t + gamma * V_{t+1} - V_t, A_t = delta_t + gamma * lam * A_{t+1} (Schulman et al. 2015,
    Eq. 11 and 16). After the last position V and A are 0. Padding at the end must hold reward and
    value 0. lam=1: discounted return minus value; lam=0: the TD error delta.
    Raises ValueError for differing shapes, NaN or inf, and gamma or lam outside 0 to 1.
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
    Raises ValueError unless 0 < epsilon < 1 and epsilon_high is above 0.
    """
    epsilon_high = epsilon if epsilon_high is None else epsilon_high
    require_positive(epsilon=epsilon, epsilon_high=epsilon_high)
    if epsilon >= 1:
        raise ValueError(f"epsilon 应小于 1，收到 {epsilon}：比值 (ratio) 的下界 1 - epsilon 要大于 0")
    return torch.min(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon_high) * advantages)


def ppo_policy_loss(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Policy loss of PPO, a scalar: minus the mean of `clipped_objective` over the mask's tokens.

    All (batch, time); ratio = exp(logps - old_logps). Schulman et al. 2017, Eq. 7.
    Raises ValueError for differing shapes, NaN or inf, and old_logps with a gradient.
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
    Raises ValueError for differing shapes, NaN or inf, epsilon not above 0, a target with a gradient.
    """
    require_tensors(2, values=values, old_values=old_values, returns=returns)
    require_constant(old_values=old_values, returns=returns)
    require_positive(epsilon=epsilon)
    clipped = torch.clamp(values, old_values - epsilon, old_values + epsilon)
    return 0.5 * masked_mean(torch.max((values - returns) ** 2, (clipped - returns) ** 2), mask)


def grpo_advantages(rewards: torch.Tensor, group_size: int, scale: str = "group") -> torch.Tensor:
    """Advantages relative to the group: reward minus the group's mean, divided by std + 1e-4.

    rewards: (batch,), the completions of one prompt side by side; result: (batch,). scale="group":
    std within the group (Shao et al. 2024, section 4.1.2); "batch": std of the whole batch; "none": no
    division (Dr. GRPO, Liu et al. 2025). std is torch's, unbiased, as in TRL.
    Raises ValueError for NaN or inf, a group of fewer than 2, a batch that isn't whole groups, and an
    unknown scale.
    """
    groups = _groups(rewards, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    if scale == "group":
        centred = centred / (groups.std(1, keepdim=True) + 1e-4)
    elif scale == "batch":
        centred = centred / (rewards.std() + 1e-4)
    elif scale != "none":
        raise ValueError(f"scale 应为 'group'、'batch' 或 'none'，收到 {scale!r}")
    return centred.flatten()


def frac_reward_zero_std(rewards: torch.Tensor, group_size: int) -> float:
    """Share of groups, 0 to 1, whose rewards are all equal: they teach nothing. rewards: (batch,).

    What TRL logs under this name. Raises ValueError as `grpo_advantages`.
    """
    groups = _groups(rewards, group_size)
    return (groups.amax(1) == groups.amin(1)).float().mean().item()


def _groups(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """`rewards` (batch,) as (batch / group_size, group_size)."""
    require_tensors(1, rewards=rewards)
    if not rewards.is_floating_point():
        raise ValueError(f"rewards 应为浮点数 (float)，收到 {rewards.dtype}；请用 rewards.float()")
    if group_size < 2:
        raise ValueError(f"每组 (group) 至少 2 条回答才能互相比较，收到 group_size={group_size}")
    if not len(rewards) or len(rewards) % group_size:
        raise ValueError(
            f"{len(rewards)} 条回答不能分成每组 {group_size} 条：批大小 (batch size) 应是 group_size 的整数倍"
        )
    return rewards.view(-1, group_size)


def grpo_loss(
    logps: torch.Tensor,
    old_logps: torch.Tensor,
    ref_logps: torch.Tensor | None,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    loss_type: str = "grpo",
    max_length: int | None = None,
    num_items: float | None = None,
) -> torch.Tensor:
    """Loss of GRPO, a scalar: minus the clipped objective plus beta * k3, averaged over tokens.

    logps, old_logps, ref_logps, mask: (batch, time); advantages: (batch,). ref_logps may be None when
    beta is 0. Shao et al. 2024, Eq. 3; how tokens are averaged is `loss_type`:
    "grpo": over each completion, then over completions. Short completions weigh more per token.
    "bnpo": over all tokens of this batch.
    "dapo": over num_items tokens, those of the whole optimizer step; by default of this batch
    (Yu et al. 2025, section 3.3). TRL's default.
    "dr_grpo": batch * max_length, a constant (Liu et al. 2025, section 3.2).
    A completion that is all padding (truncated, say) counts as 0, as in TRL.

    Raises ValueError for differing shapes, NaN or inf, old_logps or others with a gradient, beta below
    0, beta without ref_logps, a mask without a 1, an unknown loss_type, and what that type lacks.
    """
    require_tensors(2, logps=logps, old_logps=old_logps)
    require_tensors(1, **{"logps[:, 0]": logps[:, 0], "advantages": advantages})
    require_constant(old_logps=old_logps, advantages=advantages)
    mask = require_mask(mask, logps)
    ratio = torch.exp(logps - old_logps)
    losses = -clipped_objective(ratio, advantages.unsqueeze(1), epsilon, epsilon_high)
    if beta:
        losses = losses + _kl_penalty(logps, ref_logps, beta)
    require_finite("损失 (loss)", losses)
    return _average(losses * mask, mask, loss_type, max_length, num_items)


def _kl_penalty(logps: torch.Tensor, ref_logps: torch.Tensor | None, beta: float) -> torch.Tensor:
    require_positive(beta=beta)
    if ref_logps is None:
        raise ValueError("beta 不为 0 时需要参考模型 (reference) 的 ref_logps；不要 KL 项请用 beta=0")
    require_constant(ref_logps=ref_logps)
    return beta * kl_k3(logps, ref_logps)


def _average(
    losses: torch.Tensor, mask: torch.Tensor, loss_type: str, max_length: int | None, num_items: float | None
) -> torch.Tensor:
    """The scalar of (batch, time) losses, 0 where masked, as `grpo_loss` says."""
    if loss_type == "grpo":
        return (losses.sum(1) / mask.sum(1).clamp(min=1)).mean()
    if loss_type == "bnpo":
        return losses.sum() / mask.sum()
    if loss_type == "dapo":
        num_items = mask.sum().item() if num_items is None else num_items
        require_positive(num_items=num_items)
        return losses.sum() / num_items
    if loss_type == "dr_grpo":
        if max_length is None or max_length < mask.sum(1).max():
            raise ValueError(f"dr_grpo 需要 max_length，不小于最长的回答，收到 {max_length}")
        return losses.sum() / (len(losses) * max_length)
    raise ValueError(f"loss_type 应为 'grpo'、'bnpo'、'dapo' 或 'dr_grpo'，收到 {loss_type!r}")
