"""The GPU check's dry run: all its steps, with tiny sizes, on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).with_name("check.py")


@pytest.mark.slow
def test_the_dry_run_is_green_with_every_step(tmp_path):
    environment = {**os.environ, "LAB_PROFILE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(CHECK), "--dry", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    log = (tmp_path / "check.log").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr + log[-3000:]
    found = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert {step: row["status"] for step, row in found["steps"].items()} == dict.fromkeys(
        ("a", "b", "c", "d", "d_cpu", "e", "f"), "ok"
    )
    assert found["ok"]
    assert len(found["steps"]["b"]["cases"]) == 4
    assert found["steps"]["c"]["swift_sorted"]["tokens_per_second"] > 0
    assert found["steps"]["d"]["labs"]["01"]["ok"]
    assert found["steps"]["d"]["compared_with_cpu"]["01"]["compared"] > 20


def test_an_unknown_step_is_refused(tmp_path):
    command = [sys.executable, str(CHECK), "--out", str(tmp_path), "--steps", "a,x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no step x" in done.stderr
