"""The master format: what is read, what is refused, and what the notebooks get."""

import dataclasses

import nbformat
import pytest

from lab_utils import course
from lab_utils.authoring import master

NBGRADER_KEYS = {"schema_version", "grade", "locked", "solution", "task", "grade_id", "points"}


def test_cells_are_read_with_their_names_and_tags(lab):
    cells = master.read(lab)
    assert [cell.kind for cell in cells].count("code") == 5
    assert [(c.exercise, c.check) for c in cells if c.exercise or c.check] == [("double", ""), ("", "double")]
    assert [cell.tags for cell in cells if cell.tags] == [("volatile",), ("optional",)]
    assert [cell.id for cell in cells if cell.exercise or cell.check] == ["double", "check_double"]


def test_editing_one_cell_changes_no_other_id(lab, edit):
    before = [cell.id for cell in master.read(lab)]
    edit("print(time.time())", "print(time.time() + 1)")
    edit("# 先看一个数。", "# 先看两个数。")
    after = [cell.id for cell in master.read(lab)]
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert changed == [1, 7]


def test_editing_a_named_cell_keeps_its_id(lab, edit):
    before = [cell.id for cell in master.read(lab)]
    edit("return x + x", "return 2 * x")
    assert [cell.id for cell in master.read(lab)] == before


def test_ids_are_those_of_the_lab(lab, tmp_path):
    other = dataclasses.replace(lab, slug="other")
    master.master_path(other).write_text(
        master.master_path(lab).read_text(encoding="utf-8"), encoding="utf-8"
    )
    pairs = zip(master.read(lab), master.read(other), strict=True)
    assert all((a.id == b.id) == bool(a.exercise or a.check) for a, b in pairs)


def test_student_gets_a_stub_with_the_solutions_indentation(lab):
    exercise = next(cell for cell in master.read(lab) if cell.exercise)
    assert master.student_source(exercise) == (
        'def double(x: float) -> float:\n    """Twice `x`."""\n'
        '    raise NotImplementedError("练习 double：在这里写你的代码")'
    )


def test_student_gets_no_hidden_test(lab):
    check = next(cell for cell in master.read(lab) if cell.check)
    assert master.student_source(check) == 'assert double(2) == 4, "两倍应是 4"'


def test_code_after_a_region_is_kept():
    cell = master.Cell(
        "a", "code", "x = 1\n### BEGIN HIDDEN TESTS\ny = 2\n### END HIDDEN TESTS\nz = 3", check="a"
    )
    assert master.student_source(cell) == "x = 1\nz = 3"


def test_card_is_filled_in_without_changing_the_id(lab, monkeypatch):
    nb = master.notebook(lab, master.read(lab), student=True)
    assert nb.cells[0].source == course.card("90").strip()
    assert nb.cells[0].id == master.read(lab)[0].id


def test_nbgrader_metadata_are_of_schema_3(lab):
    nb = master.notebook(lab, master.read(lab), student=True)
    graded = {c.metadata.nbgrader.grade_id: c.metadata.nbgrader for c in nb.cells if "nbgrader" in c.metadata}
    assert graded == {
        "double": {
            "schema_version": 3,
            "grade_id": "double",
            "grade": False,
            "locked": False,
            "solution": True,
            "task": False,
        },
        "check_double": {
            "schema_version": 3,
            "grade_id": "check_double",
            "grade": True,
            "locked": True,
            "solution": False,
            "task": False,
            "points": 2,
        },
    }
    assert all(set(meta) <= NBGRADER_KEYS for meta in graded.values())


def test_tags_are_translated_for_nbval(lab):
    nb = master.notebook(lab, master.read(lab), student=False)
    tags = [cell.metadata.tags for cell in nb.cells if "tags" in cell.metadata]
    assert tags == [["volatile", "nbval-ignore-output"], ["optional", "nbval-skip"]]


def test_notebook_is_valid_and_gives_its_cells_back(lab):
    cells = master.read(lab)
    nb = master.notebook(lab, cells, student=False)
    nbformat.validate(nb)
    assert master.cells_of(nb)[1:] == cells[1:]


def test_dumps_is_readable_and_round_trips(lab):
    nb = master.notebook(lab, master.read(lab), student=True)
    text = master.dumps(nb)
    assert "写一个函数" in text and text.endswith("}\n") and not text.endswith("\n\n")
    assert master.dumps(nbformat.reads(text, as_version=4)) == text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('exercise="double"', 'excercise="double"', "excercise"),
        ('tags=["volatile"]', 'tags=["volatil"]', "volatil"),
        ('exercise="double"', 'exercise="double" name="x"', "只能写一个"),
        ('exercise="double"', 'exercise="两倍"', "合法的名字"),
        ("    ### END SOLUTION\n", "", "不成对"),
        ("    ### BEGIN SOLUTION\n", "", "不成对"),
        ("### END HIDDEN TESTS", "### END SOLUTION", "不成对"),
        ('# %% exercise="double"', "# %%", "BEGIN SOLUTION"),
        (
            "    ### BEGIN SOLUTION\n    # 两个一样的数相加\n    return x + x\n    ### END SOLUTION",
            "    pass",
            "BEGIN SOLUTION",
        ),
        ('# %% check="double"', "# %%", "BEGIN HIDDEN TESTS"),
        ("# 先看一个数。\n", "# 先看一个数。\n\n# %% [markdown]\n# 先看一个数。\n", 'name="'),
        ("# 先看一个数。\n", "# 先看一个数。\n\n# %% [raw]\n# x\n", "raw"),
        ("# %% [markdown]\n# 写一个函数", '# %% [markdown] check="double"\n# 写一个函数', "代码单元"),
    ],
)
def test_malformed_masters_are_refused_with_the_place(lab, edit, old, new, message):
    edit(old, new)
    with pytest.raises(master.MasterError, match=r"solutions/90_mini\.py 第 \d+ 格") as caught:
        master.read(lab)
    assert message in str(caught.value)


def test_equal_cells_may_be_told_apart_by_name(lab, edit):
    edit("# 先看一个数。\n", '# 先看一个数。\n\n# %% [markdown] name="again"\n# 先看一个数。\n')
    assert master.read(lab)[2].id == "again"


def test_missing_master_is_named(lab):
    master.master_path(lab).unlink()
    with pytest.raises(master.MasterError, match=r"solutions/90_mini\.py"):
        master.read(lab)


def test_check_without_points_is_refused(lab, edit):
    edit('exercise="double"', 'exercise="twice"')
    edit('check="double"', 'check="twice"')
    with pytest.raises(master.MasterError, match="twice"):
        master.notebook(lab, master.read(lab), student=True)


def test_a_wrapped_chinese_line_is_joined_and_nothing_else(lab, edit):
    edit("# 先看一个数。", "# 先看一个数，\n# 再看 English\n# 词，然后\n#\n# - 一\n# - 二")
    nb = master.notebook(lab, master.read(lab), student=True)
    assert nb.cells[1].source == "先看一个数，再看 English\n词，然后\n\n- 一\n- 二"
