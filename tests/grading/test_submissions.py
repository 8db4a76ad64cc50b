"""Which files are whose, and versions of which lab; nothing is followed or extracted, nobody is lost."""

import json
import os
import socket
import zipfile

import pytest

from lab_utils.grading import reading, submissions
from tests.grading.hostile import LAB, RIGHT, notebook, write


def only(root) -> submissions.Student:
    (student,) = submissions.walk(root).students
    return student


def test_the_newest_version_is_the_last(tmp_path):
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
    assert [entry.shown for entry in only(tmp_path).versions[LAB.number]] == names


def test_folder_and_zip_of_one_student_count_together(tmp_path):
    (tmp_path / "甲").mkdir()
    write(tmp_path / "甲", notebook({}))
    with zipfile.ZipFile(tmp_path / "甲.zip", "w") as archive:
        archive.writestr("作业/00_quickstart (3).ipynb", json.dumps(notebook(RIGHT)))
        archive.writestr("__MACOSX/._00_quickstart (9).ipynb", "")
        archive.writestr(".ipynb_checkpoints/00_quickstart (9).ipynb", "")
    student = only(tmp_path)
    newest = student.versions[LAB.number][-1]
    assert newest.shown == "甲.zip/作业/00_quickstart (3).ipynb"
    assert len(student.versions[LAB.number]) == 2
    assert "line_lengths" in newest.read().decode()


def test_a_link_that_replaces_the_file_after_the_look_is_refused(tmp_path):
    """Between the look at the folder and the reading, the file, or its folder, becomes a link."""
    (tmp_path / "in" / "甲" / "里").mkdir(parents=True)
    write(tmp_path / "in" / "甲" / "里", notebook(RIGHT))
    student = only(tmp_path / "in")
    (tmp_path / "in" / "甲" / "里").rename(tmp_path / "other")
    (tmp_path / "in" / "甲" / "里").symlink_to(tmp_path / "other")
    with pytest.raises(reading.Refused, match="链接"):
        student.versions[LAB.number][0].read()


