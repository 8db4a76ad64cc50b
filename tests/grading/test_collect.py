"""Files to notebooks: which version, which encoding, which zip; nothing is followed or extracted."""

import json
import zipfile

import pytest

from lab_utils import course
from lab_utils.grading import collect
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
    found = collect.lab_of(name, course.LABS)
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
    (student,) = collect.students(tmp_path)
    assert [candidate.name for candidate in student.versions[LAB.number]] == names


def test_folder_and_zip_of_one_student_count_together(tmp_path):
    (tmp_path / "甲").mkdir()
    write(tmp_path / "甲", notebook({}))
    with zipfile.ZipFile(tmp_path / "甲.zip", "w") as archive:
        archive.writestr("作业/00_quickstart (3).ipynb", json.dumps(notebook(RIGHT)))
        archive.writestr("__MACOSX/._00_quickstart (9).ipynb", "")
        archive.writestr(".ipynb_checkpoints/00_quickstart (9).ipynb", "")
    (student,) = collect.students(tmp_path)
    newest = student.versions[LAB.number][-1]
    assert newest.name == "甲.zip/作业/00_quickstart (3).ipynb"
    assert len(student.versions[LAB.number]) == 2
    assert "line_lengths" in newest.read().decode()


def test_names_that_windows_wrote_in_gbk():
    """Such a zip doesn't say UTF-8, so that zipfile reads the bytes as cp437."""
    member = zipfile.ZipInfo("作业/第一次.ipynb".encode("gbk").decode("cp437"))
    assert collect._member_name(member) == "作业/第一次.ipynb"
    member = zipfile.ZipInfo("作业.ipynb")
    member.flag_bits = 0x800
    assert collect._member_name(member) == "作业.ipynb"


def test_a_link_that_replaces_the_file_after_the_look_is_refused(tmp_path):
    """Between the look at the folder and the reading, the file becomes a link."""
    (tmp_path / "甲").mkdir()
    write(tmp_path / "甲", notebook(RIGHT))
    (student,) = collect.students(tmp_path)
    (tmp_path / "甲" / FILE).unlink()
    (tmp_path / "甲" / FILE).symlink_to("/etc/passwd")
    with pytest.raises(collect.Refused, match="链接"):
        student.versions[LAB.number][0].read()


def test_a_large_notebook_is_read_in_a_process_of_its_own():
    nb = notebook(RIGHT)
    nb["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "字" * 3_000_000}]
    data = json.dumps(nb, ensure_ascii=False).encode()
    assert len(data) > collect.QUICK_LIMIT
    read = collect.read_notebook(data)
    assert [cell.source for cell in read.cells] == [cell["source"] for cell in nb["cells"]]
    assert "清除输出" in read.notes[-1]


def test_a_large_bomb_ends_only_that_process():
    with pytest.raises(collect.Unreadable):
        collect.read_notebook(b'{"cells": [' + b"[]," * 3_000_000 + b"[]]}")


@pytest.mark.parametrize(
    "data", [b"{}", b"[]", b'"x"', b"1", b'{"cells": 1}', b'{"cells": [1]}', b"\xff\xfe\x00", b"{" * 9]
)
def test_odd_bytes_give_a_reason_in_chinese_or_an_empty_notebook(data):
    try:
        assert collect.parse(data).cells == ()
    except collect.Unreadable as problem:
        assert any("\u4e00" <= c <= "\u9fff" for c in str(problem))


def test_notebooks_of_the_old_format():
    nb = {
        "nbformat": 3,
        "worksheets": [{"cells": [{"cell_type": "code", "input": ["def f():\n", "    pass"]}]}],
    }
    assert collect.parse(json.dumps(nb).encode()).cells[0].source == "def f():\n    pass"
