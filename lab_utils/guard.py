"""Run a command and end it, with all it started, when the process that asked for it dies, however it dies.

Run as a script, in a session of its own, by `lab_utils.processes`: `python -I guard.py PARENT SCRATCH COMMAND…`.
PARENT is the process id of the asking process, which holds the other end of the pipe that is the guard's standard
input. The command ends when that pipe is closed, when PARENT is no longer the guard's parent (a fork of PARENT may
still hold the pipe), or when the guard gets SIGTERM. Then every process of the session and every descendant is
killed, the shared memory that they held and the folder SCRATCH, their TMPDIR, are removed. The guard's exit status
is that of the command, 128 + N when signal N ended it.

Only the standard library: this starts in milliseconds, and `-I` keeps the current folder out of its imports.
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

POLL = 0.5
"""Seconds between looks at the parent; everything else wakes the guard at once."""
DEATH_SIGNAL, CHILD_SUBREAPER = 1, 36
"""Options of prctl, from linux/prctl.h."""
SHARED_MEMORY = "/dev/shm/"  # noqa: S108  # where Linux keeps it, not a file of ours


def main(parent: int, scratch: str, command: list[str]) -> int:
    """Run `command` to its end or to that of `parent`; its exit status as `subprocess` gives it."""
    waker, writer = _wake_on(signal.SIGTERM, signal.SIGCHLD)
    _prctl(
        CHILD_SUBREAPER, 1
    )  # what its children leave behind becomes its own child, to be found and waited for
    guard = os.getpid()
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, close_fds=False, preexec_fn=lambda: _die_with(guard)
    )
    _close_all_but(
        0, 1, 2, waker, writer
    )  # what was handed down, such as a listening socket, is the command's
    while child.poll() is None and os.getppid() == parent and not _told_to_end(waker):
        pass
    end_session(os.getsid(0), spare=guard)
    shutil.rmtree(scratch, ignore_errors=True)
    code = child.wait()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    return code


def _wake_on(*signals: int) -> tuple[int, int]:
    """Make these signals readable bytes of a pipe, whose two ends are returned, instead of ending the process."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in signals:
        signal.signal(number, lambda *_: None)
    return reader, writer


def _close_all_but(*kept: int) -> None:
    for name in os.listdir("/dev/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                os.close(int(name))


def _told_to_end(waker: int) -> bool:
    """Wait for something to happen, at most `POLL` seconds; whether it was SIGTERM or the end of the pipe."""
    readable, _, _ = select.select([sys.stdin, waker], [], [], POLL)
    if sys.stdin in readable and not os.read(sys.stdin.fileno(), 4096):
        return True
    return waker in readable and signal.SIGTERM in os.read(waker, 4096)


def _die_with(guard: int) -> None:
    """In the child, before it becomes the command: be killed when the guard is killed."""
    _prctl(DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != guard:  # it was killed before the line above
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    """Linux's `prctl`; nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def end_session(session: int, spare: int = 0) -> None:
    """Kill every process that `session_members` finds but `spare`, and remove the shared memory they held.

    Looks again until nothing is left, for at most 5 seconds: a member may be starting another just now.
    """
    shared: set[Path] = set()
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
    """Ids of the processes of a session and of their descendants, which may have sessions of their own.

    Processes that are dead but not yet waited for are left out.
    """
    table = _process_table()
    members = {pid for pid, (_, _, its_session) in table.items() if its_session == session}
    more = members
    while more:
        more = {pid for pid, (_, parent, _) in table.items() if parent in more} - members
        members |= more
    return sorted(pid for pid in members if table[pid][0] not in "ZX")


def _process_table() -> dict[int, tuple[str, int, int]]:
    """Process id -> (state, parent's id, session), of all processes that this user can see."""
    table = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            after_name = entry.read_text(errors="replace").rpartition(")")[2].split()
            table[int(entry.parent.name)] = after_name[0], int(after_name[1]), int(after_name[3])
    return table or _process_table_of_ps()


def _process_table_of_ps() -> dict[int, tuple[str, int, int]]:
    """The same where there is no /proc, as on macOS."""
    table = {}
    with subprocess.Popen(["ps", "-A", "-o", "pid=,stat=,ppid="], stdout=subprocess.PIPE, text=True) as ps:
        lines = ps.communicate()[0].splitlines()
    for line in lines:
        pid, state, parent = line.split()
        with contextlib.suppress(OSError):  # it has ended meanwhile, as `ps` itself has
            table[int(pid)] = state[0], int(parent), os.getsid(int(pid))
    return table


def shared_memory(pid: int) -> set[Path]:
    """Files of shared memory that a process has mapped, by Python's multiprocessing or torch. Needs /proc."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
        return {Path(name) for line in lines if (name := line.rpartition(" ")[2]).startswith(SHARED_MEMORY)}
    return set()


if __name__ == "__main__":
    code = main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
    os._exit(code if code >= 0 else 128 - code)
