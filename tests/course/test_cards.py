"""What is shown of the manifest: the opening card, the README's table."""

import pytest

from lab_utils import course


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
