"""What isn't JSON Lines in UTF-8 is named by line; what is written is whole or not at all."""

import os

import pytest

from lab_utils.data.jsonl import DataError, read_jsonl, write_jsonl
from lab_utils.data.validate import validate_messages
from lab_utils.errors import LabError
from tests.data.rows import GOOD, lines, problems


def test_bad_json_names_line_17(tmp_path):
    (problem,) = problems(tmp_path, lines(*[GOOD] * 16, '{"messages": [', GOOD))
    assert problem.line == 17 and "JSON" in problem.wrong and problem.fix


@pytest.mark.parametrize(
    ("encoding", "called"), [("gb18030", "GBK"), ("utf-8-sig", "BOM"), ("utf-16", "UTF-16")]
)
def test_wrong_encoding_is_named_and_the_fix_works(tmp_path, encoding, called):
    (problem,) = problems(tmp_path, lines(GOOD).encode(encoding))
    assert called in problem.wrong
    code = problem.fix[problem.fix.index("Path(") : problem.fix.rindex(")") + 1]
    code = code.replace("Path('train.jsonl')", "path")
    exec(code, {"path": tmp_path / "train.jsonl"})  # the advice itself, on the broken file
    assert validate_messages(tmp_path / "train.jsonl").rows == 1


@pytest.mark.parametrize(("text", "word"), [("", "空"), ("[" + lines(GOOD) + "]", "数组")])
def test_whole_file_problems(tmp_path, text, word):
    (problem,) = problems(tmp_path, text)
    assert word in problem.wrong


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="没有这个文件"):
        validate_messages(tmp_path / "none.jsonl")


def test_write_jsonl_is_whole_or_not_at_all(tmp_path):
    path = write_jsonl(tmp_path / "new" / "a.jsonl", [GOOD, {"text": "行\n分隔\u2028符"}])
    before = path.read_bytes()
    os.link(path, tmp_path / "old.jsonl")
    write_jsonl(path, [GOOD])
    assert (tmp_path / "old.jsonl").read_bytes() == before  # a new file took the old one's place
    os.replace(tmp_path / "old.jsonl", path)
    assert read_jsonl(path) == [GOOD, {"text": "行\n分隔\u2028符"}]
    for bad, error in (
        ({"x": {1}}, TypeError),
        ({"x": float("nan")}, ValueError),
        ({"x": "\ud800"}, ValueError),
    ):
        with pytest.raises(error):
            write_jsonl(path, [GOOD, bad])
        assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["a.jsonl"]


def test_the_error_is_shown_without_a_traceback(tmp_path):
    with pytest.raises(LabError) as caught:
        read_jsonl(tmp_path / "none.jsonl")
    assert isinstance(caught.value, ValueError) and str(caught.value).endswith("。")
    assert caught.value._render_traceback_() == [f"❌ DataError: {caught.value}"]
