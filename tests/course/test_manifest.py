"""The manifest: complete, consistent, read from a file that says what is wrong with it."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from lab_utils import course
from lab_utils.course import manifest

REPOSITORY = Path(__file__).resolve().parents[2]
GOOD = manifest.MANIFEST.read_text(encoding="utf-8")


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
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); {script}",
    ]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_an_unknown_lab_near_a_known_one_is_asked_about():
    with pytest.raises(ValueError, match="是不是 'swift_qlora'"):
        course.lab("swift_qlra")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[[labs]]", "[[labs", "读不出来"),
        ('slug = "parameters"', "", "第 2 个实验 01：没有写 slug"),
        ('slug = "parameters"', 'slug = "parameters"\ncolour = "red"', "不认识 'colour'"),
        ('slug = "parameters"', 'slug = "parameters"\ndificulty = "入门"', "是不是 'difficulty'"),
        ('slug = "parameters"', "slug = 1", "slug 应该是非空的字符串"),
        ("minutes = { cpu = 2, gpu = 2 }", "minutes = { cpu = 2 }", "minutes 应该正好写明 cpu 和 gpu"),
        ("minutes = { cpu = 2, gpu = 2 }", 'minutes = { cpu = 2, gpu = "2" }', "minutes 应该正好写明"),
        ('difficulty = "入门"', 'difficulty = "容易"', "difficulty 只能是 入门、进阶、挑战"),
        ('requires = ["01"]', 'requires = ["08"]', "requires 里的 '08'"),
        ("linear_params = 1", "linear_params = 0", "points 应该是 练习 = 正整数"),
        ("linear_params = 1", "linear_params = true", "points 应该是 练习 = 正整数"),
        ('number = "01"', 'number = "00"', "'00' 应该排在前一个实验之后"),
    ],
)
def test_a_faulty_manifest_names_the_lab_and_the_fault(tmp_path, old, new, complaint):
    assert old in GOOD
    file = tmp_path / "manifest.toml"
    file.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(manifest.ManifestError, match=complaint) as caught:
        manifest.read(file)
    assert str(file) in str(caught.value)


def test_a_manifest_that_is_missing_or_empty_is_refused(tmp_path):
    with pytest.raises(manifest.ManifestError, match="读不出来"):
        manifest.read(tmp_path / "none.toml")
    for content in ("", "labs = 1", "[[labs]]\n[[lessons]]"):
        (tmp_path / "other.toml").write_text(content)
        with pytest.raises(manifest.ManifestError, match=r"只能有 \[\[labs\]\]，至少一个"):
            manifest.read(tmp_path / "other.toml")
