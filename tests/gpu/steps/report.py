"""What a step has found so far, on the disk at every moment, so that a cut loses nothing."""

import json
import math
from pathlib import Path

from lab_utils.files import write_atomic


class Skipped(Exception):
    """The step, or a part of it, can't be done here; the message says what is missing."""


class Report:
    """Figures of one step, written to `file` after each change. `work` is a folder for scratch files."""

    def __init__(self, file: Path, work: Path):
        self.file, self.work = file, work
        self.data: dict = {"status": "running"}
        self.put()

    def put(self, **figures) -> None:
        """Add figures; a float is kept to six significant digits."""
        self.data |= _rounded(figures)
        write_atomic(self.file, json.dumps(self.data, ensure_ascii=False, indent=1) + "\n")

    def add(self, name: str, row: dict) -> None:
        """Append a row to the list `name`."""
        self.put(**{name: [*self.data.get(name, []), row]})

    def bar(self, name: str, value: float, bound: float, met: bool) -> None:
        """Record a measured value beside what was asked of it."""
        self.add("bars", {"name": name, "value": value, "bound": bound, "met": met})


def _rounded(value):
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(inner) for inner in value]
    return value


def device() -> str:
    """`cuda` where torch sees one, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype() -> str:
    """The dtype of the profile of this machine."""
    from lab_utils import profile

    return profile.current().torch_dtype


def synchronize() -> None:
    """Wait until the device has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
