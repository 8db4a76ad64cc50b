"""The maths of alignment as plain functions on tensors, each equal to TRL's installed code.

Nothing here holds a model or a state; a loss is a number, or one per pair, that autograd can differentiate. One module
per method:

`logps`         log-probabilities of tokens and of sequences
`reward_model`  the Bradley-Terry loss
`dpo`           DPO and IPO, implicit rewards;  `orpo`, `kto`, `simpo`: what came after
`ppo`           GAE, the clipped objective, PPO's losses of policy and value
`grpo`          advantages within a group, GRPO's loss and its kin (BNPO, DAPO, Dr. GRPO)
`kl`            the estimators k1, k2, k3;  `masked`: means and whitening under a mask
`validation`    what every function asks of its inputs
"""

from lab_utils.align.dpo import dpo_loss, implicit_rewards
from lab_utils.align.grpo import frac_reward_zero_std, grpo_advantages, grpo_loss
from lab_utils.align.kl import kl_k1, kl_k2, kl_k3
from lab_utils.align.kto import kto_loss, kto_reference_point
from lab_utils.align.logps import sequence_logps, token_logps
from lab_utils.align.masked import masked_mean, whiten
from lab_utils.align.orpo import log_odds_ratio, orpo_loss
from lab_utils.align.ppo import clipped_objective, gae, ppo_policy_loss, ppo_value_loss
from lab_utils.align.reward_model import bradley_terry_loss, reward_accuracy
from lab_utils.align.simpo import simpo_loss

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
