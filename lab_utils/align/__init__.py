"""The maths of alignment as plain functions on tensors, each equal to TRL's installed code.

`logps`: log-probabilities of sequences. `preference`: reward model, DPO, IPO, ORPO, KTO, SimPO.
`policy`: KL estimators, GAE, PPO and GRPO. Nothing here holds a model or a
state; a loss is a number that autograd can differentiate.
"""

from lab_utils.align.logps import sequence_logps, token_logps
from lab_utils.align.policy import (
    clipped_objective,
    frac_reward_zero_std,
    gae,
    grpo_advantages,
    grpo_loss,
    kl_k1,
    kl_k2,
    kl_k3,
    masked_mean,
    ppo_policy_loss,
    ppo_value_loss,
    whiten,
)
from lab_utils.align.preference import (
    bradley_terry_loss,
    dpo_loss,
    implicit_rewards,
    kto_loss,
    kto_reference_point,
    log_odds_ratio,
    orpo_loss,
    reward_accuracy,
    simpo_loss,
)

__all__ = [
    "bradley_terry_loss",
    "clipped_objective",
    "dpo_loss",
    "frac_reward_zero_std",
    "gae",
    "grpo_advantages",
    "grpo_loss",
    "implicit_rewards",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kto_loss",
    "kto_reference_point",
    "log_odds_ratio",
    "masked_mean",
    "orpo_loss",
    "ppo_policy_loss",
    "ppo_value_loss",
    "reward_accuracy",
    "sequence_logps",
    "simpo_loss",
    "token_logps",
    "whiten",
]
