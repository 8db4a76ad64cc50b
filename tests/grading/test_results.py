"""Names become folders, rows become a table; what is no longer true is put away."""

import json

import pytest

from lab_utils.grading import results
from lab_utils.grading.row import ExerciseResult, Judgment, LatePenalty, ManualMark, Row, RowError

ROW = Row(
    "甲", "00", "graded", "通过 1/4 个练习", 1.5, 5.0, "a.ipynb", "00ff", "v", ("一", "二"),
    (
        ExerciseResult("pass_rate", 2.0, 1.5, "value", "不对", "提示", "典型", 1, 2, 3, 4),
        ExerciseResult("adapter", 1.0, 0.0, "shipped", "附带", adapter=Judgment("graded", "x", 1.0, targets=("q_proj",))),
    ),
    (ManualMark("思考题", 0.5, 1.0, "好"),), LatePenalty(0.5, 0.1, "迟交"), 1.5,
)  # fmt: skip


def test_a_row_is_the_same_after_json(tmp_path):
    assert Row.from_json(json.loads(json.dumps(ROW.to_json()))) == ROW
    results.write_row(tmp_path, ROW)
    assert results.read_rows(tmp_path) == [ROW]


@pytest.mark.parametrize(
    "change",
    [
        {"student": 1}, {"student": ""}, {"status": "ok"}, {"reason": None}, {"max": "5"}, {"score": None},
        {"exercises": [1]}, {"exercises": 5}, {"late": 1}, {"unknown": 1}, {"exercises": [{"name": "x"}]},
    ],
)  # fmt: skip
def test_what_is_no_whole_row_is_told(change, tmp_path):
    path = results.row_path(tmp_path, ROW)
    path.parent.mkdir()
    path.write_text(json.dumps({**ROW.to_json(), **change}))
    with pytest.raises(RowError, match="甲/00.json.*labs grade"):
        results.read_rows(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", "[" * 100_000, '"x"'])
def test_a_file_that_holds_none_is_told(text, tmp_path):
    (tmp_path / "甲").mkdir()
    (tmp_path / "甲" / "00.json").write_text(text)
    with pytest.raises(RowError, match="甲/00.json"):
        results.read_rows(tmp_path)


def test_other_files_in_the_folder_are_no_rows(tmp_path):
    results.write_row(tmp_path, ROW)
    (tmp_path / "甲" / "mine.json").write_text("{}")
    (tmp_path / ".adapters").mkdir()
    (tmp_path / ".adapters" / "00.json").write_text("{}")
    assert results.read_rows(tmp_path) == [ROW]


def test_names_become_folders_that_stay_apart():
    names = [
        "张三", "../x", "a/b", "a_b", "=cmd", "x\x1b[2J", "x [2J", "grades.csv", "gradebook.db", "report.html", ".",
        ".seed", ".adapters", ".removed", "名" * 300, "名" * 301,
    ]  # fmt: skip
    folders = [results.folder_name(name) for name in names]
    assert folders[0] == "张三"
    assert len(set(folders)) == len(names)
    for folder in folders:
        assert "/" not in folder and not folder.startswith(".") and len(folder.encode()) < 255
        assert folder not in ("grades.csv", "gradebook.db", "report.html")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "＝", "＋", "－", "＠", " =", "\t=", "\u200b=", "\r="])
def test_a_formula_in_a_table_is_a_text(start):
    row = Row(f"{start}HYPERLINK(1)", "00", "graded", f"{start}x", 1.5, 5.0)
    student, *_, reason = results.table([row]).splitlines()[1].split(",")
    assert student.startswith("'") and reason.startswith("'")