NAMES = {
    "GBK": ("张三".encode("gbk"), "张三"),
    "no encoding": (b"a\xff\xfe\x00b".replace(b"\x00", b"\x81"), "a"),
    "invisible": ("李\u200b四".encode(), "李[U+200B]四"),
    "direction": ("李\u061c四\u202e".encode(), "李[U+061C]四[U+202E]"),
    "noncharacter": ("李\ufffe".encode(), "李[U+FFFE]"),
    "tag": ("李\U000e0041".encode(), "李[U+E0041]"),
    "terminal": (b"\x1b[2J\x1b]0;x\x07", "[U+001B][2J[U+001B]]0;x[U+0007]"),
    "filler": ("李\u3164".encode(), "李[U+3164]"),
    "rare character": ("𠮷\U00031350".encode(), "𠮷\U00031350"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_every_name_can_be_written_and_printed(kind, tmp_path):
    raw, shown = NAMES[kind]
    os.mkdir(os.fsencode(tmp_path) + b"/" + raw)
    name = only(tmp_path).name
    assert name.startswith(shown)
    assert (name.encode("utf-8") and name.isprintable()) or kind == "rare character"


def test_names_that_look_the_same_stay_apart(tmp_path):
    names = ["张三", "张三 ", "张三\u3000", "é", "e\u0301", "x\u00adx", "xx", "x\u2060x"]
    for name in names:
        (tmp_path / name).mkdir()
    os.mkdir(os.fsencode(tmp_path) + b"/" + "张三".encode("gbk"))
    shown = [student.name for student in submissions.walk(tmp_path).students]
    assert len(set(shown)) == len(names) + 1 and {"张三", "xx", "é"} <= set(shown)
    assert shown == [student.name for student in submissions.walk(tmp_path).students]


@pytest.mark.parametrize("name", ["a.zip", "00_quickstart.ipynb", "x.txt", "no suffix", "a.rar"])
def test_pipes_and_sockets_of_any_name_are_not_opened(name, tmp_path):
    """Opening a pipe that nobody writes to would wait for ever."""
    (tmp_path / "甲").mkdir()
    os.mkfifo(tmp_path / "甲" / name)
    os.mkfifo(tmp_path / name)
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path / "甲")
        try:
            server.bind(f"s-{name}")
        finally:
            os.chdir(here)
    for student in submissions.walk(tmp_path).students:
        assert not student.versions
        assert {problem.status for problem in student.problems} == {"refused"}
        assert "不是普通文件" in student.problems[0].reason


REASONS = {
    "00_quickstart.ipynb.txt": ("unreadable", "扩展名"),
    "00_quickstart.ipynb (1)": ("unreadable", "扩展名"),
    "00_quickstart.py": ("missing", "00_quickstart.py"),
    "00_quickstart.html": ("missing", "00_quickstart.html"),
    "作业.pdf": ("missing", "作业.pdf"),
    "Untitled.ipynb": ("unreadable", "看不出是哪个实验"),
    "作业.7z": ("unreadable", "zip"),
}


@pytest.mark.parametrize("name", REASONS)
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_no_notebook_is_told(name, zipped, tmp_path):
    status, words = REASONS[name]
    (tmp_path / "甲").mkdir()
    if zipped:
        with zipfile.ZipFile(tmp_path / "甲" / "a.zip", "w") as archive:
            archive.writestr(f"里/{name}", "{}")
    else:
        (tmp_path / "甲" / name).write_text("{}")
    (problem,) = only(tmp_path).problems_of(LAB.number)
    assert problem.status == status and words in problem.reason


def test_a_zip_in_a_zip_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "甲.zip", "w") as archive:
        archive.writestr("作业/00_quickstart.zip", b"PK")
    (problem,) = only(tmp_path).problems_of(LAB.number)
    assert problem.status == "unreadable" and "压缩包里面还有压缩包" in problem.reason


def test_a_dotted_folder_is_a_student_and_what_systems_leave_is_not(tmp_path):
    for name in (".dotted", "__MACOSX", ".ipynb_checkpoints", ".git"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, notebook(RIGHT))
    (tmp_path / ".DS_Store").write_text("")
    (tmp_path / "._甲.zip").write_text("")
    found = submissions.walk(tmp_path)
    assert [student.name for student in found.students] == [".dotted"]
    assert found.students[0].versions[LAB.number]
    assert set(found.ignored) == {"__MACOSX", ".ipynb_checkpoints", ".git", ".DS_Store", "._甲.zip"}


def test_a_folder_that_can_not_be_read_is_told(tmp_path):
    (tmp_path / "甲").mkdir(mode=0)
    if os.access(tmp_path / "甲", os.R_OK):
        pytest.skip("root may read every folder")
    (problem,) = only(tmp_path).problems
    assert problem.status == "unreadable" and "读不出来" in problem.reason


def test_the_files_in_all_zips_together_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "ENTRY_LIMIT", 50)
    (tmp_path / "甲").mkdir()
    write(tmp_path / "甲", notebook(RIGHT))
    for number in range(9):
        with zipfile.ZipFile(tmp_path / "甲" / f"z{number}.zip", "w") as archive:
            for member in range(20):
                archive.writestr(f"{member}", "")
    student = only(tmp_path)
    assert student.versions[LAB.number] and any("太多" in problem.reason for problem in student.problems)
    assert len(student.entries) < 80


def test_too_many_files_are_refused_and_those_before_are_kept(tmp_path):
    (tmp_path / "甲" / "很多").mkdir(parents=True)
    write(tmp_path / "甲", notebook(RIGHT))
    for number in range(submissions.MEMBER_LIMIT + 1):
        (tmp_path / "甲" / "很多" / f"{number}.txt").touch()
    student = only(tmp_path)
    assert student.versions[LAB.number] and any("太多" in problem.reason for problem in student.problems)
