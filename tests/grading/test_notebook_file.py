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


def test_a_large_bomb_ends_only_that_process():
    with pytest.raises(notebook_file.Unreadable):
        notebook_file.read_notebook(b'{"cells": [' + b"[]," * 3_000_000 + b"[]]}")


@pytest.mark.parametrize(
    "data", [b"{}", b"[]", b'"x"', b"1", b'{"cells": 1}', b'{"cells": [1]}', b"\xff\xfe\x00", b"{" * 9]
)
def test_odd_bytes_give_a_reason_in_chinese_or_an_empty_notebook(data):
    try:
        assert notebook_file.parse(data).cells == ()
    except notebook_file.Unreadable as problem:
        assert any("\u4e00" <= c <= "\u9fff" for c in str(problem))


def test_notebooks_of_the_old_format():
    nb = {
        "nbformat": 3,
        "worksheets": [{"cells": [{"cell_type": "code", "input": ["def f():\n", "    pass"]}]}],
    }
    assert notebook_file.parse(json.dumps(nb).encode()).cells[0].source == "def f():\n    pass"
