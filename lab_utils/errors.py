"""The one form of every error that a student or an instructor can mend.

An error says what is wrong, where, and what to do next; in a notebook it is shown without a traceback. Packages
derive their own from `LabError`. An error that nobody but a programmer can mend, a bug, is none of these: it keeps
its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class LabError(Exception):
    """What is wrong, where, and what to do about it, in Chinese with the English term in brackets.

    `what` and `remedy` are whole sentences; a Chinese full stop is added where there is none. `where` is a file, a line,
    a field or a lab, empty when there is no such place.
    """

    def __init__(self, what: str, remedy: str = "", where: str = ""):
        super().__init__(what, remedy, where)
        self.what, self.remedy, self.where = what, remedy, where

    def __str__(self) -> str:
        place = f"{self.where}：" if self.where else ""
        return place + sentence(self.what) + sentence(self.remedy)

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: what a notebook shows instead of a traceback."""
        return [f"❌ {type(self).__name__}: {self}"]


class InvalidValue(LabError, ValueError):
    """A value, option or command that can't be used; also a ValueError."""


class InvalidType(LabError, TypeError):
    """A value of a kind that can't be used, such as integers where floats are needed; also a TypeError."""


class NotFound(LabError, FileNotFoundError):
    """A file, folder, model or lab that isn't there; also a FileNotFoundError."""


class Unavailable(LabError, RuntimeError):
    """A program, package, service or download that is needed and can't be had; also a RuntimeError."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The question “did you mean …?” for a name that isn't among the `known` ones; empty when none is like it.

    Upper and lower case count as alike.
    """
    spelled = {word.lower(): word for word in known}
    near = get_close_matches(name.lower(), spelled, n=1)
    return f"是不是 {spelled[near[0]]!r}？" if near else ""


def sentence(text: str) -> str:
    """`text` ending in a full stop; the empty text and whole lines stay as they are."""
    return text if not text or text[-1] in "。！？…!?.\n" else text + "。"
