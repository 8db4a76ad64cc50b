"""Headless runs: what they measure, what they report, and how a failure reads."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from lab_utils import course
from lab_utils.authoring import build
from lab_utils.authoring import run as running
from lab_utils.authoring.run import TreeMemory, run
from tests.waiting import wait_until

pytestmark = pytest.mark.slow  # kernels
CHILD = """\
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time; x = b'1' * (300 << 20); time.sleep(1)"], check=True)
course.record(rows=[1, 2], name="一")"""


def test_report_holds_time_memory_and_figures(lab, edit, tmp_path):
    edit("print(time.time())", CHILD)
    said = []
    report = tmp_path / "out" / "report.json"
    (result,) = run([lab], report, say=said.append)
    assert result.ok and result.error == ""
    row = json.loads(report.read_text(encoding="utf-8"))["90"]
    assert row == {
        "lab": "90_mini",
        "ok": True,
        "seconds": result.seconds,
        "peak_mib": result.peak_mib,
        "figures": {"loss": 1.5, "rows": [1, 2], "name": "一"},
        "error": "",
    }
    assert 1 < row["seconds"] < 60
    assert 300 < row["peak_mib"] < 700, "the child's memory counts, with the kernel's"
    progress = "".join(said)
    assert '[3/5] assert double(2) == 4, "两倍应是 4" … ' in progress
    assert "✅ 90_mini" in progress and "[5/5]" not in progress


def test_failure_is_told_and_the_next_lab_still_runs(lab, edit, tmp_path):
    edit("return x + x", "return x")
    report = tmp_path / "report.json"
    results = run([lab, lab], report, say=lambda text: None)
    assert [result.ok for result in results] == [False, False]
    error = json.loads(report.read_text(encoding="utf-8"))["90"]["error"]
    assert error.startswith("第 6 格（check_double）没有跑完")
    assert "AssertionError: 两倍应是 4" in error and "\x1b" not in error
    assert results[0].figures == {"loss": 1.5}, "figures recorded before the failure are kept"
    assert results[0].seconds > 0 and results[0].peak_mib > 10


@pytest.mark.parametrize(
    ("old", "new", "seconds", "message"),
    [
        ("print(time.time())", "import os\nos._exit(3)", 600, "DeadKernelError"),
        ("print(time.time())", "time.sleep(600)", 2, "超过 2 秒"),
        ("    ### END SOLUTION\n", "", 600, "不成对"),
    ],
)
def test_other_failures_are_reported_too(lab, edit, monkeypatch, tmp_path, old, new, seconds, message):
    monkeypatch.setattr(running, "CELL_TIMEOUT", seconds)
    edit(old, new)
    report = tmp_path / "report.json"
    (result,) = run([lab], report, say=lambda text: None)
    assert not result.ok and message in result.error
    assert json.loads(report.read_text(encoding="utf-8"))["90"]["ok"] is False


def test_figures_of_another_run_are_left_alone(lab, tmp_path, monkeypatch):
    mine = tmp_path / "mine.json"
    monkeypatch.setenv("LAB_FIGURES", str(mine))
    build.build(lab)
    assert not mine.exists()


def test_optional_cells_run_when_asked(lab):
    (result,) = run([lab], optional=True, say=lambda text: None)
    assert not result.ok and "needs a network" in result.error


def test_kernel_environment(lab, edit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], "extra"]))
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "only_here.py").write_text("value = 7\n")
    lines = "import os, only_here\ncourse.record(v=only_here.value, headless=os.environ['LAB_HEADLESS'], cwd=os.getcwd())"
    edit("print(time.time())", lines)
    (result,) = run([lab], say=lambda text: None)
    assert result.figures == {"loss": 1.5, "v": 7, "headless": "1", "cwd": str(course.root() / "labs")}


def test_memory_of_an_orphan_still_counts():
    grandchild = "import time; x = b'1' * (200 << 20); time.sleep(600)"
    child = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {grandchild!r}], start_new_session=True)\n"
    child += "sys.stdin.readline()"
    parent = (
        f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {child!r}])\ntime.sleep(600)\n"
    )
    process = psutil.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE)
    memory = TreeMemory(interval=0.02)
    memory.watch(process.pid)
    try:
        wait_until(lambda: memory.peak_mib > 200)
        between, orphan = process.children(recursive=True)
        process.stdin.close()  # at which the child ends, and its own child belongs to nobody
        wait_until(lambda: not between.is_running())
        for _ in range(2):  # the first may be of a look that began before
            memory.peak_mib = 0.0
            wait_until(lambda: memory.peak_mib > 200)
        orphan.kill()
    finally:
        process.kill()
        memory.stop()
        process.wait()
