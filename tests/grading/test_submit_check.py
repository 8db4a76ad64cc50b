"""What a student is told before handing in is what the grader will do: the same files, the same cells."""

import json
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.cli import app
from lab_utils.grading import batch, handout, submit_check, tasks
from lab_utils.grading.row import Row
from lab_utils.grading.submissions import walk

LAB = course.lab("00")
RIGHT = {c.exercise: c.source for c in master.read(LAB) if c.exercise}
runner = CliRunner()


def notebook(change=None, **answers: str):
    nb = master.load(master.student_path(LAB))
    for cell in nb.cells:
        cell.source = answers.get(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.source)
    if change:
        change(nb)
    return nb


def save(folder: Path, nb, name: str = "00_quickstart.ipynb") -> Path:
    path = folder / name
    path.write_text(master.dumps(nb) if hasattr(nb, "cells") else nb, encoding="utf-8")
    return path


def states(report: submit_check.SubmissionCheck) -> dict[str, str]:
    return {exercise.title.partition("：")[0]: exercise.state for exercise in report.notebooks[0].exercises}


@pytest.mark.parametrize("lab", course.LABS, ids=lambda lab: lab.number)
def test_exercises_are_named_after_the_function_that_the_grader_calls(lab):
    cells = master.read(lab)
    imports = tasks._imports(cells)
    functions = {cell.check: tasks._check(lab, cell, imports)[1] for cell in cells if cell.check}
    assert functions == {asked.name: asked.function for asked in handout.read(lab).exercises}


@pytest.mark.parametrize("lab", course.LABS, ids=lambda lab: lab.number)
def test_notebooks_as_given_out_and_as_solved_can_be_read(lab, tmp_path):
    cells = master.read(lab)
    files = [
        save(tmp_path, master.notebook(lab, cells, student), f"{lab.name}_{student}.ipynb")
        for student in (1, 0)
    ]
    blank, solved = map(submit_check.examine, files)
    assert blank.ok and {e.state for e in blank.notebooks[0].exercises} == {"unwritten"}
    assert solved.ok and {e.state for e in solved.notebooks[0].exercises} == {"written"}
    assert len(solved.notebooks[0].exercises) == len(lab.points) and not solved.notebooks[0].notes


def test_every_exercise_has_its_state(tmp_path):
    nb = notebook(
        line_lengths=RIGHT["line_lengths"],
        pass_rate="def pass_rate(passed)\n    return 1\n",
        weight_gib="def weightGib(parameters, bits):\n    return 1\n",
    )
    report = submit_check.examine(save(tmp_path, nb))
    assert states(report) == {
        "练习 1": "written",
        "练习 2": "unwritten",
        "练习 3": "broken",
        "练习 4": "broken",
    }
    said = str(report)
    assert (
        not report.ok
        and "第 1 行语法错误" in said
        and "没有定义函数 weight_gib" in said
        and "还没有写" in said
    )


def drop(name: str):
    def change(nb):
        nb.cells = [cell for cell in nb.cells if cell.metadata.get("nbgrader", {}).get("grade_id") != name]

    return change


def strip(nb):
    for cell in nb.cells:
        cell.metadata.clear()
        cell.id = f"x{id(cell)}"


def test_a_deleted_cell_is_missing_and_stripped_metadata_is_no_matter(tmp_path):
    report = submit_check.examine(save(tmp_path, notebook(drop("is_quatrain"))))
    assert not report.ok and states(report)["练习 2"] == "missing"
    report = submit_check.examine(save(tmp_path, notebook(strip, **RIGHT)))
    assert report.ok and set(states(report).values()) == {"written"} and report.notebooks[0].notes


