"""Group relative policy optimization: advantages within a group, and the loss.

Tensors of tokens are (batch, time) with a mask of the same shape: 1 for a token of the completion,
0 for padding. What stands under a 0 is never used, but must be finite.
"""

import torch

from lab_utils.align.kl import kl_k3
from lab_utils.align.ppo import clipped_objective
from lab_utils.align.validation import (
    require_constant,
    require_finite,
    require_mask,
    require_positive,
    require_tensors,
)
from lab_utils.errors import InvalidValue


def grpo_advantages(rewards: torch.Tensor, group_size: int, scale: str = "group") -> torch.Tensor:
    """Advantages relative to the group: reward minus the group's mean, divided by std + 1e-4.

    rewards: (batch,), the completions of one prompt side by side; result: (batch,). scale="group":
    std within the group (Shao et al. 2024, section 4.1.2); "batch": std of the whole batch; "none": no
    division (Dr. GRPO, Liu et al. 2025). std is torch's, unbiased, as in TRL.
    Raises InvalidValue for NaN or inf, a group of fewer than 2, a batch that isn't whole groups, and an
    unknown scale.
    """
    groups = _groups(rewards, group_size)
    centered = groups - groups.mean(1, keepdim=True)
    if scale == "group":
        centered = centered / (groups.std(1, keepdim=True) + 1e-4)
    elif scale == "batch":
        centered = centered / (rewards.std() + 1e-4)
    elif scale != "none":
        raise InvalidValue(f"不认识的 scale {scale!r}", "scale 应为 'group'、'batch' 或 'none'")
    return centered.flatten()


def frac_reward_zero_std(rewards: torch.Tensor, group_size: int) -> float:
    """Share of groups, 0 to 1, whose rewards are all equal: they teach nothing. rewards: (batch,).

    What TRL logs under this name. Raises InvalidValue as `grpo_advantages`.
    """
    groups = _groups(rewards, group_size)
    return (groups.amax(1) == groups.amin(1)).float().mean().item()


def _groups(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """`rewards` (batch,) as (batch / group_size, group_size)."""
    require_tensors(1, rewards=rewards)
    if not rewards.is_floating_point():
        raise InvalidValue(f"rewards 应为浮点数 (float)，收到 {rewards.dtype}", "请用 rewards.float()")
    if group_size < 2:
        raise InvalidValue(
            f"每组 (group) 至少 2 条回答才能互相比较，收到 group_size={group_size}", "改成 2 以上"
        )
    if not len(rewards) or len(rewards) % group_size:
        raise InvalidValue(
            f"{len(rewards)} 条回答不能分成每组 {group_size} 条",
            "批大小 (batch size) 应为 group_size 的整数倍",
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

    Raises InvalidValue for differing shapes, NaN or inf, old_logps or others with a gradient, beta below
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
        raise InvalidValue("beta 不为 0 时需要参考模型 (reference) 的 ref_logps", "不要 KL 项请用 beta=0")
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
            raise InvalidValue(
                f"dr_grpo 需要 max_length，不小于最长的回答，收到 {max_length}", "填生成时的最大长度"
            )
        return losses.sum() / (len(losses) * max_length)
    raise InvalidValue(
        f"不认识的 loss_type {loss_type!r}", "loss_type 应为 'grpo'、'bnpo'、'dapo' 或 'dr_grpo'"
    )
