"""Building both notebooks, and noticing that one of them was changed."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from lab_utils import course
from lab_utils.authoring import build, master
from lab_utils.authoring.run import CellFailed

STUDENT, SOLUTION = "labs/90_mini.ipynb", "solutions/90_mini.ipynb"


@pytest.fixture
def steady(lab, edit):
    """The lab without the cell whose output differs from run to run."""
    edit("print(time.time())", "print(0.0)")
    return lab


@pytest.mark.slow
def test_building_twice_gives_the_same_bytes(steady):
    first = build.build(steady)
    texts = [first.student_path.read_bytes(), first.solution_path.read_bytes()]
    second = build.build(steady)
    assert [second.student_path.read_bytes(), second.solution_path.read_bytes()] == texts
    assert build.check(steady) == []
    assert build.strays([steady]) == []


def test_built_notebooks_hold_what_they_should(lab):
    pair = build.build(lab)
    student = nbformat.read(pair.student_path, as_version=4)
    assert all(not c.outputs and c.execution_count is None for c in student.cells if c.cell_type == "code")
    assert "return x + x" not in pair.student_path.read_text(encoding="utf-8")
    solution = nbformat.read(pair.solution_path, as_version=4)
    counts = [cell.execution_count for cell in solution.cells if cell.cell_type == "code"]
    assert counts == [1, 2, 3, 4, None]
    assert solution.cells[2].outputs[0].text == "损失函数 (loss)： 1.5\n"
    assert solution.metadata == student.metadata == master.NOTEBOOK_METADATA


def test_failing_solution_writes_nothing(lab, edit):
    edit("return x + x", "return x")
    with pytest.raises(CellFailed, match="check_double"):
        build.build(lab)
    assert not master.student_path(lab).exists() and not master.solution_path(lab).exists()


def test_outputs_can_be_kept_while_only_prose_changes(lab, edit):
    old = build.build(lab).solution
    edit("# 先看一个数。", "# 先看这个数。")
    new = build.build(lab, run_cells=False).solution
    assert new.cells[1].source == "先看这个数。"
    assert [c.get("outputs") for c in new.cells] == [c.get("outputs") for c in old.cells]
    assert build.check(lab) == []
    edit("return x + x", "return 2 * x")
    with pytest.raises(master.MasterError, match="--no-execute"):
        build.build(lab, run_cells=False)


@pytest.fixture(scope="module")
def built_texts():
    """Both notebooks of the mini course, built once for the tests that damage them."""
    return {}


@pytest.fixture
def built(lab, built_texts):
    if not built_texts:
        build.build(lab)
        built_texts.update(
            {name: (course.root() / name).read_text(encoding="utf-8") for name in (STUDENT, SOLUTION)}
        )
    for name, text in built_texts.items():
        (course.root() / name).write_text(text, encoding="utf-8")
    return lab


@pytest.mark.parametrize(
    ("file", "old", "new", "code"),
    [
        (STUDENT, "在这里写你的代码", "随便写", "source"),
        (STUDENT, '"locked": true', '"locked": false', "metadata"),
        (STUDENT, '"execution_count": null', '"execution_count": 3', "execution_count"),
        (STUDENT, '"id": "double"', '"id": "triple"', "missing-cell"),
        (STUDENT, '"points": 2', '"points": 20', "metadata"),
        (STUDENT, "\n ", "\n  ", "format"),
        (STUDENT, "Python 3 (ipykernel)", "Python 3", "format"),
        (STUDENT, '"cells"', '"cell"', "unreadable"),
        (SOLUTION, "return x + x", "return x * 2", "source"),
        (SOLUTION, "先看一个数。", "先看两个数。", "source"),
        (SOLUTION, '"optional",', '"optional", "x",', "metadata"),
        (SOLUTION, '"execution_count": 2', '"execution_count": 7', "unexecuted"),
        (SOLUTION, "(loss)： 1.5\\n", "(loss)： <f at 0x7f12ab34>\\n", "format"),
    ],
)
def test_check_notices_a_notebook_edited_by_hand(built, edit, file, old, new, code):
    assert build.check(built) == []
    edit(old, new, file)
    problems = build.check(built)
    assert code in [problem.code for problem in problems]
    assert {problem.notebook for problem in problems} == {file}


def test_check_shows_what_differs_and_where(built, edit):
    edit("return x + x", "return x * 2", SOLUTION)
    text = "\n".join(map(str, build.check(built)))
    assert text.startswith("solutions/90_mini.ipynb 第 5 格 [source]")
    assert "-    return x * 2" in text and "+    return x + x" in text


def test_check_notices_a_changed_master(built, edit):
    edit("# 没有了。", "# 没有了，真的。")
    assert {problem.notebook for problem in build.check(built)} == {STUDENT, SOLUTION}


def test_check_notices_missing_notebooks_and_strays(built):
    (course.root() / STUDENT).rename(course.root() / "labs" / "91_other.ipynb")
    assert [problem.code for problem in build.check(built)] == ["missing"]
    assert [problem.notebook for problem in build.strays([built])] == ["labs/91_other.ipynb"]


def test_check_notices_moved_added_and_unexecuted_cells(built):
    path = course.root() / SOLUTION
    original = nbformat.read(path, as_version=4)

    def codes(cells):
        nb = nbformat.from_dict({**original, "cells": cells})
        path.write_text(master.dumps(nb), encoding="utf-8")
        return [problem.code for problem in build.check(built)]

    first, *rest = original.cells
    assert codes([*rest, first]) == ["order"]
    assert "extra-cell" in codes([*original.cells, new_code_cell("1 + 1", id="extra")])
    original.cells[2].outputs = [new_output("error", ename="E", evalue="e", traceback=[])]
    assert codes(original.cells) == ["error-output"]


def _normalized(*outputs, tags=()):
    nb = new_notebook(cells=[new_code_cell("x", metadata={"tags": list(tags)}, outputs=list(outputs))])
    build.normalize(nb)
    return nb.cells[0].outputs


def test_machine_paths_leave_the_outputs(lab, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    root = course.root()
    text = f"{root}/build/x and {root}-not, ~ /home/someone/.cache /home/someone2\n"
    assert (
        _normalized(new_output("stream", text=text))[0].text
        == f"…/build/x and {root}-not, ~ ~/.cache /home/someone2\n"
    )
    data = {"text/html": f"<b>{root}</b>", "application/json": {"at": [f"{root}/a"]}, "image/png": "aGk="}
    (output,) = _normalized(new_output("display_data", data=data))
    assert output.data == {"text/html": "<b>…</b>", "application/json": {"at": ["…/a"]}, "image/png": "aGk="}
    error = new_output(
        "error", ename="E", evalue=f"{root}/e", traceback=["File /tmp/ipykernel_1/23.py:1, <f at 0x7f01ab>"]
    )
    (output,) = _normalized(error)
    assert (output.evalue, output.traceback) == ("…/e", ["File <cell>:1, <f at 0x…>"])


def test_streams_are_joined_and_overwritten_text_goes(lab):
    outputs = _normalized(
        new_output("stream", name="stderr", text="10%|#\r 50%|##\r"),
        new_output("stream", name="stderr", text="100%|####\nwarning\n"),
        new_output("stream", text="\n"),
    )
    assert [(o.name, o.text) for o in outputs] == [("stderr", "100%|####\nwarning\n"), ("stdout", "\n")]


def test_progress_bars_leave_volatile_cells_only(lab):
    bar, warning = "100%|####| 3/3 [00:01]\n", "warning\n"
    (output,) = _normalized(new_output("stream", name="stderr", text=bar + warning), tags=["volatile"])
    assert output.text == warning
    assert _normalized(new_output("stream", name="stderr", text=bar), tags=["volatile"]) == []
    (output,) = _normalized(new_output("stream", name="stderr", text=bar))
    assert output.text == bar


def test_widget_views_without_state_are_not_stored(lab):
    view = "application/vnd.jupyter.widget-view+json"
    (output,) = _normalized(
        new_output("display_data", data={view: {"model_id": "a"}, "text/plain": "IntSlider()"})
    )
    assert output.data == {"text/plain": "IntSlider()"}


def test_normalizing_twice_changes_nothing_more(lab):
    outputs = [new_output("stream", text=f"{course.root()} 0x7fffab12 a\rb\n")]
    once = _normalized(*outputs)
    assert _normalized(*map(nbformat.from_dict, once)) == once
