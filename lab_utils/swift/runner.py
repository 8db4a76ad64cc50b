"""Run a `swift` command to its proven end, and leave no process and no half-made result."""

import shutil
import warnings
from pathlib import Path

from lab_utils.artifacts import checkpoint
from lab_utils.data.validate import validate_messages
from lab_utils.errors import InvalidValue
from lab_utils.swift.build import Command
from lab_utils.swift.follow import TRAINING, Follower
from lab_utils.swift.progress import Progress
from lab_utils.swift.results import Run

PAIRED = ("dpo", "orpo", "simpo", "cpo", "kto", "rm")
"""Values of rlhf_type whose rows end with an answer."""


def run(command: Command, *, progress: bool = True, timeout: float | None = None) -> Run:
    """Run `command` and return when it has succeeded.

    Before training, local `.jsonl` data is checked row by row. Output goes to `run.log` beside the
    results. An interrupt, an error, a `timeout` (seconds) or the end of this process kills the
    whole process tree; the run is then marked, its folder renamed, and `find_checkpoint` refuses
    it. Raises DataError for bad data, InvalidValue for a command that can't be run like this, SwiftError when
    it fails or leaves no result: no checkpoint, a NaN loss. KeyboardInterrupt passes through.
    """
    if command.sub == "deploy":
        raise InvalidValue("swift deploy 会一直运行，不能用 run：它是服务", "在笔记本里请用 serving.serve")
    _check_data(command)
    target = _target(command)
    target.parent.mkdir(parents=True, exist_ok=True)
    log_path = target / "run.log" if command.sub in TRAINING else target.with_name(target.name + ".log")
    log_path.parent.mkdir(parents=True, exist_ok=True)
    follower = Follower(command, target, log_path, Progress(command.sub) if progress else None, timeout)
    outcome = follower.follow()
    if outcome is not None:
        raise outcome
    done = Run(follower.folder, follower.log_path, follower.seconds, command.show())
    if command.sub in TRAINING and done.dropped:
        warnings.warn(
            f"ms-swift 丢弃了 {done.dropped} 行数据（太长或格式不对），见 {done.log_path}", stacklevel=2
        )
    return done


def _target(command: Command) -> Path:
    """The folder or file that the command writes to."""
    if command.sub == "infer":
        target = command.result_path
        if target is None:
            raise InvalidValue("swift infer 没有写明 result_path", "请写明结果存到哪个 jsonl 文件")
        return target
    target = command.output_dir
    if target is None:
        raise InvalidValue(f"swift {command.sub} 没有写明 output_dir", "请写明结果存到哪个文件夹")
    if not command.versioned and target.is_dir() and checkpoint.is_version(target):
        _clear(target)
    return target


def _clear(folder: Path) -> None:
    """Empty a folder that holds a failed run of ours; refuse when it holds anything better."""
    if not (folder / checkpoint.MARK).exists() or checkpoint.status(folder) in ("finished", "running"):
        raise InvalidValue(
            f"{folder} 里已有一次训练的结果", "换一个 output_dir，或去掉 add_version=False 让它自动编号"
        )
    shutil.rmtree(folder)


def _check_data(command: Command) -> None:
    """Check local data of a training run as ms-swift would use it. Raises DataError."""
    kind = command.values.get("rlhf_type", "dpo")
    if command.sub != "sft" and not (command.sub == "rlhf" and kind in PAIRED):
        return
    tokenizer = _tokenizer(command)
    truncation = command.values.get("truncation_strategy", "delete")
    for name in command.datasets:
        path = Path(name.split("#")[0])
        if path.suffix == ".jsonl":
            validate_messages(path, tokenizer, command.max_length, truncation)


def _tokenizer(command: Command):
    """The model's tokenizer when it is local and its chat template is what the run trains on."""
    if command.values.get("template") != "chatml" or command.model is None:
        return None
    if not (Path(command.model) / "tokenizer_config.json").exists():
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(command.model)
