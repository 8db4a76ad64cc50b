"""Which cells an unwritten exercise can reach."""

import pytest

from lab_utils.authoring.dependencies import names, touched_by_exercises
from lab_utils.authoring.master import Cell


def reached(*sources: str, exercise: int, check: int) -> set[int]:
    cells = [
        Cell(str(i), "code", source, "f" if i == exercise else "", "f" if i == check else "")
        for i, source in enumerate(sources)
    ]
    return touched_by_exercises([*cells, Cell("prose", "markdown", "f(x)")])


def test_names_of_a_cell():
    own = names(
        "import torch as t\ndef f(a):\n    b = a + K\n    return [c for c in b]\nrows[0].x = f(t.ones(3))"
    )
    assert own.bound == {"t", "f"}
    assert own.imported == {"t"}
    assert own.changed == {"rows"}
    assert own.used == {"K", "rows", "f", "t"}


def test_magics_are_read_as_ipython_reads_them():
    assert "get_ipython" in names("%time x = 1").used


def test_only_what_hangs_on_the_exercise():
    sources = (
        "import torch",
        "model = train()",
        "K = 3",
        "def f(x): return x + K",
        "check(f)",
        "print(model)",
    )
    assert reached(*sources, exercise=3, check=4) == {2, 3, 4}


def test_users_of_the_exercise_and_what_they_need():
    sources = ("big = 1", "def f(x): ...", "check(f)", "y = f(big)", "z = 2", "print(y)", "print(z)")
    assert reached(*sources, exercise=1, check=2) == {0, 1, 2, 3, 5}


def test_imports_of_an_exercise_taint_nothing():
    sources = ("import math\ndef f(x): return math.pi", "check(f)", "print(math.e)")
    assert reached(*sources, exercise=0, check=1) == {0, 1}


def test_a_name_bound_anew_is_free_again():
    sources = ("def f(x): ...", "y = f(1)", "y = 2", "print(y)")
    assert reached(*sources, exercise=0, check=-1) == {0, 1}


@pytest.mark.parametrize("change", ["rows[0] = 5", "rows.x = 5", "rows += [5]", "for rows in range(3): pass"])
def test_a_change_in_place_counts_as_given(change):
    sources = ("rows = [1]", change, "def f(x): return rows", "check(f)")
    assert 1 in reached(*sources, exercise=2, check=3)


def test_a_cell_that_is_not_python_is_named():
    with pytest.raises(SyntaxError):
        touched_by_exercises([Cell("a", "code", "def f(:")])
