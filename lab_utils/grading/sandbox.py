"""The sandbox: bubblewrap around one process that imports once and forks for each submission.

See `inside.runner` for what runs there. A `Sandbox` serves one submission at a time; it is started again by itself
after a child that left it unusable.
"""

import json
import os
import secrets
import shutil
import signal
import site
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab_utils.grading.inside import wire

INSIDE = Path(__file__).parent / "inside"
SCRATCH_MIB = 64
HOW_TO_INSTALL = (
    "评分要在沙箱里运行学生的代码，但找不到 bubblewrap (bwrap)。\n"
    "安装 (install)：Debian/Ubuntu 用 sudo apt-get install bubblewrap，Fedora 用 sudo dnf install bubblewrap。\n"
    "如果一定要不用沙箱评分，加 --unsandboxed：学生的代码将以你的身份运行，能读写你能读写的一切文件"
    "（答案、成绩、别人的作业），能上网。"
)


class SandboxError(RuntimeError):
    """The sandbox can't be started. The message, Chinese, says what to do."""


@dataclass(frozen=True)
class Limits:
    """What loading an answer, one case and a whole submission may take. Seconds of wall time; memory beyond the imports'."""

    load_seconds: float = 30.0
    case_seconds: float = 10.0
    total_seconds: float = 150.0
    memory_mib: int = 1536


@dataclass
class Reply:
    """What came back for one call: a value, or an error; `after` are the arguments as the function left them."""

    value: Any = None
    after: list | None = None
    error: dict | None = None


class AnswerEnded(RuntimeError):
    """The child can't go on. `why`: time, memory, ended, protocol, lost (the sandbox itself), killed (by whom can't be
    told: by itself, or by the system); the message is Chinese."""

    def __init__(self, why: str, message: str):
        super().__init__(message)
        self.why = why


def available() -> str:
    """Why the sandbox can't be used here, in Chinese; empty when it can."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "沙箱只支持 Linux x86-64。请在这样的机器上评分，或加 --unsandboxed（学生的代码将以你的身份运行）。"
    if not shutil.which("bwrap"):
        return HOW_TO_INSTALL
    trial = subprocess.run(
        [*command([]), "/bin/true"], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL
    )
    if trial.returncode != 0:
        said = trial.stderr.strip().split("\n")[-1]
        return (
            f"bubblewrap 在这里不能用：{said}\n"
            "在容器里要允许用户命名空间 (user namespaces)，例如 docker run --privileged；"
            "或加 --unsandboxed（学生的代码将以你的身份运行）。"
        )
    try:
        with Sandbox() as box:
            box.start()
    except SandboxError as error:
        return (
            f"{error}\n学生的代码以另一个用户运行，它要能读 Python 和虚拟环境："
            f"chmod -R o+rX {sys.prefix} {sys.base_prefix}"
        )
    return ""


def command(hidden: Iterable[Path]) -> list[str]:
    """The bubblewrap command, to be followed by the program. Nothing under a path of `hidden` can be seen inside."""
    prefixes = [Path("/usr"), *{Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve()}]
    covered = [Path(path).resolve() for path in (*hidden, *_installed_course())]
    args = [
        "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        "--hostname",
        "sandbox",
    ]
    args += ["--as-pid-1", "--cap-drop", "ALL"]
    if os.getuid() == 0:  # to become another user first of all; the runner then has no capability left
        args = [part for part in args if part != "--unshare-all"]
        args += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        args += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        args += ["--uid", "1000", "--gid", "1000"]
    for link in ("bin", "lib", "lib64", "sbin"):
        if Path("/", link).is_symlink():
            args += ["--symlink", f"usr/{link}", f"/{link}"]
        elif Path("/", link).exists():
            args += ["--ro-bind", f"/{link}", f"/{link}"]
    for file in ("/etc/ld.so.cache", "/etc/alternatives"):
        args += ["--ro-bind-try", file, file]
    closing: list[str] = []
    for prefix in sorted(prefixes):
        for parent in reversed(prefix.parents[:-1]):  # else they are as closed as the originals
            args += ["--perms", "0755", "--dir", str(parent)]
        args += ["--ro-bind", str(prefix), str(prefix)]
        for path in covered:
            if prefix in path.parents:
                args += ["--tmpfs", str(path)]
                closing += ["--remount-ro", str(path)]
    args += closing
    args += ["--ro-bind", str(INSIDE), "/runner", "--proc", "/proc", "--dev", "/dev"]
    args += ["--size", str(2**20), "--tmpfs", "/dev/shm", "--remount-ro", "/dev/shm", "--remount-ro", "/dev"]
    args += ["--size", str(SCRATCH_MIB * 2**20), "--perms", "1777", "--tmpfs", "/tmp", "--remount-ro", "/"]
    for name, value in _environment().items():
        args += ["--setenv", name, value]
    return [*args, "--chdir", "/tmp", "--"]


def _installed_course() -> list[Path]:
    """`lab_utils` where it is installed: its references aren't for students' code."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    places = [Path(folder) / "lab_utils" for folder in folders] + [Path(__file__).parent.parent]
    return [place for place in places if place.is_dir()]


