"""A lab as a student's machine knows it: what `answers.pick` needs to find answers, without master or checks.

It comes from the manifest, not from the notebook in labs/, which the student works in: an exercise is named after the
function that it asks for (a test holds every lab to that).
"""

from dataclasses import dataclass

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.authoring.master import Cell, MasterError
from lab_utils.grading import feedback


@dataclass(frozen=True)
class HandoutExercise:
    """One exercise: its name, the function that is asked for, and the cell as it was given out, here unknown."""

    name: str
    function: str
    stub: str = ""


@dataclass(frozen=True)
class Handout:
    """The exercises of one lab, in its order."""

    exercises: tuple[HandoutExercise, ...]


def read(lab: course.Lab) -> Handout:
    """The handout of a lab."""
    return Handout(tuple(HandoutExercise(name, name) for name in lab.points))


def titles(lab: course.Lab) -> dict[str, str]:
    """Exercise -> the heading it stands under (练习 1：…), as far as the notebook in labs/ tells; else its name."""
    try:
        cells: list[Cell] = master.cells_of(master.load(master.student_path(lab)))
    except MasterError:
        cells = []
    return {**{name: name for name in lab.points}, **feedback.titles(cells)}
