"""Which lab a name means, and which of several names is the newest."""

import pytest

from lab_utils import course
from lab_utils.grading import versions

LAB = course.lab("00")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("05_swift_qlora.ipynb", "05"),
        ("05.ipynb", "05"),
        ("05-作业.ipynb", "05"),
        ("张三 swift_qlora 终版.ipynb", "05"),
        ("00_quickstart-Copy1.ipynb", "00"),
        ("01班_李四_00_quickstart.ipynb", "00"),
        ("11月28日 00-quickstart.ipynb", "00"),
        ("09号_03_quantization_v2.ipynb", "03"),
        ("2024年05月.ipynb", None),
        ("055.ipynb", None),
        ("Untitled.ipynb", None),
    ],
)
def test_the_lab_is_in_the_name(name, number):
    found = versions.lab_of(name, course.LABS)
    assert (found and found.number) == number


NEWEST_LAST = {
    "student numbers are no versions": ["q_2023012345.ipynb", "q_2023012345_v2.ipynb"],
    "wherever they stand": ["q_v2_2023012345.ipynb", "q_v10_2023012345.ipynb"],
    "a download": ["q.ipynb", "q (1).ipynb", "q (2).ipynb"],
    "in full width": ["q.ipynb", "q（1）.ipynb"],
    "by day": ["q_2026-11-30.ipynb", "q_2026-12-01.ipynb"],
    "by day, compact": ["q_20261130.ipynb", "q_20261201.ipynb"],
    "by day in Chinese": ["q_2026年9月30日.ipynb", "q_2026年10月1日.ipynb"],
    "by month and day": ["q_11月30日.ipynb", "q_12月1日.ipynb"],
    "by hour": ["q_20261201_0900.ipynb", "q_20261201_1530.ipynb"],
    "by day before version": ["q_20261130_v2.ipynb", "q_20261201_v1.ipynb"],
    "versions before copies": ["q_v2 (1).ipynb", "q_v3.ipynb"],
    "a copy of a version": ["q_v2.ipynb", "q_v2 (1).ipynb"],
    "points in versions": ["q_v1.9.ipynb", "q_v1.10.ipynb"],
    "versions in words": ["q_第一版.ipynb", "q_第二版.ipynb"],
    "the last one": ["q_v3.ipynb", "q_终版.ipynb"],
    "Jupyter's copies": ["q.ipynb", "q-Copy1.ipynb", "q-Copy2.ipynb"],
    "Windows' copies": ["q.ipynb", "q - 副本.ipynb", "q - 副本 (2).ipynb"],
    "an old one": ["旧/q.ipynb", "q.ipynb"],
    "a backup": ["q_backup.ipynb", "q.ipynb"],
    "by folder": ["v1/q.ipynb", "v2/q.ipynb"],
    "by zip": ["hw_v1.zip/q.ipynb", "hw_v2.zip/q.ipynb"],
    "plain numbers": ["q_9.ipynb", "q_10.ipynb"],
}


@pytest.mark.parametrize("kind", NEWEST_LAST)
def test_the_newest_is_told_by_the_name(kind):
    names = [name.replace("q", LAB.name) for name in NEWEST_LAST[kind]]
    for order in (names, names[::-1]):
        choice = versions.choose(order, LAB, "张三")
        assert [order[i] for i in choice.order] == names
        assert choice.certain, choice.reason


def test_a_student_number_that_looks_like_a_date_is_none():
    names = [f"{LAB.name}_20230123.ipynb", f"{LAB.name}_v2.ipynb"]
    assert versions.choose(names, LAB, "20230123-张三").order == (0, 1)


@pytest.mark.parametrize(
    "names",
    [
        ["q.ipynb", "q_2023012345.ipynb"],
        ["a.zip/q.ipynb", "b.zip/q.ipynb"],
        ["q_v2.ipynb", "q_20261201.ipynb"],
        ["q_20261101_v3.ipynb", "q_20261201_v2.ipynb", "q_v9.ipynb"],
    ],
)
def test_where_names_do_not_tell_it_is_said(names):
    names = [name.replace("q", LAB.name) for name in names]
    for order in (names, names[::-1]):
        choice = versions.choose(order, LAB)
        assert not choice.certain
        assert order[choice.order[-1]] == names[versions.choose(names, LAB).order[-1]]
