"""The result of grading one submission of one lab: a frozen row, and its parts, to JSON and back.

A row is the same for the same submission, without times and without paths of the machine. `STUDENT/NN.json` holds one.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from lab_utils.errors import InvalidValue

GRADED, MISSING, UNREADABLE, REFUSED, FAILED = "graded", "missing", "unreadable", "refused", "failed"
STATUSES = (GRADED, MISSING, UNREADABLE, REFUSED, FAILED)


class RowError(InvalidValue):
    """What was read isn't a whole row."""


@dataclass(frozen=True)
class Judgment:
    """What became of an adapter that was handed in; the figures are 0 unless its `status` is graded."""

    status: str
    reason: str
    share: float = 0.0
    """Share of its points, 0 to 1."""
    rank: int = 0
    alpha: float = 0.0
    rslora: bool = False
    targets: tuple[str, ...] = ()
    sha256: str = ""
    """Of the weights file: the same for copies."""
    shipped: bool = False
    """Whether its weights are those of the course's own adapter."""
    projection: tuple[float, ...] = ()
    """The same for adapters that compute the same."""
    questions: int = 0
    passed: int = 0
    base_passed: int = 0
    low: float = 0.0
    high: float = 0.0
    """Ends of the 95 % interval of the paired gain over the base."""


@dataclass(frozen=True)
class ExerciseResult:
    """What one exercise earned, or one adapter.

    `stage` is that of the check's verdict (ok, not_yet, error, type, shape, dtype, value, edge, input), or missing,
    time, memory, files, ended, protocol; of an adapter: ok, adapter, missing, shipped, refused, failed.
    """

    name: str
    points: float
    score: float
    stage: str
    message: str
    hint: str = ""
    mistake: str = ""
    passed: int = 0
    cases: int = 0
    hidden_passed: int = 0
    hidden_cases: int = 0
    adapter: Judgment | None = None


@dataclass(frozen=True)
class LatePenalty:
    """The points that were taken off, the share of the earned ones that they are, and why."""

    points: float
    share: float
    text: str


@dataclass(frozen=True)
class ManualMark:
    """Points given by hand for one question."""

    question: str
    score: float
    points: float
    comment: str = ""


@dataclass(frozen=True)
class Earned:
    """What the answers of a notebook earn: the part of a row that comes out of the sandbox."""

    score: float
    reason: str
    notes: tuple[str, ...]
    exercises: tuple[ExerciseResult, ...]


@dataclass(frozen=True)
class Row:
    """One submission of one lab.

    `status`: graded; missing (nothing handed in); unreadable (no notebook could be read); refused (a trick in the
    files); failed (the grader itself; run it again). `reason` is one line of Chinese, never empty. `lab` is the
    number of the lab, empty where nobody can tell. `score` counts the late penalty, `earned` doesn't; it is None
    where nothing was given by hand or taken off.
    """

    student: str
    lab: str
    status: str
    reason: str
    score: float = 0.0
    maximum: float = 0.0
    file: str = ""
    sha256: str = ""
    version: str = ""
    notes: tuple[str, ...] = ()
    exercises: tuple[ExerciseResult, ...] = ()
    manual: tuple[ManualMark, ...] = ()
    late: LatePenalty | None = None
    earned: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Student and number of the lab."""
        return self.student, self.lab

    def with_earned(self, earned: Earned) -> "Row":
        """The row with what the answers earned; its own notes come first."""
        return replace(
            self, status=GRADED, score=earned.score, reason=earned.reason,
            notes=(*self.notes, *earned.notes), exercises=earned.exercises,
        )  # fmt: skip

    def rewritten(self, change: Callable[[str], str]) -> "Row":
        """The row with `change` applied to everything that people read: reasons, notes, messages, hints."""
        exercises = tuple(
            replace(result, message=change(result.message), hint=change(result.hint))
            for result in self.exercises
        )
        notes = tuple(change(note) for note in self.notes)
        return replace(self, reason=change(self.reason), notes=notes, exercises=exercises)

    def to_json(self) -> dict[str, Any]:
        """Plain data; what doesn't apply is left out."""
        data = asdict(self)
        data["max"] = data.pop("maximum")
        for result in data["exercises"]:
            if result["adapter"] is None:
                del result["adapter"]
        for name in ("manual", "late", "earned"):
            if data[name] in ((), None):
                del data[name]
        return data

    @classmethod
    def from_json(cls, data: Any) -> "Row":
        """The row that `to_json` made. Raises RowError for anything else."""
        try:
            values = dict(data)
            values["maximum"] = values.pop("max")
            values["exercises"] = tuple(_result(entry) for entry in values["exercises"])
            values["manual"] = tuple(_made(ManualMark, entry) for entry in values.get("manual", ()))
            values["late"] = _made(LatePenalty, values["late"]) if "late" in values else None
            row = _made(cls, values)
            if not (row.student and row.reason and row.status in STATUSES and row.score + row.maximum >= 0):
                raise ValueError("a value is missing")
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise RowError(f"不是一份完整的成绩 ({type(error).__name__})") from None
        return row


Part = TypeVar("Part", Row, ExerciseResult, Judgment, LatePenalty, ManualMark)


def _result(entry: Mapping[str, Any]) -> ExerciseResult:
    adapter = _made(Judgment, entry["adapter"]) if entry.get("adapter") else None
    return _made(ExerciseResult, {**entry, "adapter": adapter})


def _made(kind: type[Part], values: Mapping[str, Any]) -> Part:
    """An object of these fields, lists turned into tuples. Raises TypeError or KeyError for missing or unknown ones."""
    known = {field.name: field.type for field in fields(kind)}
    for name, value in values.items():
        if known[name] in (str, "str") and not isinstance(value, str):
            raise TypeError(name)
    make: Any = kind
    return make(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def judgment_from_json(data: Any) -> Judgment:
    """The judgment that `dataclasses.asdict` made plain. Raises RowError for anything else."""
    try:
        return _made(Judgment, dict(data))
    except (TypeError, ValueError, LookupError) as error:
        raise RowError(f"不是一份完整的评判 ({type(error).__name__})") from None
