"""Checks of lab 08: log-probabilities, the reward model's loss, DPO, PPO's clip and the KL estimate k3.

What leaves this package: the check of each exercise, in capitals, and its reference. Cases, known mistakes
and the generator of hidden cases stand beside the check, in the module of its theme.
"""

from lab_utils.checks.dpo import policy, preference
from lab_utils.checks.dpo.policy import *
from lab_utils.checks.dpo.preference import *

__all__ = [*policy.__all__, *preference.__all__]
