"""The course works wherever its folder lies: grading and serving in copies with environments of their own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lab_utils.setup_environment import ROOT, runs_vllm_cpu
from tests.grading.hostile import LAB, RIGHT, WRONG, notebook, write

PLACES = {
    "blank and Chinese": Path("课程 目录", "fine tuning"),
    "deep": Path(*["很深的文件夹" * 4] * 6),  # longer than a Unix socket's name may be
}
SERVE = """
from lab_utils import models, serving
with serving.serve(models.SHIPPED, max_model_len=128) as server:
    reply = server.client().completions.create(model=server.names[0], prompt="春", max_tokens=4, temperature=0)
    print("served", len(reply.choices[0].text))
"""


def _copy_environment(name: str, root: Path) -> None:
    """The checkout's environment `name` in the copy `root`, by hard links where they can be made."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:  # another file system
            shutil.copy2(source, target, follow_symlinks=False)

    shutil.copytree(ROOT / name, root / name, symlinks=True, copy_function=link)
    (site,) = (root / name).glob("lib/python*/site-packages")
    for file in site.glob("__editable__*"):  # they name the checkout this one was copied from
        file.unlink()
    (site / "course.pth").write_text(f"{root}\n", encoding="utf-8")


@pytest.fixture(scope="module", params=PLACES)
def copy(request, tmp_path_factory) -> Path:
    """A copy of the repository, below the system's folder for temporary files, as a clone would lie there."""
    root = tmp_path_factory.mktemp("anywhere") / PLACES[request.param]
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    _copy_environment(".venv", root)
    yield root
    shutil.rmtree(root)


def _python(root: Path, program: str, *arguments: str) -> str:
    """What a program prints, run by the copy's own Python in the copy."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "LAB_ROOT")}
    done = subprocess.run(
        [root / ".venv" / "bin" / "python", "-c", program, *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_grading(copy):
    assert _python(copy, "import lab_utils; print(lab_utils.__file__)").startswith(str(copy))
    for student, answers in (("张三", RIGHT), ("李 四", WRONG)):
        folder = copy / "build" / "作业 一" / student
        folder.mkdir(parents=True)
        write(folder, notebook(answers))
    _python(
        copy,
        "from lab_utils.cli import app; app()",
        *("grade", "build/作业 一", "--out", "build/成绩 一", "--lab", LAB.number, "--workers", "1"),
    )
    lines = (copy / "build" / "成绩 一" / "grades.csv").read_text(encoding="utf-8-sig").splitlines()
    full = sum(LAB.points.values())
    by_student = {line.split(",")[0]: line for line in lines[1:]}
    assert f"{full}" in by_student["张三"] and set(by_student) == {"张三", "李 四"}
    assert "graded" in by_student["张三"] and "graded" in by_student["李 四"]


@pytest.mark.slow
def test_serving(copy):
    if not runs_vllm_cpu():
        pytest.skip("vLLM's CPU build isn't for this machine")
    if "课程" not in str(copy):
        pytest.skip("a server is started in one place; it takes half a minute")
    _copy_environment(".venv-vllm", copy)
    assert "served" in _python(copy, SERVE)
