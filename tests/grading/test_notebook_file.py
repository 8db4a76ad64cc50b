"""Bytes to cells: encodings, old formats, large files, and what is no notebook."""

import json

import pytest

from lab_utils.grading import notebook_file
from tests.grading.hostile import RIGHT, notebook


def test_a_large_notebook_is_read_in_a_process_of_its_own():
    nb = notebook(RIGHT)
    nb["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "字" * 3_000_000}]
    data = json.dumps(nb, ensure_ascii=False).encode()
    assert len(data) > notebook_file.QUICK_LIMIT
    read = notebook_file.read_notebook(data)
    assert [cell.source for cell in read.cells] == [cell["source"] for cell in nb["cells"]]
    assert "清除输出" in read.notes[-1]


def test_nothing_in_the_folder_where_the_grader_stands_is_imported(tmp_path, monkeypatch):
    """A student's folder may hold modules of the names that the reading process imports."""
    for name in ("json", "resource", "difflib", "dataclasses", "lab_utils", "hashlib"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'LEAK')!r}, 'w').write('x')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    nb = notebook(RIGHT)
    nb["cells"][0]["source"] = "x" * (notebook_file.QUICK_LIMIT + 1)
    assert len(notebook_file.read_notebook(json.dumps(nb).encode()).cells) == len(nb["cells"]) - 1
    assert not (tmp_path / "LEAK").exists()


def test_a_large_bomb_ends_only_that_process():
    with pytest.raises(notebook_file.Unreadable):
        notebook_file.read_notebook(b'{"cells": [' + b"[]," * 3_000_000 + b"[]]}")


@pytest.mark.parametrize("data", [b"{}", b"[]", b'"x"', b"1", b'{"cells": 1}', b"\xff\xfe\x00", b"{" * 9])
def test_odd_bytes_give_a_reason_in_chinese(data):
    with pytest.raises(notebook_file.Unreadable, match="[\u4e00-\u9fff]"):
        notebook_file.parse(data)


def test_a_cell_that_is_none_is_left_out():
    read = notebook_file.parse(b'{"cells": [1]}')
    assert read.cells == () and "不是对象" in read.notes[0]


def test_notebooks_of_the_old_format():
    nb = {
        "nbformat": 3,
        "worksheets": [{"cells": [{"cell_type": "code", "input": ["def f():\n", "    pass"]}]}],
    }
    assert notebook_file.parse(json.dumps(nb).encode()).cells[0].source == "def f():\n    pass"


def test_whatever_json_it_holds_it_is_read_or_has_a_reason():
    odd = [b'{"worksheets": [{"cells": 1}]}', b'{"worksheets": [{"cells": {"a": 1}}, 2]}']
    odd += [b'{"cells": [{"id": ' + b"[" * depth + b"]" * depth + b"}]}" for depth in range(200, 1000)]
    for data in odd:
        try:
            assert notebook_file.read_notebook(data).cells
        except notebook_file.Unreadable as problem:
            assert problem.what  # noqa: PT017


def test_of_endless_prose_only_the_beginning_is_kept():
    cells = [{"cell_type": "markdown", "source": "诗" * 199_000} for _ in range(30)]
    cells.append({"cell_type": "code", "source": "x = 1"})
    read = notebook_file.read_notebook(json.dumps({"cells": cells}, ensure_ascii=False).encode())
    assert sum(len(cell.source) for cell in read.cells) <= notebook_file.CODE_LIMIT + 5
    assert read.cells[0].source and read.cells[-1].source == "x = 1"
