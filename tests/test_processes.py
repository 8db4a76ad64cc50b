"""A command ends with all it started, however it or its owner ends; what it prints is followed as it comes."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from lab_utils import guard, processes
from lab_utils.setup_environment import ROOT
from tests import process_family
from tests.waiting import PATIENCE, wait_until

PYTHON = [sys.executable, "-P", "-c"]


def family() -> tuple[processes.Process, dict]:
    """A running family, and what it says of itself."""
    process = processes.start(process_family.COMMAND)
    wait_until(lambda: process.output().endswith("\n"))
    return process, json.loads(process.output())


def test_stop_leaves_nothing():
    process, facts = family()
    assert len(process_family.left(facts)) == 6 and process.running and process.returncode is None
    assert {*facts["pids"], process.pid} <= set(guard.session_members(process.pid))
    assert all(Path(file).is_relative_to(process.scratch) for file in facts["files"][:1])
    process.stop()
    assert process_family.left(facts) == [] and not process.scratch.exists() and not process.running
    assert process.log_path.exists()
    process.stop()  # once more does nothing
    process.log_path.unlink()


def test_a_process_that_is_killed_itself_takes_its_family_along():
    process, facts = family()
    os.kill(facts["pids"][0], signal.SIGKILL)
    assert process.wait(PATIENCE) == 128 + signal.SIGKILL
    assert process_family.left(facts) == []


def test_a_killed_guard_takes_the_command_along_and_stop_the_rest():
    process, facts = family()
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: f"process {facts['pids'][0]}" not in process_family.left(facts))
    process.stop()
    outside = facts["pids"][2:]  # of other sessions: only the guard knew that they were its descendants
    assert {line.removeprefix("process ") for line in process_family.left(facts)} <= set(map(str, outside))
    for pid in outside:
        os.kill(pid, signal.SIGKILL)


OWNER = """
import os, signal, sys, time
from lab_utils import processes
from tests import process_family
from tests.test_processes import family

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
process, facts = family()
if sys.argv[1] == "kill, a fork lives on" and os.fork() == 0:
    sys.stdout.close()
    time.sleep(600)
if sys.argv[1] == "end of a fork":
    if os.fork() == 0:
        sys.exit()  # its atexit functions run
    os.wait()
    assert len(process_family.left(facts)) == 6
facts["files"].append(str(process.scratch))
print(process_family.json.dumps(facts), flush=True)
if sys.argv[1] == "exception":
    raise ZeroDivisionError
if sys.argv[1] != "end":
    time.sleep(600)
"""
ENDS = {
    "kill": signal.SIGKILL,
    "kill, a fork lives on": signal.SIGKILL,
    "interrupt": signal.SIGINT,
    "terminate": signal.SIGTERM,
    "end": None,
    "end of a fork": signal.SIGKILL,
    "exception": None,
}


@pytest.mark.parametrize("end", ENDS)
def test_nothing_outlives_the_owner(end):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    owner = subprocess.Popen(
        [*PYTHON, OWNER, end],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        facts = json.loads(owner.stdout.readline())
        if ENDS[end]:
            owner.send_signal(ENDS[end])
        owner.wait(PATIENCE)
        fork = guard.session_members(owner.pid)
        assert bool(fork) == (end == "kill, a fork lives on")
        wait_until(lambda: process_family.left(facts) == [])
    finally:
        guard.end_session(owner.pid)
        owner.wait()
        owner.stdout.close()


def test_what_it_prints_is_followed_and_kept(tmp_path):
    code = "import sys\nfor c in '春眠🙂':\n for b in c.encode():\n  sys.stdout.buffer.write(bytes([b])); sys.stdout.flush()"
    log = tmp_path / "new folder" / "a.log"
    with processes.start([*PYTHON, code], log=log) as process:
        pieces = list(process.follow(0.001))
    assert "".join(pieces) == process.output() == log.read_text(encoding="utf-8") == "春眠🙂"
    assert process.wait() == 0


def test_a_log_without_a_name_is_private_and_new_each_time():
    logs = [processes.start([*PYTHON, "print('x')"]) for _ in range(2)]
    for process in logs:
        assert process.wait(PATIENCE) == 0 and process.output() == "x\n"
        assert stat.S_IMODE(process.log_path.stat().st_mode) == 0o600
        process.log_path.unlink()
    assert len({process.log_path for process in logs}) == 2


@pytest.mark.parametrize(
    ("code", "status"), [("", 0), ("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_the_exit_status_is_the_commands(code, status, tmp_path):
    assert processes.start([*PYTHON, code], log=tmp_path / "log").wait(PATIENCE) == status


def test_waiting_may_be_given_up(tmp_path):
    with processes.start([*PYTHON, "import time; time.sleep(600)"], log=tmp_path / "log") as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.running


def test_environment_and_descriptors_are_handed_down_and_nothing_else(tmp_path):
    reader, writer = os.pipe()
    other = os.dup(writer)
    os.set_inheritable(other, False)
    code = f"import os; print(os.environ['A'], os.environ['TMPDIR']); os.write({writer}, b'hi')"
    code += "; print(sorted(os.listdir('/dev/fd')))"
    process = processes.start([*PYTHON, code], env={"A": "b"}, log=tmp_path / "log", pass_fds=(writer,))
    for descriptor in (writer, other):
        os.close(descriptor)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "hi"  # to the end: the guard holds no copy
    assert process.wait(PATIENCE) == 0
    first, descriptors = process.output().splitlines()
    assert first == f"b {process.scratch}"
    assert len(json.loads(descriptors.replace("'", '"'))) == 5  # standard ones, the pipe, that of the listing


def test_a_command_that_is_not_there_leaves_nothing(tmp_path):
    process = processes.start([tmp_path / "none"], log=tmp_path / "log")
    assert process.wait(PATIENCE) != 0 and "FileNotFoundError" in process.output()
    before = set(Path(tempfile.gettempdir()).glob("lab-*"))
    with pytest.raises(OSError):
        processes.start([sys.executable], log=tmp_path)
    assert set(Path(tempfile.gettempdir()).glob("lab-*")) <= before


def test_sessions_are_seen_without_proc_too():
    process, facts = family()
    by_ps, by_proc = guard._process_table_of_ps(), guard._process_table()
    for pid in (*facts["pids"], process.pid):
        assert by_ps[pid][1:] == by_proc[pid][1:]
    process.stop()
    process.log_path.unlink()


def test_a_process_is_told_from_another_of_the_same_number(tmp_path):
    with processes.start([*PYTHON, "import time; time.sleep(600)"], log=tmp_path / "log") as process:
        known = processes.identity(process.pid)
        assert json.loads(json.dumps(known)) == known and processes.alive(known) is True
        assert processes.alive({**known, "started": known["started"] - 60}) is False
        assert processes.alive({**known, "host": "elsewhere"}) is None
        assert processes.alive({"pid": process.pid}) is None
    assert processes.alive(known) is False
    with psutil.Popen([*PYTHON, ""]) as child:
        known = processes.identity(child.pid)
        wait_until(lambda: child.status() == psutil.STATUS_ZOMBIE)
        assert processes.alive(known) is False
