"""No link followed, no pipe waited for, no size taken on trust."""

import os
import struct
import subprocess
import sys
import zipfile

import pytest

from lab_utils.grading import reading
from lab_utils.grading.notebook_file import Unreadable
from lab_utils.grading.reading import Refused


def test_names_that_windows_wrote_in_gbk():
    """Such a zip doesn't say UTF-8, so that zipfile reads the bytes as cp437."""
    member = zipfile.ZipInfo("作业/第一次.ipynb".encode("gbk").decode("cp437"))
    assert reading.member_name(member) == "作业/第一次.ipynb"
    member = zipfile.ZipInfo("作业.ipynb")
    member.flag_bits = 0x800
    assert reading.member_name(member) == "作业.ipynb"


def end_record(entries: int, size: int, offset: int) -> bytes:
    return struct.pack(
        "<4s4H2LH", b"PK\5\6", 0, 0, min(entries, 0xFFFF), min(entries, 0xFFFF), size, offset, 0
    )


def sparse_zip64(path, size: int) -> None:
    """A zip64 whose directory claims `size` bytes, of zeros that take no room on the disk."""
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 10**6, 10**6, size, 0))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, size, 1))
        file.write(end_record(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF))


@pytest.mark.parametrize("size", [2**22, 2**28, 2**31, 2**42])
def test_a_directory_that_claims_to_be_huge_is_not_read(size, tmp_path):
    """In a process of its own with 1 GiB, so that a failure shows as one."""
    sparse_zip64(tmp_path / "a.zip", size)
    code = (
        "import resource, sys; from pathlib import Path; from lab_utils.grading import reading\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "try: reading.zip_members(Path(sys.argv[1]), ['a.zip'])\n"
        "except reading.Refused as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert "太大" in done.stdout, done.stderr


def test_a_directory_of_very_many_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(reading.MEMBER_LIMIT + 1):
            archive.writestr(f"{number}", "")
    with pytest.raises(Refused, match="太多"):
        reading.zip_members(tmp_path, ["a.zip"])


def test_a_file_in_very_many_folders_is_refused(tmp_path):
    """Each of its folders would be kept with its whole path: one name of 60 kB took gigabytes."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/" * 30_000 + "00.ipynb", "")
    with pytest.raises(Refused, match="太深"):
        reading.zip_members(tmp_path, ["a.zip"])


def test_a_directory_with_lies_in_it_gives_a_reason(tmp_path):
    with zipfile.ZipFile(tmp_path / "good.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("00.ipynb", "x" * 10_000)
    data = (tmp_path / "good.zip").read_bytes()
    for position in range(0, len(data), 3):
        for value in (0, 0x7F, 0xFF):
            (tmp_path / "a.zip").write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            try:
                for _, number in reading.zip_members(tmp_path, ["a.zip"]):
                    assert len(reading.read_member(tmp_path, ["a.zip"], number)) <= 10_000
            except (Refused, Unreadable) as problem:
                assert any("\u4e00" <= c <= "\u9fff" for c in str(problem))  # noqa: PT017


def test_a_member_is_counted_while_it_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("00.ipynb", bytes(2**22))
    with pytest.raises(Refused, match="bomb"):
        reading.read_member(tmp_path, ["a.zip"], 0, limit=2**20)


def test_a_sparse_file_is_refused_by_its_size(tmp_path):
    with open(tmp_path / "00.ipynb", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(Refused, match="太大"):
        reading.read_file(tmp_path, ["00.ipynb"])


def test_links_on_the_way_are_not_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_text("x")
    (tmp_path / "link").symlink_to("real")
    assert reading.read_file(tmp_path, ["real", "x"]) == b"x"
    with pytest.raises(Refused, match="链接"):
        reading.read_file(tmp_path, ["link", "x"])


def test_no_descriptor_is_left_open(tmp_path):
    (tmp_path / "x").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for name in ("x", "pipe", "none"):
        for _ in range(3):
            try:
                reading.read_file(tmp_path, [name])
            except (Refused, Unreadable):
                continue
    assert len(os.listdir("/proc/self/fd")) == before
