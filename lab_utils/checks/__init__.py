"""Checks of the exercises: the student's function in, a verdict with a hint out.

One module a lab, or one package, named by the lab's slug; `frame` is what they share.

>>> from lab_utils import checks
>>> checks.quickstart.PASS_RATE.judge(pass_rate).ok
True
"""

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from lab_utils.checks.frame import Case, Check, CheckFailed, Mistake, NotYet, Verdict

__all__ = ["Case", "Check", "CheckFailed", "Mistake", "NotYet", "Verdict"]


def __getattr__(name: str) -> ModuleType:
    """The checks of a lab, imported when they are first asked for: most need torch."""
    if name not in __dir__():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    """The public names and the labs; not the modules that the labs' checks share."""
    shared = ("compare", "frame", "inputs")
    return [*__all__, *(module.name for module in iter_modules(__path__) if module.name not in shared)]
