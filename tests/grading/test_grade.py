"""A whole class by one call, hostile and odd: everybody gets a row with a reason, and every file can be read."""

import csv
import json
import os
import shutil
import stat
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab_utils import course, grading
from lab_utils.cli import app
from lab_utils.errors import Unavailable
from lab_utils.grading import report, results
from lab_utils.grading.grade import Options, grade_class
from lab_utils.grading.row import Row
from tests.grading.hostile import FULL, LAB, RIGHT, WRONG, notebook, write

OTHER = course.lab("01")
OPTIONS = Options((LAB,), workers=2, seed=0)


def hand_in(
    root: Path, student: str | bytes, answers: dict | None = RIGHT, name: str = f"{LAB.name}.ipynb"
) -> Path:
    """A student's folder with a notebook; `answers` None: an empty folder."""
    folder = Path(os.fsdecode(os.fsencode(root) + b"/" + os.fsencode(student)))
    folder.mkdir(parents=True, exist_ok=True)
    if answers is not None:
        write(folder, notebook(answers), name=name)
    return folder


ODD = {
    "张三".encode("gbk"): "张三",
    "李\u200b四": "李[U+200B]四",
    "李\u061c四": "李[U+061C]四",
    "\x1b[31m红": "[U+001B][31m红",
    "＝SUM(A1)": "＝SUM(A1)",
    "=cmd": "=cmd",
    "\ufffe": "[U+FFFE]",
    "a\nb": "a[U+000A]b",
    ".dotted": ".dotted",
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A class of odd names and files, graded by the command: the folder of results, rows by name, what was said."""
    base = tmp_path_factory.mktemp("odd")
    root = base / "作业"
    for number, student in enumerate(ODD):
        hand_in(root, student, RIGHT if number % 2 else WRONG)
    os.mkfifo(hand_in(root, "pipe", None) / "a.zip")
    os.mkfifo(hand_in(root, "named pipe", None) / f"{LAB.name}.ipynb")
    huge = hand_in(root, "sparse", None) / f"{LAB.name}.ipynb"
    with open(huge, "wb") as file:
        file.truncate(2**42)
    (hand_in(root, "text", None) / f"{LAB.name}.ipynb.txt").write_text("{}")
    (hand_in(root, "script", None) / f"{LAB.name}.py").write_text("print()")
    hand_in(root, "nothing", None)
    folder = hand_in(root, "2023012345-版本", WRONG, f"{LAB.name}_2023012345.ipynb")
    write(folder, notebook(RIGHT), name=f"{LAB.name}_2023012345_v2.ipynb")
    path = "raise ValueError(__import__('json').__file__ + ' {root} {site}')"
    hand_in(root, "paths", {**WRONG, "line_lengths": f"def line_lengths(text):\n    {path}\n"})
    hand_in(root, "__MACOSX")
    done = CliRunner().invoke(
        app, ["grade", str(root), "--out", str(base / "成绩"), "--lab", LAB.number, "--workers", "2"]
    )
    assert done.exit_code == 0, done.output
    rows = {row.student: row for row in results.read_rows(base / "成绩")}
    return base / "成绩", rows, done.output, root


def test_everybody_has_a_row_with_the_points_earned(odd):
    _, rows, _, _ = odd
    for number, shown in enumerate(ODD.values()):
        assert rows[shown].score == (FULL if number % 2 else 0.0), shown
    assert len(rows) == len(ODD) + 8 and all(row.reason for row in rows.values())


@pytest.mark.parametrize(
    ("student", "status", "words"),
    [
        ("pipe", "refused", "不是普通文件"),
        ("named pipe", "refused", "不是普通文件"),
        ("sparse", "refused", "太大"),
        ("text", "unreadable", "扩展名"),
        ("script", "missing", f"{LAB.name}.py"),
        ("nothing", "missing", "没有交"),
    ],
)
def test_the_reason_tells(odd, student, status, words):
    row = odd[1][student]
    assert row.status == status and words in row.reason and row.score == 0


def test_the_newest_version_is_graded_and_the_row_says_so(odd):
    row = odd[1]["2023012345-版本"]
    assert row.score == FULL and row.file == f"{LAB.name}_2023012345_v2.ipynb"
    assert row.file in row.notes[0] and f"没有评：{LAB.name}_2023012345.ipynb" in row.notes[0]


def test_nothing_that_is_written_or_printed_moves_a_terminal_or_a_spreadsheet(odd):
    out, rows, output, _ = odd
    texts = [
        path.read_text("utf-8") for path in [*out.glob("*/*.json"), *out.glob("*/*.html"), out / "grades.csv"]
    ]
    for text in [*texts, output.replace("⚠️", "")]:
        bad = {
            c
            for c in text
            if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        }
        assert not bad, bad
    lines = list(csv.reader((out / "grades.csv").read_text("utf-8").splitlines()))
    assert len({line[0] for line in lines}) == len(rows) + 1
    assert not [cell for line in lines for cell in line if cell[:1] in "=+-@＝＋－＠" and cell]


def test_no_path_of_the_machine_is_written(odd):
    out, rows, _, root = odd
    for row in rows.values():
        text = json.dumps(row.to_json(), ensure_ascii=False)
        for place in (sys.prefix, sys.base_prefix, str(course.root()), str(root.parent), str(Path.home())):
            assert place not in text + (out / "grades.csv").read_text("utf-8"), (row.student, place)


def test_what_systems_left_is_said_to_be_left_out(odd):
    assert "__MACOSX" in odd[2] and "__MACOSX" not in odd[1]


def test_again_nothing_is_run_that_was_graded(odd):
    out, rows, _, root = odd
    previews = []
    outcome = grade_class(root, out, replace(OPTIONS, seed=None), previews.append)
    graded = sum(row.status == "graded" for row in rows.values())
    assert previews[0].kept == graded and not previews[0].seed_changed
    assert {row.student: row for row in outcome.rows} == rows


def test_the_report_and_the_gradebook_can_be_made(odd):
    from nbgrader.api import Gradebook

    from lab_utils.grading import gradebook

    out, rows, _, root = odd
    page = report.write(out, root).read_text("utf-8")
    assert f"{len(rows)} 名学生" in page and "named pipe" in page
    (out / "report.html").unlink()
    with Gradebook(f"sqlite:///{out / 'gradebook.db'}", gradebook.COURSE_ID) as book:
        assert {student.id for student in book.students} == set(rows)


# ---------------------------------------------------------------- the seed


def test_the_seed_is_secret_and_stays(tmp_path):
    first, new = results.settle_seed(tmp_path, None)
    assert not new and first > 2**32  # the chance of less is one in 2^31
    assert stat.S_IMODE((tmp_path / ".seed").stat().st_mode) == 0o600
    assert results.settle_seed(tmp_path, None) == (first, False)
    assert results.settle_seed(tmp_path, first) == (first, False)
    assert results.settle_seed(tmp_path, 7) == (7, True)
    assert results.settle_seed(tmp_path, None) == (7, False)
    assert stat.S_IMODE((tmp_path / ".seed").stat().st_mode) == 0o600
    assert results.settle_seed(tmp_path / "another", None)[0] != first


def test_a_seed_that_is_none_is_told(tmp_path):
    (tmp_path / ".seed").write_text("abc")
    with pytest.raises(results.ResultsError, match="种子"):
        results.settle_seed(tmp_path, None)


def test_another_seed_grades_all_anew_and_is_told(tmp_path):
    hand_in(tmp_path / "in", "甲")
    previews = []
    for seed in (None, None, 5, None):
        grade_class(tmp_path / "in", tmp_path / "out", replace(OPTIONS, seed=seed), previews.append)
    assert [(preview.to_run, preview.seed_changed) for preview in previews] == [
        (1, False), (0, False), (1, True), (0, False),
    ]  # fmt: skip
    done = CliRunner().invoke(
        app, ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--seed", "6"]
    )
    assert done.exit_code == 0 and "种子" in done.output


# ---------------------------------------------------------------- submissions that are no longer there


def test_a_student_who_is_gone_is_gone_everywhere(tmp_path):
    from nbgrader.api import Gradebook

    from lab_utils.grading import gradebook

    root, out = tmp_path / "in", tmp_path / "out"
    for student in ("甲", "乙"):
        hand_in(root, student)
    grade_class(root, out, OPTIONS)
    shutil.rmtree(root / "乙")
    report.write(out, root)
    assert "1 名学生" in (out / "report.html").read_text("utf-8")
    outcome = grade_class(root, out, OPTIONS)
    assert outcome.removed == (f"乙/{LAB.number}.json",) and [row.student for row in outcome.rows] == ["甲"]
    assert "乙" not in (out / "grades.csv").read_text("utf-8") and not (out / "乙").exists()
    assert "1 名学生" in report.write(out).read_text("utf-8")
    with Gradebook(f"sqlite:///{out / 'gradebook.db'}", gradebook.COURSE_ID) as book:
        assert [student.id for student in book.students] == ["甲"]
    assert (out / results.REMOVED / "乙" / f"{LAB.number}.json").is_file()


def test_a_lab_at_a_time_keeps_the_others(tmp_path):
    root, out = tmp_path / "in", tmp_path / "out"
    for student in ("甲", "乙"):
        hand_in(root, student)
    grade_class(root, out, OPTIONS)
    outcome = grade_class(root, out, replace(OPTIONS, labs=(OTHER,)))
    assert [row.key for row in outcome.rows] == [("乙", "00"), ("乙", "01"), ("甲", "00"), ("甲", "01")]
    assert len((out / "grades.csv").read_text("utf-8").splitlines()) == 5 and not outcome.removed
    (root / "乙" / f"{LAB.name}.ipynb").unlink()
    outcome = grade_class(root, out, replace(OPTIONS, labs=None))
    assert [row.key for row in outcome.rows] == [("乙", "00"), ("甲", "00")]
    assert outcome.rows[0].status == "missing" and len(outcome.removed) == 2


# ---------------------------------------------------------------- what stops


def test_what_stops_it_is_told_in_one_form(tmp_path):
    hand_in(tmp_path / "in", "甲")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gradebook.db").write_text("mine")
    with pytest.raises(grading.GradingStopped, match=r"gradebook.*断点"):
        grade_class(tmp_path / "in", tmp_path / "out", OPTIONS)
    assert (tmp_path / "out" / "甲" / f"{LAB.number}.json").is_file()
    assert (tmp_path / "out" / "gradebook.db").read_text() == "mine"
    done = CliRunner().invoke(app, ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "in" / "out")])
    assert done.exit_code == 2 and "一个在另一个里面" in done.output
    done = CliRunner().invoke(app, ["grade", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and "找不到" in done.output


def test_nothing_in_the_folder_where_the_teacher_stands_is_imported(tmp_path):
    """Neither by the command nor by the processes it starts: it may be a student's folder."""
    here = tmp_path / "in" / "甲"
    for student in ("甲", "乙"):
        hand_in(tmp_path / "in", student)
    large = notebook(RIGHT)
    large["cells"][0]["source"] = "x" * 5_000_000
    write(hand_in(tmp_path / "in", "丙"), large)
    for name in (
        "difflib",
        "json",
        "selectors",
        "signal",
        "tempfile",
        "resource",
        "struct",
        "jupytext",
        "numpy",
    ):
        (here / f"{name}.py").write_text(
            f"open({str(tmp_path / 'LEAK')!r}, 'a').write({name!r})\nraise ImportError\n"
        )
    command = [
        Path(sys.prefix) / "bin" / "labs",
        "grade",
        tmp_path / "in",
        "--out",
        tmp_path / "out",
        "--workers",
        "2",
    ]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=300)
    assert not (tmp_path / "LEAK").exists(), (tmp_path / "LEAK").read_text()
    assert done.returncode == 0, done.stderr
    assert {row.score for row in results.read_rows(tmp_path / "out")} == {FULL}


