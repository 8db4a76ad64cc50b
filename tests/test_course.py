"""The manifest, the folders it points at, and the figures that labs record."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from lab_utils import course


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A course folder of its own, with one data set, found through `$LAB_ROOT`."""
    for folder in ("labs", "datasets/classical_modern", "solutions"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setenv("LAB_ROOT", str(tmp_path))
    monkeypatch.delenv("LAB_OUTPUT", raising=False)
    return tmp_path.resolve()


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """The file that `record` writes."""
    path = tmp_path / "run" / "figures.json"
    monkeypatch.setenv("LAB_FIGURES", str(path))
    return path


def test_the_manifest_is_complete_and_consistent():
    numbers = [entry.number for entry in course.LABS]
    assert numbers == sorted(set(numbers))
    for entry in course.LABS:
        for field in dataclasses.fields(entry):
            assert getattr(entry, field.name) or field.name == "requires", (entry.name, field.name)
        assert set(entry.minutes) == set(entry.memory_gib) == {"cpu", "gpu"}
        assert set(entry.summary) == {"zh", "en"}
        assert entry.difficulty in ("入门", "进阶", "挑战")
        assert 0 < entry.minutes["cpu"] <= 6, "no lab takes over six minutes on a CPU"
        assert all(n in numbers and n < entry.number for n in entry.requires)
        assert all(name.isidentifier() and points > 0 for name, points in entry.points.items())
    assert sum(entry.minutes["cpu"] for entry in course.LABS) < 25


@pytest.mark.parametrize("wanted", ["05", "swift_qlora", "05_swift_qlora"])
def test_a_lab_is_found_by_number_slug_and_name(wanted):
    assert course.lab(wanted).name == "05_swift_qlora"


def test_an_unknown_lab_lists_the_known_ones():
    with pytest.raises(ValueError, match="'77'.*00_quickstart.*05_swift_qlora"):
        course.lab("77")


def test_the_root_is_found_upwards_from_a_deep_folder(checkout, monkeypatch):
    deep = checkout / "labs" / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.delenv("LAB_ROOT")
    monkeypatch.chdir(deep)
    assert course.root() == checkout


def test_a_wrong_lab_root_is_refused_though_the_working_directory_is_right(checkout, tmp_path, monkeypatch):
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("LAB_ROOT", str(tmp_path / "labs"))
    with pytest.raises(FileNotFoundError, match="LAB_ROOT"):
        course.root()


def test_no_course_folder_anywhere_says_how_to_name_one(tmp_path, monkeypatch):
    monkeypatch.delenv("LAB_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(course, "__file__", str(tmp_path / "site" / "lab_utils" / "course.py"))
    with pytest.raises(FileNotFoundError, match="export LAB_ROOT="):
        course.root()


def test_a_data_set_is_a_folder_of_the_course(checkout):
    assert course.dataset("classical_modern") == checkout / "datasets" / "classical_modern"
    with pytest.raises(FileNotFoundError, match="是不是 'classical_modern'"):
        course.dataset("classical_moden")


def test_the_output_of_a_lab_is_a_created_folder_of_its_own(checkout, tmp_path, monkeypatch):
    assert course.output("05") == checkout / "build" / "labs" / "05_swift_qlora"
    monkeypatch.setenv("LAB_OUTPUT", str(tmp_path / "elsewhere"))
    folders = {course.output("00"), course.output("05")}
    assert folders == {tmp_path / "elsewhere" / name for name in ("00_quickstart", "05_swift_qlora")}
    assert all(folder.is_dir() for folder in folders)


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


def test_the_card_shows_what_the_manifest_says():
    text = course.card("05")
    entry = course.lab("05")
    assert text.startswith("# 05 用 SWIFT 做 QLoRA 微调\n")
    assert [word for word in ("目标", "预计时间", "显存或内存", "难度", "前置") if word not in text] == []
    assert all(f"- {goal}\n" in text for goal in entry.goals)
    assert f"CPU 约 {entry.minutes['cpu']} 分钟；GPU 约 {entry.minutes['gpu']} 分钟（估计）" in text
    assert f"显存约 {entry.memory_gib['gpu']:g} GiB" in text
    assert "| 难度 | 进阶 |" in text
    assert "| 前置 | 00 五分钟看懂微调 |" in text
    assert "| 前置 | 无 |" in course.card("00")


@pytest.mark.parametrize(("lang", "title"), [("zh", "五分钟看懂微调"), ("en", "Fine-tuning in five minutes")])
def test_the_readme_table_has_a_row_for_each_lab(lang, title):
    lines = course.readme_table(lang).splitlines()
    assert len(lines) == 2 + len(course.LABS)
    assert {line.count("|") for line in lines} == {6}
    assert f"[{title}](labs/00_quickstart.ipynb)" in lines[2]
    assert all(entry.summary[lang] in line for entry, line in zip(course.LABS, lines[2:], strict=True))


def test_the_readme_table_has_two_languages():
    with pytest.raises(ValueError, match="'fr'"):
        course.readme_table("fr")


def test_the_manifest_imports_nothing_but_the_standard_library():
    script = (
        "import sys; from lab_utils import course;"
        "own = sys.stdlib_module_names | {'lab_utils', '__main__'};"
        "print(sorted({m.split('.')[0] for m in sys.modules} - own))"
    )
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(_REPOSITORY)!r}); {script}",
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


_REPOSITORY = course.Path(course.__file__).parent.parent
