"""Start a long command, follow what it prints, and end it for sure: the one way, for trainings and servers.

>>> from lab_utils import processes
>>> with processes.start([sys.executable, "-P", "-m", "http.server"]) as process:
...     for text in process.follow():
...         print(text, end="")
"""

import atexit
import codecs
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from lab_utils import guard
from lab_utils.files import GrowingFile

GRACE = 10.0
"""Seconds that the guard is given to end its session before that is done from here."""
POLL = 0.2
"""Seconds between looks at a command that is followed."""
CLOCK_STEP = 2.0
"""Seconds by which the start of a process may seem to move when the machine's clock is set."""


class Process:
    """A command under a guard, in a session of its own; see `start`.

    `pid`: that of the guard, which is the id of the session of all its processes. `log_path`: file of all that
    they printed; it is kept. `scratch`: the folder for their temporary files, removed with them.
    """

    def __init__(self, popen: subprocess.Popen, log_path: Path, scratch: Path):
        self._popen, self._owner, self._ended = popen, os.getpid(), False
        self.pid, self.log_path, self.scratch = popen.pid, log_path, scratch
        atexit.register(self.stop)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it is still there."""
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """The command's exit status, 128 + N when signal N ended it or its guard; None while it runs."""
        code = self._popen.poll()
        return 128 - code if code is not None and code < 0 else code

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it ends by itself, and clear away what it left; the exit status as in `returncode`.

        Raises subprocess.TimeoutExpired after `timeout` seconds, and then lets it run.
        """
        self._popen.wait(timeout)
        self.stop()
        code = self.returncode
        assert code is not None
        return code

    def follow(self, poll: float = POLL) -> Iterator[str]:
        """What it prints, from the beginning, as it comes: a piece of text, maybe an empty one, at least every
        `poll` seconds, and the rest when it has ended. A reader that stops reading doesn't hold it up."""
        file, decoder = GrowingFile(self.log_path), codecs.getincrementaldecoder("utf-8")("replace")
        while self.running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(poll)
            yield decoder.decode(file.read_new())
        yield decoder.decode(file.read_new(), final=True)

    def output(self) -> str:
        """All that it has printed so far."""
        return self.log_path.read_bytes().decode("utf-8", errors="replace")

    def stop(self) -> None:
        """End it and all that it started, and wait until they are gone; does nothing when that is done already.

        A fork of the process that started it leaves it alone.
        """
        if self._ended or os.getpid() != self._owner:
            return  # once ended, its id may be that of another's session
        atexit.unregister(self.stop)
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
        if self._popen.stdin:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(GRACE)
        guard.end_session(self.pid)  # there is something to do only when the guard was killed or is stuck
        self._popen.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self._ended = True


def start(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    log: str | Path | None = None,
    name: str = "lab",
    pass_fds: Sequence[int] = (),
) -> Process:
    """Start `argv` under a guard: it ends, with all it started, when it is stopped or when this process ends,
    even by `kill -9` or while a fork of this process lives on.

    `env` is added to the environment, and TMPDIR is a folder of its own. What it prints goes to the file `log`,
    which is emptied, or else to a new file with a name that nobody can foresee, but that begins with `name`.
    `pass_fds`: descriptors that it inherits. Raises OSError when the log can't be written.
    """
    scratch = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    try:
        log_path, out = _open_log(log, name)
        with out:
            command = [sys.executable, "-I", guard.__file__, str(os.getpid()), str(scratch), *map(str, argv)]
            popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(env or {}), "TMPDIR": str(scratch)},
                pass_fds=pass_fds,
            )
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return Process(popen, log_path, scratch)


def _open_log(log: str | Path | None, name: str) -> tuple[Path, BinaryIO]:
    """`(path, binary file)` to write to, empty."""
    if log is None:
        handle, file = tempfile.mkstemp(prefix=f"{name}-", suffix=".log")
        return Path(file), os.fdopen(handle, "wb")
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path, path.open("wb")


def identity(pid: int) -> dict[str, str | float]:
    """What tells process `pid` from any other, also from a later one of the same number: `pid`, `host` and
    `started`, in seconds since 1970. To be written down for `alive`."""
    import psutil

    return {"pid": pid, "host": socket.gethostname(), "started": psutil.Process(pid).create_time()}


def alive(known: Mapping) -> bool | None:
    """Whether the process of an `identity` still runs; None where that can't be told: on another machine, or
    when something is missing in `known`."""
    import psutil

    if not {"pid", "host", "started"} <= set(known) or known["host"] != socket.gethostname():
        return None
    try:
        process = psutil.Process(known["pid"])
        dead = process.status() == psutil.STATUS_ZOMBIE
        return not dead and abs(process.create_time() - known["started"]) < CLOCK_STEP
    except psutil.NoSuchProcess:
        return False