@pytest.mark.parametrize("package", ["nbgrader", "jinja2", "distributed"])
def test_a_missing_package_is_named_before_anything_is_graded(package, tmp_path, monkeypatch):
    hand_in(tmp_path / "in", "甲", RIGHT)
    monkeypatch.setitem(sys.modules, package, None)  # as if it weren't installed
    with pytest.raises(Unavailable, match=f"{package}.*pip install"):
        grade_class(tmp_path / "in", tmp_path / "out", replace(OPTIONS, scheduler="tcp://127.0.0.1:1"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["rapidfuzz", "jinja2"])
def test_a_package_that_the_report_misses_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Unavailable, match=f"{package}.*pip install"):
        report.write(tmp_path / "out", tmp_path)


def test_only_so_many_versions_are_read(tmp_path):
    """Thousands of broken ones of one student would hold up everybody's."""
    folder = hand_in(tmp_path / "in", "甲", RIGHT)
    for number in range(50):
        (folder / f"{LAB.name}_v{number}.ipynb").write_text("{")
    (row,) = grade_class(tmp_path / "in", tmp_path / "out", OPTIONS).rows
    assert row.status == "unreadable" and "JSON" in row.reason


def test_a_row_is_the_same_after_json():
    row = Row("甲", "00", "missing", "没有交")
    assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row
