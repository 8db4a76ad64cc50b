"""Checks of lab 02: low rank, and LoRA by hand.

What leaves this package: the check of each exercise, in capitals, and its reference. Cases, known mistakes
and the generator of hidden cases stand beside the check, in the module of its theme.
"""

from lab_utils.checks.lora_math import lora, low_rank
from lab_utils.checks.lora_math.lora import *
from lab_utils.checks.lora_math.low_rank import *

__all__ = [*lora.__all__, *low_rank.__all__]
