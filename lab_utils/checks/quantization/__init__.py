"""Checks of lab 03: quantize by hand, block by block, to NF4; count bits and bytes.

What leaves this package: the check of each exercise, in capitals, and its reference. Cases, known mistakes
and the generator of hidden cases stand beside the check, in the module of its theme.
"""

from lab_utils.checks.quantization import blocks, memory, nf4
from lab_utils.checks.quantization.blocks import *
from lab_utils.checks.quantization.memory import *
from lab_utils.checks.quantization.nf4 import *

__all__ = [*blocks.__all__, *memory.__all__, *nf4.__all__]
