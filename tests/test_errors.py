"""The one form of error: Chinese sentences, a place, a near name, and no traceback in a notebook."""

import copy
import pickle

import pytest

from lab_utils.errors import InvalidValue, LabError, NotFound, Unavailable, nearest


@pytest.mark.parametrize("kind", [LabError, InvalidValue, NotFound, Unavailable])
def test_an_error_says_where_what_and_what_to_do(kind):
    error = kind("没有这个文件夹", "请检查路径！", "labs/a.ipynb 第 2 格")
    assert str(error) == "labs/a.ipynb 第 2 格：没有这个文件夹。请检查路径！"
    assert str(kind("没有")) == "没有。"
    assert str(kind("坏了", where="f")) == "f：坏了。"
    assert error._render_traceback_() == [f"❌ {kind.__name__}: {error}"]
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(twin), str(twin), twin.where) == (kind, str(error), error.where)


def test_errors_are_kin_to_the_plain_ones():
    assert issubclass(InvalidValue, ValueError)
    assert issubclass(NotFound, FileNotFoundError)
    assert issubclass(Unavailable, RuntimeError)


def test_a_near_name_is_asked_about_whatever_its_case():
    assert nearest("qwen3-0.6b", ["Qwen3-0.6B", "ChatGLM3-6B"]) == "是不是 'Qwen3-0.6B'？"
    assert nearest("zebra", ["Qwen3-0.6B"]) == ""
