"""The folders of the course: its root, its data sets, the scratch folder of a lab."""

import pytest

from lab_utils import course
from lab_utils.course import paths


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A course folder of its own, with one data set, found through `$LAB_ROOT`."""
    for folder in ("labs", "datasets/classical_modern", "solutions"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("LAB_ROOT", str(tmp_path))
    monkeypatch.delenv("LAB_OUTPUT", raising=False)
    return tmp_path.resolve()


def test_the_root_is_found_upwards_from_a_deep_folder(checkout, monkeypatch):
    deep = checkout / "labs" / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.delenv("LAB_ROOT")
    monkeypatch.chdir(deep)
    assert course.root() == checkout


def test_a_wrong_lab_root_is_refused_though_the_working_directory_is_right(checkout, tmp_path, monkeypatch):
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("LAB_ROOT", str(tmp_path / "labs"))
    with pytest.raises(FileNotFoundError, match="LAB_ROOT"):
        course.root()


def test_no_course_folder_anywhere_says_how_to_name_one(tmp_path, monkeypatch):
    monkeypatch.delenv("LAB_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path / "site")
    with pytest.raises(FileNotFoundError, match="export LAB_ROOT="):
        course.root()


def test_a_data_set_is_a_folder_of_the_course(checkout):
    assert course.dataset("classical_modern") == checkout / "datasets" / "classical_modern"
    with pytest.raises(FileNotFoundError, match="是不是 'classical_modern'"):
        course.dataset("classical_moden")


def test_the_output_of_a_lab_is_a_created_folder_of_its_own(checkout, tmp_path, monkeypatch):
    assert course.output("05") == checkout / "build" / "labs" / "05_swift_qlora"
    monkeypatch.setenv("LAB_OUTPUT", str(tmp_path / "elsewhere"))
    folders = {course.output("00"), course.output("05")}
    assert folders == {tmp_path / "elsewhere" / name for name in ("00_quickstart", "05_swift_qlora")}
    assert all(folder.is_dir() for folder in folders)
