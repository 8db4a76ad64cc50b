"""What labs record: merged, plain JSON, and never half a file."""

import json

import numpy as np
import pytest

from lab_utils import course


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """The file that `record` writes."""
    path = tmp_path / "run" / "figures.json"
    monkeypatch.setenv("LAB_FIGURES", str(path))
    return path


def test_figures_merge_and_a_later_value_wins(figures):
    course.record(loss=[2.5, 1.25], name="小诗")
    course.record(loss=np.array([0.5], dtype=np.float32), count=np.int64(3), nested={"a": (1, None, True)})
    assert json.loads(figures.read_text(encoding="utf-8")) == {
        "loss": [0.5],
        "name": "小诗",
        "count": 3,
        "nested": {"a": [1, None, True]},
    }
    assert [file.name for file in figures.parent.iterdir()] == ["figures.json"], "a temporary file was left"


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (float("nan"), "score"),
        ([1.0, float("inf")], r"score\[1\]"),
        (np.array([[0.0, np.nan]]), r"score\[0\]\[1\]"),
        ({"a": {1, 2}}, r"score\['a'\]"),
        ({1: "a"}, "score"),
        (object(), "object"),
        (np.complex64(1j), "complex"),
    ],
)
def test_a_figure_json_cannot_hold_is_refused_and_nothing_is_written(figures, value, where):
    course.record(kept=1)
    with pytest.raises(ValueError, match=where):
        course.record(other=2, score=value)
    assert json.loads(figures.read_text()) == {"kept": 1}


def test_a_bad_figure_is_refused_even_when_nothing_is_recorded(monkeypatch):
    monkeypatch.delenv("LAB_FIGURES", raising=False)
    course.record(fine=1)
    with pytest.raises(ValueError, match="score"):
        course.record(score=float("nan"))


@pytest.mark.parametrize("content", ['{"half": ', "[1, 2]"])
def test_a_damaged_figures_file_is_not_overwritten(figures, content):
    figures.parent.mkdir()
    figures.write_text(content)
    with pytest.raises(ValueError, match=r"figures\.json"):
        course.record(a=1)
    assert figures.read_text() == content