GOOD = master.dumps(notebook())
FILES = {
    "good": ("00_quickstart.ipynb", GOOD.encode()),
    "copy": ("00_quickstart 副本 (2).ipynb", GOOD.encode()),
    "number only": ("00.ipynb", GOOD.encode()),
    "gbk": ("00_quickstart.ipynb", GOOD.encode("gb18030")),
    "utf-16": ("00_quickstart.ipynb", GOOD.encode("utf-16")),
    "no name": ("作业.ipynb", GOOD.encode()),
    "empty": ("00_quickstart.ipynb", b""),
    "cut off": ("00_quickstart.ipynb", GOOD[:5000].encode()),
    "web page": ("00_quickstart.ipynb", b"<!doctype html><html></html>"),
    "no cells": ("00_quickstart.ipynb", b'{"nbformat": 4}'),
    "no cell": ("00_quickstart.ipynb", b'{"cells": []}'),
    "a list": ("00_quickstart.ipynb", b"[]"),
    "deep": ("00_quickstart.ipynb", b"[" * 100_000),
    "lfs": ("00_quickstart.ipynb", b"version https://git-lfs.github.com/spec/v1\n"),
    "conflict": ("00_quickstart.ipynb", b"{\n<<<<<<< HEAD\n}"),
    "zip by another name": ("00_quickstart.ipynb", b"PK\x03\x04zip"),
    "broken zip": ("00_quickstart.zip", b"PK\x03\x04zip"),
    "rar": ("00_quickstart.rar", b"Rar!"),
    "script": ("00_quickstart.py", b"print()"),
}


@pytest.mark.parametrize("kind", FILES)
def test_it_never_disagrees_with_the_grader(kind, tmp_path):
    """The same file through the batch's planning: readable for one exactly when for the other, for the same reason."""
    name, data = FILES[kind]
    (tmp_path / "in" / "s").mkdir(parents=True)
    path = tmp_path / "in" / "s" / name
    path.write_bytes(data)
    report = submit_check.examine(path)
    made = batch.plan(walk(tmp_path / "in"), tmp_path / "out", (LAB,), batch.Settings())
    read = made.jobs[0].read() if made.jobs else made.rows[0]
    assert report.ok == (not isinstance(read, Row))
    if isinstance(read, Row) and read.status in ("unreadable", "refused"):
        assert read.reason in str(report)


def test_a_zip_and_a_link_are_looked_at_as_the_grader_does(tmp_path):
    path = save(tmp_path, notebook(**RIGHT))
    with zipfile.ZipFile(tmp_path / "张三.zip", "w") as archive:
        archive.write(path, "作业/00_quickstart.ipynb")
        archive.write(path, "作业/00_quickstart_v2.ipynb")
    report = submit_check.examine(tmp_path / "张三.zip")
    assert report.ok and report.notebooks[0].file.endswith("v2.ipynb") and "有 2 份" in str(report)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.write(path, "../00_quickstart.ipynb")
    assert not submit_check.examine(tmp_path / "bad.zip").ok
    (tmp_path / "00_link.ipynb").symlink_to(path)
    assert "链接" in str(submit_check.examine(tmp_path / "00_link.ipynb"))
    (tmp_path / "nothing").mkdir()
    assert "没有笔记本" in str(submit_check.examine(tmp_path / "nothing"))


def test_it_needs_no_solutions_and_looks_at_the_very_notebook_in_labs(tmp_path, monkeypatch):
    """A student's copy of the course has labs/ and data, and the student works in labs/ itself."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "labs").mkdir()
    monkeypatch.setattr(course, "root", lambda: tmp_path)
    path = save(tmp_path / "labs", GOOD)
    assert submit_check.examine(submit_check.find("00")).ok
    nb = master.load(path)
    drop("is_quatrain")(nb)
    save(tmp_path / "labs", nb)
    report = submit_check.examine(submit_check.find("quickstart"))
    assert not report.ok and states(report)["is_quatrain"] == "missing"


def test_the_command_says_it_by_its_exit_code_too(tmp_path):
    good = runner.invoke(app, ["submit-check", "00"])
    assert good.exit_code == 0 and "还有 4 个没有写" in good.output
    bad = runner.invoke(app, ["submit-check", str(save(tmp_path, json.dumps({"cells": []})))])
    assert bad.exit_code == 1 and "一个单元" in bad.output
    assert runner.invoke(app, ["submit-check", str(tmp_path / "none.ipynb")]).exit_code == 2
    assert runner.invoke(app, ["submit-check", "77"]).exit_code == 2
