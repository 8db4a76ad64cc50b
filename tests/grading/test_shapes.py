"""What passes the check in the notebook passes in grading: many correct solutions, each run in both places."""

import json
import re
import subprocess
import sys

import pytest

from lab_utils import course
from lab_utils.grading import answers, handout, sandbox, scoring, submit_check, tasks
from lab_utils.grading.notebook_file import Notebook, parse
from tests.grading import shapes

pytestmark = pytest.mark.slow  # a hundred IPython shells, and as many submissions
LAB = course.lab("00")


@pytest.fixture(scope="module")
def in_the_notebook():
    """Shape -> whether its check is passed in an IPython shell."""
    command = [sys.executable, "-m", "tests.grading.shapes"]
    done = subprocess.run(command, cwd=course.root(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def box():
    with sandbox.Sandbox(("numpy", "torch")) as made:
        yield made


def notebook(cells: list[str], name: str = "") -> Notebook:
    """A notebook of these cells; the last one that writes the answer has the exercise's own id."""
    made = []
    answer = max(
        (i for i, cell in enumerate(cells) if "line_lengths" in cell and "def " in cell),
        default=len(cells) - 1,
    )
    for number, cell in enumerate(cells):
        source = "checks.LINE_LENGTHS(line_lengths)" if cell == shapes.CHECK else cell
        metadata = {"nbgrader": {"grade_id": "line_lengths"}} if number == answer and not name else {}
        made.append({"cell_type": "code", "id": f"c{number}", "metadata": metadata, "source": source})
    return parse(json.dumps({"cells": made}).encode())


def earned(cells, box, name=""):
    result = scoring.grade(tasks.load(LAB.number, 0), notebook(cells, name), box)
    (entry,) = [entry for entry in result.exercises if entry.name == "line_lengths"]
    return entry


def test_there_are_many_shapes():
    assert len(shapes.SHAPES) >= 60


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_what_passes_in_the_notebook_earns_all_points(name, in_the_notebook, box):
    assert in_the_notebook[name], "this shape is no right answer"
    entry = earned(shapes.SHAPES[name], box)
    assert entry.score == LAB.points["line_lengths"], entry


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_submit_check_sees_the_answer_too(name):
    made = notebook(shapes.SHAPES[name])
    (asked,) = [asked for asked in handout.read(LAB).exercises if asked.name == "line_lengths"]
    finding = submit_check._check_exercise("x", asked, answers.pick(handout.read(LAB), made))
    assert (finding.state, finding.warnings) == ("written", ()) or name in UNCERTAIN, finding


UNCERTAIN = {
    "shell lines into a name", "get_ipython", "magics around the answer", "%timeit -o", "shell line over two lines",
    "bound anew after the answer", "second check after mending",
}  # fmt: skip
"""Shapes of which submit-check warns, although they pass."""


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_it_is_found_without_its_id(name, box):
    """By the function's name, where the metadata of cells were lost. What the function is made of elsewhere isn't seen."""
    cells = shapes.SHAPES[name]
    if not any(
        re.search(r"^\s*(async )?def line_lengths|^line_lengths *=|^class line_lengths", cell, re.M)
        for cell in cells
    ):
        pytest.skip("the function is bound in another way")
    entry = earned(cells, box, name="lost")
    assert entry.score == LAB.points["line_lengths"], entry


@pytest.mark.parametrize("name", shapes.WRITTEN_ELSEWHERE)
def test_an_answer_beside_a_stub_that_was_left_earns_all_points(name, box):
    entry = earned(shapes.WRITTEN_ELSEWHERE[name], box)
    assert entry.score == LAB.points["line_lengths"], entry


def test_a_case_that_is_not_implemented_costs_that_case(box):
    """Only the stub itself says that nothing is written; torch raises NotImplementedError, too."""
    right = shapes.PLAIN.replace("line_lengths", "right")
    partly = f"{right}def line_lengths(text):\n    if '\\n\\n' in text: raise ERROR('空行')\n    return right(text)\n"
    entries = [earned([partly.replace("ERROR", kind)], box) for kind in ("ValueError", "NotImplementedError")]
    assert entries[0].passed == entries[1].passed == entries[0].cases - 1
    assert entries[0].score == entries[1].score > 0


def test_a_copy_below_the_check_does_not_count(box):
    cells = [shapes.PLAIN, shapes.CHECK, shapes.PLAIN.replace("if line]", "]")]
    assert earned(cells, box, name="lost").score == LAB.points["line_lengths"]


def test_hidden_cases_have_a_sandbox_of_their_own(monkeypatch):
    used = []
    begin = sandbox.Sandbox.answer
    monkeypatch.setattr(sandbox.Sandbox, "answer", lambda box: used.append(box) or begin(box))
    with sandbox.Sandbox() as shown, sandbox.Sandbox() as closed:
        earned_there = scoring.grade(tasks.load(LAB.number, 0), notebook([shapes.PLAIN]), shown, closed)
    assert earned_there.score == LAB.points["line_lengths"]
    assert [box is closed for box in used] == [False, True]
