"""Checks of lab 01: from one linear layer to the exact number of parameters of a real model.

What leaves this package: the check of each exercise, in capitals, and its reference. Cases, known mistakes
and the generator of hidden cases stand beside the check, in the module of its theme.
"""

from lab_utils.checks.parameters import decoder, layers
from lab_utils.checks.parameters.decoder import *
from lab_utils.checks.parameters.layers import *

__all__ = [*decoder.__all__, *layers.__all__]
