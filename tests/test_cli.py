"""The `labs` command away from any lab: help, doctor, translation of old commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lab_utils
from lab_utils.cli import app
from lab_utils.setup_environment import find_vllm

runner = CliRunner()


def test_help_lists_the_commands_and_loads_nothing_heavy():
    code = (
        "import sys\nfrom lab_utils.cli import app\ntry:\n    app(['--help'])\nfinally:\n"
        "    print(sorted({'torch', 'transformers', 'swift', 'nbclient', 'nbformat', 'IPython', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("doctor", "build", "lint", "run", "serve", "translate"):
        assert command in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_no_command_shows_the_help():
    assert "doctor" in runner.invoke(app, []).output


def test_doctor_speaks_to_people_and_to_programs():
    spoken = runner.invoke(app, ["doctor"])
    assert "Python" in spoken.output
    written = runner.invoke(app, ["doctor", "--json"])
    report = json.loads(written.stdout)
    assert {"ok", "rows"} <= set(report)
    assert written.exit_code == spoken.exit_code == (0 if report["ok"] else 1)


def test_translate_gives_the_new_command_and_the_reasons():
    result = runner.invoke(app, ["translate", "swift sft --sft_type lora --model_type qwen2-7b"])
    assert result.exit_code == 0
    assert "--tuner_type lora" in result.stdout and "sft_type" in result.stdout.split("\n\n", 1)[1]


def test_translate_refuses_what_is_no_swift_command():
    result = runner.invoke(app, ["translate", "python train.py"])
    assert result.exit_code == 2
    assert "swift" in result.stderr and "Traceback" not in result.output


def test_outside_a_course_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_ROOT", str(tmp_path))
    result = runner.invoke(app, ["lint"])
    assert result.exit_code == 2 and "LAB_ROOT" in result.stderr


def test_serve_says_what_is_wrong_before_it_starts_anything():
    for arguments, said in (
        (["xiaoshi-base", "--adapter", "poet"], "名字=文件夹"),
        (["no-such-model"], "没有这个文件夹"),
        (["xiaoshi-base", "--adapter", "poet=no/such/folder"], "没有这个文件夹"),
    ):
        result = runner.invoke(app, ["serve", *arguments])
        assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output


def test_a_broken_manifest_is_one_line_and_no_traceback(tmp_path):
    """In a copy of the package; it is read when the command starts, whatever the command."""
    package = tmp_path / "lab_utils"
    original = Path(lab_utils.__file__).parent
    shutil.copytree(original, package, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    (package / "course" / "manifest.toml").write_text("[[labs]\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lab_utils.cli", "lint"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert str(package / "course" / "manifest.toml") in done.stderr and "请改好" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(find_vllm() is None, reason="no vLLM on this machine, which is said first")
def test_a_profile_that_does_not_exist_is_one_line_and_no_traceback(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "tpu")
    result = runner.invoke(app, ["serve", "xiaoshi-base"])
    assert result.exit_code == 2 and "LAB_PROFILE" in result.stderr, result.exception
