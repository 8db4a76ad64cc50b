"""The exported course is one for nbgrader: its own converters take it, give the solution all and the blank nothing."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from typer.testing import CliRunner

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.cli import app
from lab_utils.grading import answers, handout, nbgrader_course, notebook_file

LABS = [course.lab("00"), course.lab("01")]
SOLUTIONS = {lab.name: {c.exercise: c.source for c in master.read(lab) if c.exercise} for lab in LABS}
HANDOUTS = {lab.name: handout.read(lab) for lab in LABS}


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("nbgrader") / "course"
    nbgrader_course.export(folder, LABS)
    return folder


@pytest.fixture(scope="module")
def api(exported):
    """nbgrader as its own configuration sets it up, with the labs generated."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config.loader import PyFileConfigLoader

    with pytest.MonkeyPatch.context() as patch:
        for name in ("LAB_ROOT", "LAB_OUTPUT", "LAB_HEADLESS"):
            patch.setenv(name, "")
            patch.delenv(name)  # what the configuration sets goes when the test ends
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        config = PyFileConfigLoader("nbgrader_config.py", str(exported)).load_config()
        config.CourseDirectory.root = str(exported)
        api = NbGraderAPI(config=config)
        for lab in LABS:
            done = api.generate_assignment(lab.name)
            assert done["success"], done
        yield api


def release(exported: Path, lab: course.Lab):
    return nbformat.read(exported / "release" / lab.name / f"{lab.name}.ipynb", as_version=4)


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.number)
def test_what_nbgrader_releases_is_the_student_notebook(api, exported, lab):
    ours, theirs = master.load(master.student_path(lab)), release(exported, lab)
    assert [cell.id for cell in theirs.cells] == [cell.id for cell in ours.cells]
    for mine, made in zip(ours.cells, theirs.cells, strict=True):
        if mine.metadata.get("nbgrader", {}).get("solution"):
            assert "练习：在这里写你的代码" in made.source
            assert made.source.split("raise ")[0] == mine.source.split("raise ")[0]
        else:
            assert made.source == mine.source
        assert mine.metadata.get("tags") == made.metadata.get("tags")
    text = nbformat.writes(theirs)
    assert not [marker for marker in master.MARKERS if marker in text]
    assert not [source for source in SOLUTIONS[lab.name].values() if source in text]


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.number)
def test_points_in_nbgraders_gradebook_are_the_manifests(api, lab):
    with api.gradebook as book:
        notebook = book.find_assignment(lab.name).notebooks[0]
        points = {cell.name.removeprefix("check_"): cell.max_score for cell in notebook.grade_cells}
    assert points == lab.points


def test_our_collector_reads_nbgraders_release(api, exported):
    lab = LABS[0]
    data = (exported / "release" / lab.name / f"{lab.name}.ipynb").read_bytes()
    picked = answers.pick(HANDOUTS[lab.name], notebook_file.read_notebook(data))
    assert None not in picked.cell.values() and not picked.notes


def test_plain_autograde_gives_the_solution_all_and_the_blank_nothing(api, exported):
    lab = LABS[0]
    for student in ("right", "blank"):
        nb = release(exported, lab)
        for cell in nb.cells:
            name = cell.metadata.get("nbgrader", {}).get("grade_id")
            if student == "right" and name in SOLUTIONS[lab.name]:
                cell.source = SOLUTIONS[lab.name][name]
        path = exported / "submitted" / student / lab.name / f"{lab.name}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(nb, path)
        done = api.autograde(lab.name, student)
        assert done["success"], done
    with api.gradebook as book:
        scores = {s: book.find_submission(lab.name, s) for s in ("right", "blank")}
        assert scores["right"].score == scores["right"].max_score == sum(lab.points.values())
        assert scores["blank"].score == 0


def test_the_labs_find_their_data_in_the_exported_course(api, exported):
    assert course.root() == exported / "course"
    assert course.dataset("verse_sft").is_dir()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "gradebook.db").write_text("grades")
    done = CliRunner().invoke(app, ["export-nbgrader", str(tmp_path), "00"])
    assert done.exit_code == 2 and "不是空文件夹" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["gradebook.db"]
