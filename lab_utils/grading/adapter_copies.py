"""Adapters of a class that are the same, or the same as the course's own: for the teacher's eyes alone."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lab_utils.grading import adapter_judge
from lab_utils.grading.row import Judgment, Row

SHIPPED = "课程附带的适配器"
SAME_BYTES, SAME_UPDATE = "字节相同", "算出来相同"


@dataclass(frozen=True)
class Copies:
    """Students whose adapters for a lab are the same; one of them may be SHIPPED, the course's own.

    `similarity`: SAME_BYTES, the same file, or SAME_UPDATE, the same update of the base in other numbers.
    """

    lab: str
    students: tuple[str, ...]
    similarity: str


def find(rows: Iterable[Row]) -> list[Copies]:
    """The groups of the same adapters, lab by lab."""
    handed_in: dict[tuple[str, str], list[tuple[str, Judgment]]] = {}
    for row in rows:
        for result in row.exercises:
            if result.adapter is not None and result.adapter.sha256:
                handed_in.setdefault((row.lab, result.name), []).append((row.student, result.adapter))
    copies = []
    for (lab, _), judged in sorted(handed_in.items()):
        for group in _groups(judged):
            same_file = len({judgment.sha256 for _, judgment in group}) == 1
            students = tuple(student for student, _ in group)
            copies.append(Copies(lab, students, SAME_BYTES if same_file else SAME_UPDATE))
    return copies


def _groups(judged: Sequence[tuple[str, Judgment]]) -> Iterator[list[tuple[str, Judgment]]]:
    """Those that compute the same as the first of them; the course's own adapter is one of them."""
    shipped = Judgment(
        "graded",
        "-",
        sha256=adapter_judge.shipped_digest(),
        projection=tuple(adapter_judge.shipped_projection()),
    )
    left = [(SHIPPED, shipped), *judged]
    while left:
        first, rest = left[0], left[1:]
        same = [
            adapter_judge.computes_the_same(first[1].projection, judgment.projection) for _, judgment in rest
        ]
        group = [first, *(item for item, like in zip(rest, same, strict=True) if like)]
        left = [item for item, like in zip(rest, same, strict=True) if not like]
        if len(group) > 1:
            yield group
