"""Follow the process of a `swift` command to its proven end; of a run that fails no half-made result is left."""

import contextlib
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from lab_utils import processes
from lab_utils.artifacts import checkpoint, run_log
from lab_utils.errors import NotFound
from lab_utils.files import write_atomic
from lab_utils.swift import failure
from lab_utils.swift.build import Command
from lab_utils.swift.failure import SwiftError
from lab_utils.swift.progress import Progress

TRAINING = ("sft", "rlhf")
POLL = 0.2
"""Seconds between looks at the run."""


class Follower:
    """One run of a `swift` command, and what it leaves behind.

    `folder` and `log_path`: where results and output are, in the end; `seconds`: wall-clock time of the run.
    """

    def __init__(
        self, command: Command, target: Path, log_path: Path, progress: Progress | None, timeout: float | None
    ):
        self.command, self.target, self.log_path = command, target, log_path
        self.progress, self.timeout = progress, timeout
        self.training = command.sub in TRAINING
        self.versioned = self.training and command.versioned
        self.before = set(checkpoint.versions(target)) if self.versioned else set()
        self.folder = target if command.sub != "infer" else target.parent
        self.located = not self.versioned
        self.log: run_log.LogReader | None = None
        self.identity: Mapping[str, str | float] = {}
        self.began = time.monotonic()
        self.seconds = 0.0

    def follow(self) -> SwiftError | None:
        """Run to the end; None after success, else the error. Interrupts are passed on."""
        environment = {**self.command.env, "PYTHONUNBUFFERED": "1"}
        process = processes.start(self.command.argv, env=environment, log=self.log_path, name="swift")
        try:
            self.identity = processes.identity(process.pid)
            self._mark("running")
            code = self._wait(process)
        except BaseException:
            process.stop()
            self._close("interrupted")
            raise
        self.seconds = time.monotonic() - self.began
        problem = self._timed_out() if code is None else self._problem(code)
        self._close("failed" if problem else "finished")
        if problem:
            problem.log_path = self.log_path
        return problem

    def _wait(self, process: processes.Process) -> int | None:
        """Exit status, or None when the time was up and the process was killed."""
        code = None
        while code is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(POLL)
            self._look()
            if code is None and self.timeout is not None and time.monotonic() - self.began > self.timeout:
                process.stop()
                return None
        return code

    def _look(self) -> None:
        """See whether the version folder is there by now, and show what is new in the log."""
        if not self.located:
            new = {path: n for path, n in checkpoint.versions(self.target).items() if path not in self.before}
            if new:
                self.folder, self.located = max(new, key=new.__getitem__), True
                self._mark("running")
        if self.log is None and self.training and self.located:
            self.log = run_log.LogReader(self.folder / run_log.FILE)
        if self.progress:
            self.progress.update(self.log.read_new() if self.log else [])

    def _mark(self, status: str) -> None:
        """Write the run's state into its folder, atomically."""
        if not (self.training and self.located and self.folder.is_dir()):
            return
        state = {
            "status": status,
            "command": self.command.show(),
            "seconds": round(self.seconds, 3),
            **self.identity,
        }
        write_atomic(self.folder / checkpoint.MARK, json.dumps(state, ensure_ascii=False, indent=1))

    def _close(self, status: str) -> None:
        """Mark the end, take the log along, and rename the version folder of a run that failed."""
        self._mark(status)
        if self.versioned and self.located:
            if status != "finished":
                self.folder = self.folder.rename(self.folder.with_name(f"{self.folder.name}.{status}"))
            self.log_path = self.log_path.replace(self.folder / self.log_path.name)
        if self.progress:
            self.progress.close(status, time.monotonic() - self.began)

    def _timed_out(self) -> SwiftError:
        return SwiftError(
            f"swift {self.command.sub} 超过 {self.timeout:g} 秒，已终止", failure.TIMEOUT, self._tail()
        )

    def _problem(self, code: int) -> SwiftError | None:
        name = f"swift {self.command.sub}"
        if code:
            text = failure.read_output(self.log_path)
            cause = failure.diagnose(text, code)
            return SwiftError(f"{name} 失败了（退出码 {code}）", cause, failure.tail(text))
        if self.training:
            return self._training_problem(name)
        wanted = self.command.result_path or self.command.output_dir
        if wanted and not wanted.exists():
            return SwiftError(f"{name} 结束了，但没有写出 {wanted}", failure.NO_OUTPUT, self._tail())
        return None

    def _training_problem(self, name: str) -> SwiftError | None:
        rows = run_log.read_log(self.folder / run_log.FILE) if self.located else []
        if bad := run_log.not_finite(rows):
            return SwiftError(f"{name} 第 {bad[1]} 步的 {bad[0]} 不是有限的数", failure.NAN, self._tail())
        if not run_log.summary(rows) or not run_log.steps(rows):
            return SwiftError(f"{name} 结束了，但日志里没有训练记录", failure.NO_OUTPUT, self._tail())
        try:
            checkpoint.checkpoints(self.folder)
        except NotFound as error:
            return SwiftError(f"{name} 结束了，但{error.what}", failure.NO_OUTPUT, self._tail())
        return None

    def _tail(self) -> str:
        return failure.tail(failure.read_output(self.log_path))
