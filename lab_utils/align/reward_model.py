"""The pairwise loss of a reward model, and how often it ranks a pair right."""

import torch
import torch.nn.functional as F

from lab_utils.align.validation import require_tensors


def bradley_terry_loss(
    rewards_chosen: torch.Tensor, rewards_rejected: torch.Tensor, margin: torch.Tensor | None = None
) -> torch.Tensor:
    """Pairwise loss of a reward model: -log sigmoid(r_chosen - r_rejected - margin); all (batch,).

    P(chosen beats rejected) = sigmoid(r_chosen - r_rejected) is Bradley and Terry (1952); the loss is
    InstructGPT's (Ouyang et al. 2022, Eq. 1), the margin Llama 2's (Touvron et al. 2023, Eq. 2).
    TRL's RewardTrainer takes the mean of it. Raises InvalidValue for differing shapes, NaN or inf.
    """
    require_tensors(1, rewards_chosen=rewards_chosen, rewards_rejected=rewards_rejected)
    difference = rewards_chosen - rewards_rejected
    if margin is not None:
        require_tensors(1, rewards_chosen=rewards_chosen, margin=margin)
        difference = difference - margin
    return -F.logsigmoid(difference)


def reward_accuracy(rewards_chosen: torch.Tensor, rewards_rejected: torch.Tensor) -> torch.Tensor:
    """Share of pairs, 0 to 1, in which chosen is rewarded more; a tie counts as wrong. (batch,) to scalar."""
    require_tensors(1, rewards_chosen=rewards_chosen, rewards_rejected=rewards_rejected)
    return (rewards_chosen > rewards_rejected).float().mean()