def _environment() -> dict[str, str]:
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {
        "HOME": "/tmp", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TMPDIR": "/tmp", "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1", "TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg",
        **dict.fromkeys(threads, "1"),
    }  # fmt: skip


@dataclass
class Sandbox:
    """One warm process. `preload`: modules to import before the first answer; `hidden`: folders never to be seen."""

    preload: tuple[str, ...] = ()
    hidden: tuple[Path, ...] = ()
    confined: bool = True
    limits: Limits = field(default_factory=Limits)
    start_seconds: float = 180.0
    _process: subprocess.Popen | None = None
    _control: socket.socket | None = None

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
        self._process = self._control = None

    def start(self) -> None:
        """Start the process unless it runs. Raises SandboxError when it doesn't come up."""
        if self._process and self._process.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = [sys.executable, "-P", "-s", "-B", "-W", "ignore"]
        if self.confined:
            run = [*command(self.hidden), *program, "/runner/runner.py"]
        else:
            run = [*program, str(INSIDE / "runner.py")]
        with theirs:
            self._process = subprocess.Popen(
                [*run, str(theirs.fileno()), *self.preload],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=None if self.confined else {**os.environ, **_environment(), "HOME": "/tmp"},
            )
        self._control = ours
        ours.settimeout(self.start_seconds)
        try:
            ready = json.loads(ours.recv(65536) or b"{}")
        except (OSError, ValueError):
            ready = {}
        if not ready.get("ready"):
            self._process.kill()
            said = (self._process.stderr.read() or b"").decode(errors="replace").strip()[-400:]
            self.close()
            raise SandboxError(f"沙箱 (sandbox) 没有启动：{said or '没有说明原因'}")

    def answer(self) -> "Answer":
        """A new child, ready to load a student's code."""
        self.start()
        ours, theirs = socket.socketpair()
        request = {
            "memory_mib": self.limits.memory_mib,
            "seconds": self.limits.total_seconds,
            "cpu_seconds": int(self.limits.total_seconds) + 1,
            "confined": self.confined,
        }
        with theirs:
            try:
                socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno()])
            except (
                OSError
            ):  # the runner went away after the last answer, as it does when its scratch is a mess
                self.close()
                self.start()
                socket.send_fds(self._control, [json.dumps(request).encode()], [theirs.fileno()])
        return Answer(self, ours)

    def _finish(self, stop: bool) -> dict:
        """Wait until the child is gone; how it ended. A sandbox that doesn't say so is closed."""
        try:
            if stop:
                self._control.send(b"stop")
            self._control.settimeout(10)
            body = self._control.recv(65536)
            if body:
                return json.loads(body)
        except (OSError, ValueError):
            pass
        self.close()
        return {"ended": None, "why": "lost"}


