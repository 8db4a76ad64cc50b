import pytest

from lab_utils import course
from lab_utils.authoring import readme


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for folder in ("datasets", "labs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "README.md").write_text("top\n<!-- labs:begin -->\nold\n<!-- labs:end -->\nend\n")
    monkeypatch.setenv("LAB_ROOT", str(tmp_path))
    return tmp_path


def test_update_puts_the_manifest_between_the_marks_and_nowhere_else(checkout):
    assert [problem.code for problem in readme.check()] == ["table"]
    readme.update()
    text = (checkout / "README.md").read_text()
    assert text == f"top\n<!-- labs:begin -->\n{course.readme_table('en')}<!-- labs:end -->\nend\n"
    assert readme.check() == []


def test_missing_marks_are_an_error():
    with pytest.raises(ValueError, match="labs:begin"):
        readme.with_table("no marks", "en")
