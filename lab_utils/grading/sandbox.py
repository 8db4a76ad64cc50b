"""The sandbox: one warm process in bubblewrap that imports once and forks a child for each answer.

See `inside.server` for what runs there, `bubblewrap` for what it sees. A `Sandbox` serves one answer at a time; it is
started again by itself after a child that left it unusable.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from lab_utils.errors import LabError
from lab_utils.grading import bubblewrap
from lab_utils.grading.conversation import Answer

HOW_TO_INSTALL = (
    "评分要在沙箱里运行学生的代码，但找不到 bubblewrap (bwrap)。\n"
    "安装 (install)：Debian/Ubuntu 用 sudo apt-get install bubblewrap，Fedora 用 sudo dnf install bubblewrap。\n"
    "如果一定要不用沙箱评分，加 --unsandboxed：学生的代码将以你的身份运行，能读写你能读写的一切文件"
    "（答案、成绩、别人的作业），能上网。"
)
_USERS = range(60706, 61184)
"""Numbers of users that systemd leaves to nobody. Sandboxes get different ones: the kernel counts threads by user."""


class SandboxError(LabError):
    """The sandbox can't be started."""


@dataclass(frozen=True)
class Limits:
    """What one child may take. Seconds of wall time; memory beyond the imports'.

    `statement_seconds`: one statement that isn't the answer; it is interrupted, the others go on.
    """

    load_seconds: float = 30.0
    statement_seconds: float = 8.0
    case_seconds: float = 10.0
    total_seconds: float = 120.0
    memory_mib: int = 1536


def available() -> str:
    """Why the sandbox can't be used here, in Chinese; empty when it can."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "沙箱只支持 Linux x86-64。请在这样的机器上评分，或加 --unsandboxed（学生的代码将以你的身份运行）。"
    if not shutil.which("bwrap"):
        return HOW_TO_INSTALL
    trial = subprocess.run(
        [*bubblewrap.command([]), "/bin/true"],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    if trial.returncode != 0:
        last_line = trial.stderr.strip().split("\n")[-1]
        return (
            f"bubblewrap 在这里不能用：{last_line}\n"
            "在容器里要允许用户命名空间 (user namespaces)，例如 docker run --privileged；"
            "或加 --unsandboxed（学生的代码将以你的身份运行）。"
        )
    try:
        with Sandbox() as box:
            box.start()
    except SandboxError as error:
        return str(error)
    return ""


@dataclass
class Sandbox:
    """One warm process. `preload`: modules to import before the first answer; `hidden`: folders never to be seen.

    Not `confined`, the code runs as the user who grades, with nothing hidden, in a scratch folder of its own.
    """

    preload: tuple[str, ...] = ()
    hidden: tuple[Path, ...] = ()
    confined: bool = True
    limits: Limits = field(default_factory=Limits)
    start_seconds: float = 180.0
    _process: subprocess.Popen | None = None
    _control: socket.socket | None = None
    _scratch: tempfile.TemporaryDirectory | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and everything in its namespace."""
        if self._control:
            self._control.close()
        if self._process:
            self._process.kill()
            self._process.wait()
        if self._scratch:
            self._scratch.cleanup()
        self._process = self._control = self._scratch = None

    def start(self) -> None:
        """Start the process unless it runs. Raises SandboxError when it doesn't come up."""
        if self._process and self._process.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = self._process = subprocess.Popen(
                self._command(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=None
                if self.confined
                else {**os.environ, **bubblewrap.environment(self._scratch_folder())},
            )
        self._control = ours
        ours.settimeout(self.start_seconds)
        try:
            ready = json.loads(ours.recv(65536) or b"{}")
        except (OSError, ValueError):
            ready = {}
        if not ready.get("ready"):
            process.kill()
            last_words = process.communicate()[1].decode(errors="replace").strip()[-400:]
            self.close()
            remedy = (
                "学生的代码以另一个用户运行，它要能读 Python 和虚拟环境；课程放在别人进不去的文件夹里时，"
            )
            remedy += f"运行 chmod -R o+rX {sys.prefix} {sys.base_prefix}"
            what = f"沙箱 (sandbox) 没有启动：{last_words or '没有说明原因'}"
            raise SandboxError(what, remedy if self.confined else "")

    def _command(self, descriptor: int) -> list[str]:
        options = {
            "confined": self.confined,
            "user": _USERS[os.getpid() % len(_USERS)],
            "scratch": self._scratch_folder(),
            "preload": self.preload,
        }
        program = [sys.executable, "-P", "-s", "-B", "-W", "ignore"]
        if self.confined:
            program = [*bubblewrap.command(self.hidden), *program, bubblewrap.RUNNER]
        else:
            program += [str(bubblewrap.INSIDE / "runner.py")]
        return [*program, str(descriptor), json.dumps(options)]

    def _scratch_folder(self) -> str:
        if self.confined:
            return bubblewrap.SCRATCH
        if not self._scratch:
            self._scratch = tempfile.TemporaryDirectory(prefix="labs-grade-", ignore_cleanup_errors=True)
        return self._scratch.name

    def answer(self) -> Answer:
        """A new child, ready to load a student's code."""
        ours, theirs = socket.socketpair()
        request = {
            "memory_mib": self.limits.memory_mib,
            "seconds": self.limits.total_seconds,
            "cpu_seconds": int(self.limits.total_seconds) + 1,
        }
        with theirs:
            try:
                self._send(request, theirs)
            except OSError:  # it went away after the last answer, as it does when its scratch is a mess
                self.close()
                self._send(request, theirs)
        return Answer(ours, self.limits, self._finish)

    def _send(self, request: dict, channel: socket.socket) -> None:
        self.start()
        assert self._control
        socket.send_fds(self._control, [json.dumps(request).encode()], [channel.fileno()])

    def _finish(self, stop: bool) -> dict:
        """Wait until the child is gone; how it ended. A sandbox that doesn't say so is closed."""
        try:
            if self._control:
                if stop:
                    self._control.send(b"stop")
                self._control.settimeout(10)
                body = self._control.recv(65536)
                if body:
                    ended = json.loads(body)
                    if not ended["usable"]:
                        self.close()
                    return ended
        except (OSError, ValueError, LookupError):
            pass
        self.close()
        return {"ended": None, "why": "lost"}
