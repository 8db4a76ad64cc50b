"""Run a server and end it, with all it started, when the process that asked for it dies.

Run as a script in a session of its own: `python guard.py SCRATCH COMMAND…`. Its standard input is a
pipe held by the asking process; when that dies, even by `kill -9`, the pipe closes, and every process
of the session is killed. The shared memory they held and the folder SCRATCH, their TMPDIR, are removed.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

POLL = 0.5  # seconds between looks at the parent: a fork of it may still hold the pipe
DEATH_SIGNAL, CHILD_SUBREAPER = 1, 36  # options of prctl, from linux/prctl.h


def main(scratch: str, command: list[str]) -> int:
    parent = os.getppid()
    prctl(CHILD_SUBREAPER, 1)  # what its children leave behind becomes its own child, to be waited for
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_guard)
    while child.poll() is None and os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin], [], [], POLL)
        if readable and not os.read(sys.stdin.fileno(), 4096):
            break
    end_session(os.getsid(0), spare=os.getpid())
    shutil.rmtree(scratch, ignore_errors=True)
    code = child.wait()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    return code


def die_with_guard() -> None:
    """Be killed when the guard itself is killed."""
    prctl(DEATH_SIGNAL, signal.SIGKILL)


def prctl(option: int, value: int) -> None:
    """Linux's `prctl`; nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def end_session(session: int, spare: int = 0) -> None:
    """Kill every process of `session` but `spare`, and remove the shared memory that they held."""
    shared = set()
    for _ in range(100):
        members = [pid for pid in session_members(session) if pid != spare]
        if not members:
            break
        for pid in members:  # all of them before the first is killed, which takes others along
            shared |= shared_memory(pid)
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    for file in shared:
        file.unlink(missing_ok=True)


def session_members(session: int) -> list[int]:
    """Processes of a session, those that are dead but not yet waited for left out. Empty without /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            after_name = entry.read_text(errors="replace").rpartition(")")[2].split()
            if int(after_name[3]) == session and after_name[0] not in "ZX":
                found.append(int(entry.parent.name))
    return found


def shared_memory(pid: int) -> set[Path]:
    """Files of shared memory that a process has mapped, by Python's multiprocessing or torch."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
        names = {line.rpartition(" ")[2] for line in lines if "/dev/shm/" in line}
        return {Path(name) for name in names if name.startswith("/dev/shm/")}
    return set()


if __name__ == "__main__":
    code = main(sys.argv[1], sys.argv[2:])
    os._exit(code if code >= 0 else 128 - code)
