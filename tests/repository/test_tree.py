"""What lies in the repository: the commands, the hosts' files, the license, the font, and no stray file."""

import hashlib
import os
import re
import subprocess

import pytest
import yaml
from fontTools.ttLib import TTFont
from tokenizers import Tokenizer

from lab_utils.setup_environment import PYTHON, ROOT

TOP = {
    "README.md", "README.zh.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "pyproject.toml", "Makefile",
    "environment.yml", "binder", "labs", "solutions", "datasets", "lab_utils", "tests", ".ci", ".github",
    ".gitignore", ".gitattributes",
}  # fmt: skip
APACHE = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0.txt"""
FONTS = ROOT / "lab_utils" / "assets" / "fonts"


@pytest.fixture(scope="module")
def files() -> list[str]:
    """Every file of the repository that git doesn't ignore, relative to its root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_nothing_else_lies_at_the_top(files):
    assert {name.split("/")[0] for name in files} - TOP == set()


def test_no_file_names_a_folder_of_somebody_s_machine(files):
    somewhere = re.compile(rf"{re.escape(str(ROOT))}\b|(?<![\w.$~/…-])/(?:root|work|home/\w+|Users/\w+)/")
    found = []
    for name in files:
        data = (ROOT / name).read_bytes()
        if b"\0" in data or name.startswith("tests/"):  # tests make such paths up
            continue
        for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
            if somewhere.search(line):
                found.append(f"{name}:{number}")
    assert found == []


def test_the_readme_gives_the_two_commands():
    block = re.search(r"^## Two commands\n.*?^```\w*\n(.*?)^```", _text("README.md"), re.M | re.S)
    targets = re.findall(r"^make (\w+)", block[1], re.M)
    assert targets == ["lab", "test"]
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=True)


def test_every_module_that_a_text_tells_to_run_can_be_run(files):
    """`python -m lab_utils.…` in the Markdown of the repository."""
    told = {
        (name, module)
        for name in files
        if name.endswith(".md")
        for module in re.findall(r"python3? -m (lab_utils[.\w]*\w)", _text(name))
    }
    places = [(name, module, ROOT.joinpath(*module.split("."))) for name, module in sorted(told)]
    assert len(places) >= 5
    assert [
        (name, module)
        for name, module, place in places
        if not (place.with_suffix(".py").is_file() or (place / "__main__.py").is_file())
    ] == []


def test_ci_runs_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert lines == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make test"]
    assert os.access(script, os.X_OK)


def test_the_workflow_checks_first_and_runs_what_ci_runs_on_every_python():
    jobs = yaml.safe_load(_text(".github/workflows/ci.yml"))["jobs"]
    assert [jobs[name]["steps"][-1].get("run") for name in ("check", "everything")] == [
        "make check",
        "bash .ci/run",
    ]
    (least, below) = PYTHON
    assert jobs["fast"]["strategy"]["matrix"]["python"] == [
        f"3.{minor}" for minor in range(least[1], below[1])
    ]
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []


def test_binder_installs_the_lock():
    assert _text("binder/runtime.txt") == "python-3.11\n"
    script = ROOT / "binder" / "postBuild"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").endswith(" -m lab_utils.setup_environment --into-current\n")


def test_the_license_is_complete():
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE


def test_the_font_is_the_one_its_card_describes():
    data = (FONTS / "NotoSansSC-Subset.ttf").read_bytes()
    assert f"`{hashlib.sha256(data).hexdigest()}`" in (FONTS / "README.md").read_text(encoding="utf-8")
    assert len(data) < 3 * 2**20
    assert "SIL OPEN FONT LICENSE Version 1.1" in (FONTS / "OFL.txt").read_text(encoding="utf-8")


def test_the_font_draws_chinese_mathematics_and_every_character_the_model_knows():
    drawn = set(map(chr, TTFont(FONTS / "NotoSansSC-Subset.ttf").getBestCmap()))
    rows, cells = range(0xB0, 0xF8), range(0xA1, 0xFF)
    hanzi = {bytes([row, cell]).decode("gb2312", errors="ignore") for row in rows for cell in cells} - {""}
    assert len(hanzi) == 6763 and hanzi - drawn == set()
    signs = set(map(chr, range(0x20, 0x7F))) | set(
        "，。！？；：、“”‘’（）《》【】…—·−±×÷≤≥≠≈∞∑√→←↑↓αβγδεθλμσΔΣ°②✓"
    )
    assert signs - drawn == set()
    tokenizer = Tokenizer.from_file(str(ROOT / "lab_utils" / "assets" / "xiaoshi-base" / "tokenizer.json"))
    tokens = {tokenizer.decode([number]) for number in range(tokenizer.get_vocab_size())}
    known = {token for token in tokens if len(token) == 1 and token.isprintable() and token != "\ufffd"}
    assert len(known) > 5000 and known - drawn == set()
