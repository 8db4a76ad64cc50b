"""The commands of `labs` on a course of one lab: exit status and what is said."""

import json

import pytest
from typer.testing import CliRunner

from lab_utils import course
from lab_utils.cli import app

runner = CliRunner()


def labs(*arguments: str):
    result = runner.invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.slow
def test_build_check_lint_and_inverted_run_of_a_good_lab(lab, edit):
    built = labs("build", "90")
    assert built.exit_code == 0 and "✅ labs/90_mini.ipynb  solutions/90_mini.ipynb" in built.output
    assert labs("build", "--check").exit_code == 0
    assert labs("lint").exit_code == 0
    assert labs("run", "90", "--inverted").exit_code == 0
    edit("return x + x", "return x * 2", "solutions/90_mini.ipynb")
    checked = labs("build", "--check", "mini")
    assert checked.exit_code == 1 and "solutions/90_mini.ipynb 第 5 格 [source]" in checked.output
    edit("先看一个数。", "先做精调。")
    kept = labs("build", "--no-execute")
    assert kept.exit_code == 2 and "--no-execute" in kept.stderr


def test_build_check_names_strays(lab):
    labs("build")
    (course.root() / "labs" / "07_old.ipynb").write_text("{}")
    checked = labs("build", "--check")
    assert checked.exit_code == 1 and "labs/07_old.ipynb" in checked.output
    assert labs("build", "--check", "90").exit_code == 0


def test_lint_tells_each_problem_once(lab, edit):
    edit("先看一个数。", "先做精调。")
    labs("build")
    edit("没有了。", "没有了，缺省。", "labs/90_mini.ipynb")
    result = labs("lint", "90_mini")
    assert result.exit_code == 1
    lines = [line for line in result.output.split("\n") if "[term]" in line]
    assert [line.split(" [")[0] for line in lines] == [
        "solutions/90_mini.py 第 2 格",
        "labs/90_mini.ipynb 第 10 格",
    ]
    assert "微调" in lines[0] and "默认" in lines[1]


def test_run_writes_the_report(lab, tmp_path):
    report = tmp_path / "report.json"
    result = labs("run", "90", "--report", str(report))
    assert result.exit_code == 0 and "✅ 90_mini" in result.output
    assert json.loads(report.read_text(encoding="utf-8"))["90"]["figures"] == {"loss": 1.5}


@pytest.mark.slow
def test_failing_lab_fails_the_command_and_is_in_the_report(lab, edit, tmp_path):
    edit("return x + x", "return x")
    report = tmp_path / "report.json"
    result = labs("run", "90", "--report", str(report))
    assert result.exit_code == 1
    assert "第 6 格（check_double）" in result.output and "AssertionError: 两倍应是 4" in result.output
    assert json.loads(report.read_text(encoding="utf-8"))["90"]["ok"] is False
    assert labs("build").exit_code == 1


@pytest.mark.slow
def test_inverted_run_fails_when_a_check_passes(lab, edit):
    edit("assert double(2) == 4", "assert callable(double)")
    labs("build")
    result = labs("run", "--inverted")
    assert result.exit_code == 1 and "[check-passes]" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("build", "77"), "90_mini"),
        (("run", "77"), "90_mini"),
        (("run", "90", "--inverted", "--report", "x.json"), "--report"),
    ],
)
def test_mistakes_of_the_user_are_one_line(lab, arguments, message):
    result = labs(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr and "Traceback" not in result.output
    assert len(result.stderr.strip().split("\n")) == 1


def test_malformed_master_is_told_by_every_command(lab, edit):
    edit("    ### END SOLUTION\n", "")
    for arguments, status in ((["build"], 2), (["build", "--check"], 1), (["lint"], 1), (["run"], 1)):
        result = labs(*arguments)
        assert result.exit_code == status and "不成对" in result.output and "Traceback" not in result.output
