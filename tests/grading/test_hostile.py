"""Submissions that attack the grader or are broken: none earns what it didn't do, and the batch always finishes."""

import json
import os
import re
import socket
import sysconfig
import threading
from pathlib import Path

import pytest

from lab_utils import course
from lab_utils.grading import batch, feedback, results, sandbox, tasks
from lab_utils.grading.submissions import walk
from tests.grading.hostile import ATTACKS, FULL, LAB, PLACES

LIMITS = sandbox.Limits(load_seconds=2.0, case_seconds=1.0, total_seconds=20.0, memory_mib=256)


@pytest.fixture(scope="module")
def needs_sandbox():
    problem = sandbox.available()
    assert not problem, problem


class Listener:
    """Counts the connections to a port of this machine."""

    def __init__(self):
        self.count = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            self._socket.accept()
            self.count += 1


@pytest.fixture(scope="module")
def graded(tmp_path_factory, needs_sandbox):
    """All attacks in one batch on two workers: rows by name, the output folder, and the listener."""
    base = tmp_path_factory.mktemp("class")
    submissions, out, listener = base / "作业 submissions", base / "out", Listener()
    PLACES.update(
        root=str(course.root()), out=str(out), submissions=str(submissions), home=str(Path.home()),
        site=sysconfig.get_path("purelib"), port=str(listener.port),
    )  # fmt: skip
    os.environ["LAB_SECRET"] = "LEAK"
    out.mkdir()
    (out / "gradebook.db").write_bytes(b"old gradebook")
    for name, attack in ATTACKS.items():
        folder = submissions / name
        folder.mkdir(parents=True)
        attack.write(folder)
    settings = batch.Settings(hidden=(submissions, out, course.root()), limits=LIMITS)
    planned = batch.plan(walk(submissions), out, (LAB,), settings)
    rows = batch.run(planned, count=2, scheduler=None)
    results.write_table(out, rows)
    feedback.write_all(out, rows)
    del os.environ["LAB_SECRET"]
    return {row.student: row for row in rows}, out, listener


def test_the_suite_is_large():
    assert len(ATTACKS) >= 40


def test_every_submission_has_one_row_with_a_reason(graded):
    rows, out, _ = graded
    assert set(rows) == set(ATTACKS)
    for name, row in rows.items():
        assert row.reason, name
        assert results.read_row(results.row_path(out, row)) == row
    assert len((out / "grades.csv").read_text("utf-8").splitlines()) == len(ATTACKS) + 1


@pytest.mark.parametrize("name", ATTACKS)
def test_it_earns_what_it_did(graded, name):
    row, attack = graded[0][name], ATTACKS[name]
    assert (row.status, row.score) == (attack.status, attack.score), row
    assert attack.reason in row.reason
    assert row.maximum == FULL


def test_nothing_was_read_that_should_not(graded):
    rows = graded[0]
    assert [
        name for name, row in rows.items() if "LEAK" in json.dumps(row.to_json(), ensure_ascii=False)
    ] == []


def test_nothing_was_written_outside(graded):
    _, out, _ = graded
    assert (out / "gradebook.db").read_bytes() == b"old gradebook"
    places = [out, course.root(), Path(sysconfig.get_path("purelib")), Path("/dev/shm"), Path("/tmp")]
    assert [path for place in places for path in place.glob("LEAK*")] == []
    assert not Path("/tmp/left").exists()


def test_the_network_was_not_reached(graded):
    assert graded[2].count == 0


def test_no_control_character_reaches_a_terminal_or_a_table(graded):
    rows, out, _ = graded
    texts = [json.dumps(row.to_json(), ensure_ascii=False) for row in rows.values()]
    texts.append((out / "grades.csv").read_text("utf-8").replace("\n", ""))
    for text in texts:
        assert not [c for c in text if ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u200b"]


def test_no_path_of_the_grader_is_told(graded):
    rows, out, _ = graded
    for row in rows.values():
        text = json.dumps(row.to_json(), ensure_ascii=False)
        assert str(course.root()) not in text
        assert str(out.parent) not in text


def test_no_hidden_input_is_told(graded):
    """In rows, tables and pages; what is searched for are the lines of the hidden texts."""
    rows, out, _ = graded
    told = [json.dumps(row.to_json(), ensure_ascii=False) for row in rows.values()]
    told += [path.read_text("utf-8") for path in [out / "grades.csv", *out.rglob("*.html")]]
    assert len(told) == 2 * len(ATTACKS) + 1
    (exercise,) = [e for e in tasks.load(LAB.number, 0).exercises if e.name == "line_lengths"]
    hidden = [case.args[0] for case in exercise.check.cases[exercise.visible :]]
    lines = {line for text in hidden for line in re.split("[，。\n]", text) if len(line) > 2}
    assert len(lines) > 5
    for text in told:
        assert not [line for line in lines if line in text]


@pytest.mark.parametrize("name", [name for name in ATTACKS if name.startswith("tell_hidden")])
def test_of_a_hidden_case_only_whether_it_passed_is_told(graded, name):
    (result,) = [result for result in graded[0][name].exercises if result.name == "line_lengths"]
    assert (result.stage, result.mistake) == ("edge", "")
    assert result.passed == result.cases and result.hidden_passed == 0
    assert not re.search("exit|ended|Error|dict|77", result.message + result.hint)


def test_no_process_is_left(graded):
    batch.close_sandboxes()
    left = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if b"/runner/runner.py" in (folder / "cmdline").read_bytes():
                    status = (folder / "status").read_text()
                    left.append(status)
            except OSError:
                continue
    own = [status for status in left if f"PPid:\t{os.getpid()}\n" in status]
    assert own == []
