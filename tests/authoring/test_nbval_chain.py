"""nbval, as CI runs it, accepts a built solution notebook on another path and sees a changed output."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab_utils import course
from lab_utils.authoring import build
from tests.notebooks.sanitize import rules

OUTPUTS = """\
import sys, warnings
print(course.root() / "build" / "x", object())
print("1%\\r2%", flush=True)
warnings.warn("careful")
display(course.root() / "labs")"""


def _nbval(notebook: Path, root: Path) -> subprocess.CompletedProcess:
    sanitize = root / "build" / "sanitize.cfg"
    sanitize.parent.mkdir(exist_ok=True)
    sanitize.write_text(rules(root), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-sanitize-with",
        str(sanitize),
        "-rs",
        notebook.name,
    ]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=notebook.parent,
        env=dict(os.environ, LAB_ROOT=str(root), LAB_HEADLESS="1"),
        capture_output=True,
        text=True,
    )


@pytest.fixture
def elsewhere(lab, edit, tmp_path) -> Path:
    """The built course copied into another folder, whose path holds one of the course's folder names and a blank."""
    edit('print("损失函数 (loss)：", 1.5)', OUTPUTS + '\nprint("损失函数 (loss)：", 1.5)')
    build.build(lab)
    assert build.check(lab) == []
    other = tmp_path / "labs-of" / "labs" / "课程 目录" / "course"
    for folder in ("labs", "solutions", "datasets"):
        shutil.copytree(course.root() / folder, other / folder)
    return other


@pytest.mark.slow
def test_accepts_another_place_and_sees_a_changed_output(elsewhere):
    notebook = elsewhere / "solutions" / "90_mini.ipynb"
    accepted = _nbval(notebook, elsewhere)
    assert accepted.returncode == 0, accepted.stdout
    assert "4 passed, 1 skipped" in accepted.stdout
    text = notebook.read_text(encoding="utf-8")
    notebook.write_text(text.replace("(loss)： 1.5\\n", "(loss)： 1.6\\n"), encoding="utf-8")
    refused = _nbval(notebook, elsewhere)
    assert refused.returncode == 1
    assert "1 failed, 3 passed, 1 skipped" in refused.stdout
