"""Run a `swift` command to its proven end: follow it, and leave no process and no half-made result."""

import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from lab_utils.artifacts import checkpoint, run_log
from lab_utils.data.validate import validate_messages
from lab_utils.files import write_atomic
from lab_utils.swift import failure
from lab_utils.swift.build import Command
from lab_utils.swift.failure import SwiftError
from lab_utils.swift.progress import Progress

TRAINING = ("sft", "rlhf")
PAIRED = ("dpo", "orpo", "simpo", "cpo", "kto", "rm")  # rlhf types whose rows end with an answer
POLL = 0.2  # seconds between looks at the run


@dataclass(frozen=True)
class Run:
    """A finished run. `folder`: where its results are (of training the version folder, with
    checkpoints and log); `log_path`: all it printed; `seconds`: wall-clock time, start-up included."""

    folder: Path
    log_path: Path
    seconds: float
    command: str = field(repr=False)

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """A finished training run from disk; any folder that `find_checkpoint` takes."""
        last = checkpoint.find_checkpoint(folder)
        mark = last.parent / checkpoint.MARK
        known = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else {}
        seconds = known.get(
            "seconds",
            run_log.summary(run_log.read_log(last.parent / run_log.FILE)).get("train_runtime", math.nan),
        )
        return cls(last.parent, last.parent / "run.log", seconds, known.get("command", ""))

    @property
    def log(self):
        """One row a training step as a pandas DataFrame (`step`, `loss`, `grad_norm` …)."""
        return run_log.frame(self.folder / run_log.FILE)

    @property
    def summary(self) -> dict:
        """ms-swift's closing figures: `train_runtime` (seconds), `train_loss` …"""
        return run_log.summary(run_log.read_log(self.folder / run_log.FILE))

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return checkpoint.find_checkpoint(self.folder)

    @property
    def best(self) -> Path:
        """The checkpoint with the best evaluation; FileNotFoundError when nothing was evaluated."""
        return checkpoint.find_checkpoint(self.folder, "best")

    @property
    def dropped(self) -> int:
        """Training and evaluation rows that ms-swift left out as too long or malformed."""
        text = failure.read_output(self.log_path) if self.log_path.exists() else ""
        counts = re.findall(r"Dataset filtered, origin length: (\d+), filtered dataset length: (\d+)", text)
        return sum(int(before) - int(after) for before, after in counts)

    @property
    def tokens_per_second(self) -> float | None:
        """Input tokens trained on per second of training, None unless the run had
        `include_num_input_tokens_seen=True`."""
        rows = run_log.read_log(self.folder / run_log.FILE)
        seen = [row["num_input_tokens_seen"] for row in rows if "num_input_tokens_seen" in row]
        runtime = run_log.summary(rows).get("train_runtime")
        return max(seen) / runtime if seen and runtime else None


def run(command: Command, *, progress: bool = True, timeout: float | None = None) -> Run:
    """Run `command` and return when it has succeeded.

    Before training, local `.jsonl` data is checked row by row. Output goes to `run.log` beside the
    results. An interrupt, an error, a `timeout` (seconds) or the end of this process kills the
    whole process tree; the run is then marked, its folder renamed, and `find_checkpoint` refuses
    it. Raises DataError for bad data, SwiftError when the command fails or leaves no result:
    no checkpoint, a NaN loss. KeyboardInterrupt passes through.
    """
    if command.sub == "deploy":
        raise ValueError("swift deploy 会一直运行，不能用 run；它是服务，要在后台启动。")
    _check_before(command)
    target = _target(command)
    target.parent.mkdir(parents=True, exist_ok=True)
    log_path = target / "run.log" if command.sub in TRAINING else target.with_name(target.name + ".log")
    log_path.parent.mkdir(parents=True, exist_ok=True)
    watch = _Watch(command, target, log_path, Progress(command.sub) if progress else None, timeout)
    outcome = watch.follow()
    if outcome is not None:
        raise outcome
    done = Run(watch.folder, watch.log_path, watch.seconds, command.show())
    if command.sub in TRAINING and done.dropped:
        warnings.warn(
            f"ms-swift 丢弃了 {done.dropped} 行数据（太长或格式不对），见 {done.log_path}", stacklevel=2
        )
    return done


