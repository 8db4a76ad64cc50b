"""Checks of lab 09: verifiable rewards, group-relative advantages and GRPO's loss.

What leaves this package: the check of each exercise, in capitals, and its reference. Cases, known mistakes
and the generator of hidden cases stand beside the check, in the module of its theme.
"""

from lab_utils.checks.grpo import policy, rewards
from lab_utils.checks.grpo.policy import *
from lab_utils.checks.grpo.rewards import *

__all__ = [*policy.__all__, *rewards.__all__]
