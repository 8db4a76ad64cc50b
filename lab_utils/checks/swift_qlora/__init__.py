"""Checks of lab 05: what a QLoRA run is given, what it does and how it is judged.

What leaves this package: the check of each exercise, in capitals, and its reference. Cases, known mistakes
and the generator of hidden cases stand beside the check, in the module of its theme.
"""

from lab_utils.checks.swift_qlora import comparison, labels, training
from lab_utils.checks.swift_qlora.comparison import *
from lab_utils.checks.swift_qlora.labels import *
from lab_utils.checks.swift_qlora.training import *

__all__ = [*comparison.__all__, *labels.__all__, *training.__all__]