class Answer:
    """One student's answers, in a process of their own, loaded one after the other."""

    def __init__(self, sandbox: Sandbox, channel: socket.socket):
        self._sandbox = sandbox
        self._channel = channel
        self._deadline = time.monotonic() + sandbox.limits.total_seconds
        self._helpers: dict[str, Callable] = {}
        self._over = False

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the child if it still runs."""
        if not self._over:
            self._over = True
            self._channel.close()
            self._sandbox._finish(stop=True)

    def load(
        self,
        cells: list[str],
        target: int,
        function: str,
        fallback: list[str],
        helpers: dict[str, Callable],
        constants: dict[str, Any],
    ) -> dict:
        """Execute what the answer needs. Returns the runner's note: `error`, `undefined`. Raises AnswerEnded."""
        self._helpers = helpers
        message = {
            "cells": cells, "target": target, "function": function, "fallback": fallback,
            "helpers": list(helpers), "constants": {name: wire.encode(value) for name, value in constants.items()},
        }  # fmt: skip
        return self._exchange(message, self._sandbox.limits.load_seconds)

    def call(self, args: tuple) -> Reply:
        """Call the student's function. Raises AnswerEnded when no proper reply comes."""
        nonce = secrets.token_hex(8)
        message = {"nonce": nonce, "args": [wire.encode(item) for item in args]}
        reply = self._exchange(message, self._sandbox.limits.case_seconds)
        if reply.get("nonce") != nonce:
            self._end("protocol", "回应与提问不符 (forged reply)")
        if "broken" in reply:
            self._end("protocol", "参数没有送到 (arguments not delivered)")
        if "unreadable" in reply:
            return Reply(error=_unreadable(reply["unreadable"]))
        if "error" in reply:
            return Reply(error=_clean_error(reply["error"]))
        try:
            return Reply(wire.decode(reply.get("value")), wire.decode({"list": reply.get("after")}))
        except wire.WireError as error:
            return Reply(error=_unreadable(error))

    def _exchange(self, message: dict, seconds: float) -> dict:
        """Send, then answer the child's questions until its reply comes."""
        until = min(time.monotonic() + seconds, self._deadline)
        try:
            self._limit(until)
            wire.send(self._channel, message)
            while True:
                self._limit(until)
                reply = wire.receive(self._channel)
                if "helper" not in reply:
                    return reply
                wire.send(self._channel, self._help(reply))
        except TimeoutError:
            self._end("time", f"超过 {seconds:g} 秒还没有结果 (timeout)")
        except (EOFError, OSError):
            self._end("ended", "")
        except wire.WireError as error:
            self._end("protocol", str(error))
        raise AssertionError("unreachable")

    def _limit(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._channel.settimeout(left)

    def _help(self, question: dict) -> dict:
        """Compute a helper for the child: numbers and arrays in, a value out."""
        try:
            function = self._helpers[question["helper"]]
            args = [wire.decode(item) for item in question["args"]]
            if len(args) > 20 or not all(_harmless(item) for item in args):
                return {"error": "参数不对：这里只能用普通大小的数和布尔值"}
            return {"value": wire.encode(function(*args))}
        except Exception as error:  # a helper called with nonsense is the student's business
            return {"error": f"{type(error).__name__}: {error}"[:200]}

    def _end(self, why: str, message: str) -> None:
        self._over = True
        self._channel.close()
        ended = self._sandbox._finish(stop=why in ("time", "protocol"))
        if why == "ended":
            gone = f"代码中途退出了，没有给出结果 ({_how(ended['ended'])})"
            unexplained = "killed" if ended["ended"] == -signal.SIGKILL else "ended"
            why, message = {
                "memory": ("memory", "用的内存太多，被终止了 (out of memory)"),
                "time": ("time", "总时间太长，被终止了 (timeout)"),
                "lost": ("lost", "沙箱 (sandbox) 中断了，没有给出结果"),
            }.get(ended["why"], (unexplained, gone))
        raise AnswerEnded(why, message)


def _how(code: int | None) -> str:
    """How a process ended, from its exit code; below zero it was a signal."""
    if code is None or code >= 0:
        return f"process ended, exit code {code}"
    return f"process ended by signal {-code}"


def _harmless(value: Any) -> bool:
    """Small numbers only: a helper runs outside the sandbox."""
    return isinstance(value, (bool, int, float)) and abs(value) < 1e15


def _unreadable(why: Any) -> dict:
    return {"type": "返回值", "known": "ValueError", "message": f"返回的值读不出来：{why}"[:200], "line": 0}


def _clean_error(error: Any) -> dict:
    """An error as the child tells it, with every field of the right type."""
    fields = error if isinstance(error, dict) else {}
    clean = {name: str(fields.get(name, ""))[:300] for name in ("type", "known", "message")}
    line = fields.get("line", 0)
    return {**clean, "line": line if type(line) is int and 0 <= line < 10**6 else 0}
