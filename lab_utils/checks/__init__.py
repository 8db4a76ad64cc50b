"""Checks of the exercises, one module per theme; `frame` is what they share."""

from lab_utils.checks.frame import Case, Check, CheckFailed, Mistake, NotYet, Verdict

__all__ = ["Case", "Check", "CheckFailed", "Mistake", "NotYet", "Verdict"]
