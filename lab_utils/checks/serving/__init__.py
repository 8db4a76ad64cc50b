"""Checks of lab 11: what a client sends and gets, what is measured, and why vLLM is fast.

What leaves this package: the check of each exercise, in capitals, and its reference. Cases, known mistakes
and the generator of hidden cases stand beside the check, in the module of its theme.
"""

from lab_utils.checks.serving import client, latency, scheduling
from lab_utils.checks.serving.client import *
from lab_utils.checks.serving.latency import *
from lab_utils.checks.serving.scheduling import *

__all__ = [*client.__all__, *latency.__all__, *scheduling.__all__]
