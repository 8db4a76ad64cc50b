"""The `labs` command away from any lab: help, doctor, translation of old commands."""

import json
import subprocess
import sys

from typer.testing import CliRunner

from lab_utils.cli import app

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
