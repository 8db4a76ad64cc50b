"""What is written appears whole or not at all."""

import pytest

from lab_utils.files import GrowingFile, atomic_file, atomic_folder, write_atomic


def test_atomic_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def break_off(atomic, path):
    """Make half of what was begun at `path`."""
    with atomic(path) as made:
        made.mkdir()
        raise OSError("full disk")


def test_a_folder_is_not_there_until_it_is_whole_and_takes_the_place_of_the_old_one(tmp_path):
    folder = tmp_path / "models" / "mine"
    for content in ("first", "second"):
        with atomic_folder(folder) as made:
            assert made.name == "mine"
            made.mkdir()
            (made / content).touch()
            made.with_name("mine.log").touch()
            assert not (folder / content).exists()
        assert [p.name for p in folder.iterdir()] == [content]
        assert [p.name for p in folder.parent.iterdir()] == ["mine"]


def test_a_folder_that_another_process_has_made_meanwhile_can_be_kept(tmp_path):
    with atomic_folder(tmp_path / "mine", replace=False) as made:
        made.mkdir()
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "theirs").touch()
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["theirs"]


def test_a_folder_that_could_not_be_made_leaves_the_old_one(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(OSError, match="full disk"):
        break_off(atomic_folder, folder)
    with pytest.raises(FileNotFoundError), atomic_folder(folder):
        pass
    assert [p.name for p in folder.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_file_made_by_another_program_appears_whole(tmp_path):
    file = tmp_path / "deep" / "model.gguf"
    with atomic_file(file) as made:
        made.write_text("weights")
        assert not file.exists()
    with pytest.raises(OSError, match="full disk"):
        break_off(atomic_file, file)
    assert file.read_text() == "weights"
    assert [p.name for p in file.parent.iterdir()] == ["model.gguf"]


def test_of_a_growing_file_each_look_reads_what_is_new(tmp_path):
    path = tmp_path / "log"
    file = GrowingFile(path)
    assert file.read_new() == b""
    for text in ("春".encode()[:2], "春".encode()[2:] + b"\n"):
        with path.open("ab") as out:
            out.write(text)
        assert file.read_new() == text
        assert file.read_new() == b""
    path.write_bytes(b"new")
    assert file.read_new() == b"new"
