"""The student notebook stops at its exercises and nowhere else."""

import pytest

from lab_utils.authoring import build, master
from lab_utils.authoring.inverted import inverted
from lab_utils.files import write_atomic

pytestmark = pytest.mark.slow  # kernels


@pytest.fixture
def student(lab):
    """The student notebook alone, as a build writes it."""
    nb = master.notebook(lab, master.read(lab), student=True)
    write_atomic(master.student_path(lab), master.dumps(nb))
    return master.student_path(lab)


def test_untouched_student_notebook_is_in_order(lab, student):
    before = student.read_bytes()
    assert inverted(lab) == []
    assert student.read_bytes() == before


def test_the_course_s_checks_say_not_yet(lab, edit):
    edit(
        'assert double(2) == 4, "两倍应是 4"',
        "from lab_utils.checks.frame import Case, Check\n\n"
        'Check("double", lambda x: 2 * x, (Case("二", (2,)),))(double)',
    )
    build.build(lab)
    assert inverted(lab) == []


@pytest.mark.parametrize(
    ("old", "new", "code", "cell"),
    [
        ("print(time.time())", "print(double(3))", "raises", 8),
        ("assert double(2) == 4", "assert callable(double)", "check-passes", 6),
        ("assert double(2) == 4", "assert doubel(2) == 4", "check-reason", 6),
        ("    ### END SOLUTION\n", "    ### END SOLUTION\n\n\nassert False\n", "raises", 5),
    ],
)
def test_any_other_stop_is_a_problem(lab, edit, old, new, code, cell):
    edit(old, new)
    nb = master.notebook(lab, master.read(lab), student=True)
    write_atomic(master.student_path(lab), master.dumps(nb))
    assert [(problem.code, problem.cell) for problem in inverted(lab)] == [(code, cell)]


def test_a_cell_meant_to_raise_may(lab, edit):
    edit('# %% tags=["volatile"]', '# %% tags=["raises-exception"]')
    edit("print(time.time())", "raise ValueError")
    nb = master.notebook(lab, master.read(lab), student=True)
    write_atomic(master.student_path(lab), master.dumps(nb))
    assert inverted(lab) == []


def test_dead_kernel_is_a_problem(lab, edit):
    edit("print(time.time())", "import os\nos._exit(3 if double else 0)")
    nb = master.notebook(lab, master.read(lab), student=True)
    write_atomic(master.student_path(lab), master.dumps(nb))
    (problem,) = inverted(lab)
    assert problem.code == "kernel" and "os._exit" in problem.message


def test_missing_student_notebook_is_a_problem(lab):
    assert [problem.code for problem in inverted(lab)] == ["missing"]


def test_a_cell_that_no_exercise_reaches_is_left_to_the_solution_run(lab, edit):
    edit("print(time.time())", "raise ValueError")
    nb = master.notebook(lab, master.read(lab), student=True)
    write_atomic(master.student_path(lab), master.dumps(nb))
    assert inverted(lab) == []
