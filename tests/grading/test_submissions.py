"""Which files are whose, and versions of which lab; nothing is followed or extracted."""

import json
import zipfile

import pytest

from lab_utils import course
from lab_utils.grading import submissions
from tests.grading.hostile import FILE, LAB, RIGHT, notebook, write


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("05_swift_qlora.ipynb", "05"),
        ("05.ipynb", "05"),
        ("05-作业.ipynb", "05"),
        ("张三 swift_qlora 终版.ipynb", "05"),
        ("00_quickstart-Copy1.ipynb", "00"),
        ("2024年05月.ipynb", None),
        ("055.ipynb", None),
        ("Untitled.ipynb", None),
    ],
)
def test_the_lab_is_in_the_name(name, number):
    found = submissions.lab_of(name, course.LABS)
    assert (found and found.number) == number


def test_the_largest_number_is_the_newest(tmp_path):
    names = [
        "00_quickstart.ipynb",
        "00_quickstart-副本.ipynb",
        "00_quickstart (2).ipynb",
        "00_quickstart_v10.ipynb",
    ]
    folder = tmp_path / "某 学生"
    folder.mkdir()
    for name in reversed(names):
        write(folder, notebook({}), name=name)
    (student,) = submissions.students(tmp_path)
    assert [candidate.name for candidate in student.versions[LAB.number]] == names


def test_folder_and_zip_of_one_student_count_together(tmp_path):
    (tmp_path / "甲").mkdir()
    write(tmp_path / "甲", notebook({}))
    with zipfile.ZipFile(tmp_path / "甲.zip", "w") as archive:
        archive.writestr("作业/00_quickstart (3).ipynb", json.dumps(notebook(RIGHT)))
        archive.writestr("__MACOSX/._00_quickstart (9).ipynb", "")
        archive.writestr(".ipynb_checkpoints/00_quickstart (9).ipynb", "")
    (student,) = submissions.students(tmp_path)
    newest = student.versions[LAB.number][-1]
    assert newest.name == "甲.zip/作业/00_quickstart (3).ipynb"
    assert len(student.versions[LAB.number]) == 2
    assert "line_lengths" in newest.read().decode()


def test_names_that_windows_wrote_in_gbk():
    """Such a zip doesn't say UTF-8, so that zipfile reads the bytes as cp437."""
    member = zipfile.ZipInfo("作业/第一次.ipynb".encode("gbk").decode("cp437"))
    assert submissions._member_name(member) == "作业/第一次.ipynb"
    member = zipfile.ZipInfo("作业.ipynb")
    member.flag_bits = 0x800
    assert submissions._member_name(member) == "作业.ipynb"


def test_a_link_that_replaces_the_file_after_the_look_is_refused(tmp_path):
    """Between the look at the folder and the reading, the file becomes a link."""
    (tmp_path / "甲").mkdir()
    write(tmp_path / "甲", notebook(RIGHT))
    (student,) = submissions.students(tmp_path)
    (tmp_path / "甲" / FILE).unlink()
    (tmp_path / "甲" / FILE).symlink_to("/etc/passwd")
    with pytest.raises(submissions.Refused, match="链接"):
        student.versions[LAB.number][0].read()
