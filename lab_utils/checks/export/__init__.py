"""Checks of lab 10: what a folder is, merging by hand, how far two models are apart, ChatML.

What leaves this package: the check of each exercise, in capitals, and its reference. Cases, known mistakes
and the generator of hidden cases stand beside the check, in the module of its theme.
"""

from lab_utils.checks.export import folders, merging, parity, template
from lab_utils.checks.export.folders import *
from lab_utils.checks.export.merging import *
from lab_utils.checks.export.parity import *
from lab_utils.checks.export.template import *

__all__ = [*folders.__all__, *merging.__all__, *parity.__all__, *template.__all__]