class _Watch:
    """One process and what it leaves behind."""

    def __init__(
        self, command: Command, target: Path, log_path: Path, progress: Progress | None, timeout: float | None
    ):
        self.command, self.target, self.log_path = command, target, log_path
        self.progress, self.timeout = progress, timeout
        self.training = command.sub in TRAINING
        self.versioned = self.training and command.get("add_version") != "false"
        self.before = _versions(target) if self.versioned else set()
        self.folder = target if command.sub != "infer" else target.parent
        self.found = not self.versioned
        self.began = time.monotonic()
        self.seconds = 0.0

    def follow(self) -> SwiftError | None:
        """Run to the end; None after success, else the error. Interrupts are passed on."""
        with self.log_path.open("wb") as out:
            process = _start(self.command, out)
            try:
                self._mark("running")
                code = self._wait(process)
            except BaseException:
                _kill(process)
                self._close("interrupted")
                raise
            finally:
                process.stdin.close()
        self.seconds = time.monotonic() - self.began
        problem = self._timed_out() if code is None else self._problem(code)
        self._close("failed" if problem else "finished")
        if problem:
            problem.log_path = self.log_path
        return problem

    def _wait(self, process: subprocess.Popen) -> int | None:
        """Exit status, or None when the time was up and the process was killed."""
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
            if not self.found:
                self._look_for_version()
            if self.progress:
                self.progress.update(
                    run_log.read_log(self.folder / run_log.FILE) if self.training and self.found else []
                )
            if self.timeout is not None and time.monotonic() - self.began > self.timeout:
                _kill(process)
                return None
        if not self.found:
            self._look_for_version()
        _kill(process)  # what it started and left behind
        return process.returncode

    def _look_for_version(self) -> None:
        if new := _versions(self.target) - self.before:
            self.folder, self.found = max(new, key=checkpoint.version_number), True
            self._mark("running")

    def _mark(self, status: str) -> None:
        """Write the run's state into its folder, atomically."""
        if not (self.training and self.found and self.folder.is_dir()):
            return
        state = {
            "status": status,
            "command": self.command.show(),
            "seconds": round(self.seconds, 3),
            "pid": os.getpid(),
        }
        write_atomic(self.folder / checkpoint.MARK, json.dumps(state, ensure_ascii=False, indent=1))

    def _close(self, status: str) -> None:
        """Mark the end, take the log along, and rename the version folder of a run that failed."""
        self._mark(status)
        if self.versioned and self.found:
            if status != "finished":
                self.folder = self.folder.rename(self.folder.with_name(f"{self.folder.name}.{status}"))
            self.log_path = self.log_path.replace(self.folder / self.log_path.name)
        if self.progress:
            self.progress.close(status, time.monotonic() - self.began)

    def _timed_out(self) -> SwiftError:
        return SwiftError(
            f"swift {self.command.sub} 超过 {self.timeout:g} 秒，已终止。", failure.TIMEOUT, self._tail()
        )

    def _problem(self, code: int) -> SwiftError | None:
        name = f"swift {self.command.sub}"
        code = 128 - code if code < 0 else code  # a signal to the guard or to the command: the same
        if code:
            text = failure.read_output(self.log_path)
            cause = failure.diagnose(text, code)
            return SwiftError(f"{name} 失败了（退出码 {code}）。", cause, failure.tail(text))
        if self.training:
            return self._training_problem(name)
        wanted = self.command.get("result_path") or self.command.get("output_dir")
        if wanted and not Path(wanted).exists():
            return SwiftError(f"{name} 结束了，但没有写出 {wanted}。", failure.NO_OUTPUT, self._tail())
        return None

    def _training_problem(self, name: str) -> SwiftError | None:
        rows = run_log.read_log(self.folder / run_log.FILE) if self.found else []
        if bad := run_log.not_finite(rows):
            return SwiftError(f"{name} 第 {bad[1]} 步的 {bad[0]} 不是有限的数。", failure.NAN, self._tail())
        if not run_log.summary(rows) or not run_log.steps(rows):
            return SwiftError(f"{name} 结束了，但日志里没有训练记录。", failure.NO_OUTPUT, self._tail())
        try:
            checkpoint.checkpoints(self.folder)
        except FileNotFoundError as error:
            return SwiftError(f"{name} 结束了，但{error}", failure.NO_OUTPUT, self._tail())
        return None

    def _tail(self) -> str:
        return failure.tail(failure.read_output(self.log_path))


def _start(command: Command, out) -> subprocess.Popen:
    """Start `command` under a guard, in a session of its own, so that it dies with this process."""
    guard = Path(__file__).with_name("guard.py")
    return subprocess.Popen(
        [sys.executable, "-I", str(guard), *command.argv],
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, **command.env, "PYTHONUNBUFFERED": "1"},
    )


def _kill(process: subprocess.Popen) -> None:
    """Kill the process group and all descendants, and wait until they are gone."""
    import psutil

    tree = []
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)
    for child in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()
    psutil.wait_procs(tree, timeout=10)


def _versions(folder: Path) -> set[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return {path for path in found if path.is_dir() and checkpoint.version_number(path) is not None}


def _target(command: Command) -> Path:
    """The folder or file that the command writes to."""
    if command.sub == "infer":
        path = command.get("result_path")
        if path is None:
            raise ValueError("swift infer 要写明 result_path：结果写到哪个 jsonl 文件。")
    else:
        path = command.get("output_dir")
        if path is None:
            raise ValueError(f"swift {command.sub} 要写明 output_dir：结果写到哪个文件夹。")
    target = Path(path)
    if command.get("add_version") == "false" and target.is_dir() and checkpoint.is_version(target):
        _clear(target)
    return target


def _clear(folder: Path) -> None:
    """Empty a folder that holds a failed run of ours; refuse when it holds anything better."""
    if not (folder / checkpoint.MARK).exists() or checkpoint.status(folder) in ("finished", "running"):
        raise ValueError(
            f"{folder} 里已有一次训练的结果。换一个 output_dir，或去掉 add_version=False 让它自动编号。"
        )
    shutil.rmtree(folder)


def _check_before(command: Command) -> None:
    """Check local data of a training run as ms-swift would use it."""
    with_answers = command.sub == "sft" or (
        command.sub == "rlhf" and (command.get("rlhf_type") or "dpo") in PAIRED
    )
    if not with_answers:
        return
    tokenizer = _tokenizer(command)
    length = command.get("max_length")
    for name in (*command.values("dataset"), *command.values("val_dataset")):
        path = Path(name.split("#")[0])
        if path.suffix == ".jsonl":
            validate_messages(
                path,
                tokenizer,
                int(length) if length else None,
                command.get("truncation_strategy") or "delete",
            )


def _tokenizer(command: Command):
    """The model's tokenizer when it is local and its chat template is what the run trains on."""
    model = command.get("model")
    if (
        command.get("template") != "chatml"
        or not model
        or not (Path(model) / "tokenizer_config.json").exists()
    ):
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)
