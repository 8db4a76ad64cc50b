"""Find what a run produced: from any folder of a run to its last or best checkpoint."""

import json
import re
from pathlib import Path

from lab_utils import processes
from lab_utils.artifacts.run_log import FILE, read_log, summary
from lab_utils.errors import InvalidValue, NotFound

MARK = "run.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "model.safetensors", "pytorch_model.bin",
            "model.safetensors.index.json", "pytorch_model.bin.index.json")  # fmt: skip
_AGAIN = "请重新运行训练"
_STATUS = {
    "running": ("还在运行", "请等它结束；它若是在另一台机器上运行、已经不在了，请重新运行训练"),
    "killed": ("在运行中被强行关掉了 (killed)", _AGAIN),
    "failed": ("失败了", _AGAIN),
    "interrupted": ("被中断了", _AGAIN),
}
"""What became of a run that hasn't finished, and what to do."""


def find_checkpoint(folder: str | Path, which: str = "last") -> Path:
    """The `last` or `best` checkpoint of a finished run.

    `folder` may be the run's output folder, one of its `vN-date` versions, or a checkpoint
    itself. Only runs that came to their regular end count, and of several versions the newest
    must have. `best` is what the run's `metric_for_best_model` chose, so it needs evaluation.
    Raises NotFound, saying what is there instead; InvalidValue for another `which`.
    """
    if which not in ("last", "best"):
        raise InvalidValue(f"which={which!r} 不对", "只能写 'last' 或 'best'")
    folder = Path(folder)
    if not folder.is_dir():
        raise NotFound(f"没有这个文件夹：{folder}", "请先运行训练，再找检查点 (checkpoint)")
    if is_checkpoint(folder):
        if run_folder := _run_of(folder):
            _require_finished(run_folder)
        return folder
    version = newest_version(folder)
    if version is None:
        raise _nothing_here(folder)
    _require_finished(version)
    return _best(version) if which == "best" else checkpoints(version)[-1]


def checkpoints(version: Path) -> list[Path]:
    """Complete checkpoints of one version of a run, by step. Raises NotFound when there is none."""
    complete = {
        int(path.name.split("-")[1]): path
        for path in version.glob("checkpoint-*")
        if re.fullmatch(r"checkpoint-\d+", path.name) and is_checkpoint(path)
    }
    if not complete:
        raise NotFound("没有完整的检查点 (checkpoint)", "请检查 save_steps 是否大于总步数", str(version))
    return [complete[step] for step in sorted(complete)]


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` holds trained weights saved by a trainer (a base model has no trainer state)."""
    return (folder / "trainer_state.json").exists() and any((folder / name).exists() for name in _WEIGHTS)


def newest_version(folder: Path) -> Path | None:
    """`folder` itself if a run was written straight into it, else its newest `vN-date`, else None."""
    if is_version(folder):
        return folder
    numbered = versions(folder)
    return max(numbered, key=numbered.__getitem__) if numbered else None


def versions(folder: Path) -> dict[Path, int]:
    """The folders `vN-date` in `folder`, each with its N; empty when there is no such folder."""
    inside = folder.iterdir() if folder.is_dir() else ()
    return {path: n for path in inside if path.is_dir() and (n := version_number(path)) is not None}


def is_version(folder: Path) -> bool:
    """Whether a run was written straight into `folder`."""
    return any((folder / name).exists() for name in (MARK, FILE)) or any(folder.glob("checkpoint-*"))


def version_number(folder: Path) -> int | None:
    """N of `vN-20260101-120000` (also with `.failed` or `.interrupted` behind it)."""
    match = re.fullmatch(r"v(\d+)-\d{8}-\d{6}(\.\w+)?", folder.name)
    return int(match[1]) if match else None


def status(version: Path) -> str:
    """`finished`, `running`, `killed`, `failed` or `interrupted`; for runs started elsewhere from their log.

    `killed`: it was running when last heard of, and its process is there no more. Of a run on another machine
    that can't be known; it counts as running.
    """
    if (version / MARK).exists():
        known = json.loads((version / MARK).read_text(encoding="utf-8"))
        gone = known["status"] == "running" and processes.alive(known) is False
        return "killed" if gone else known["status"]
    return "finished" if summary(read_log(version / FILE)) else "interrupted"


def _run_of(checkpoint: Path) -> Path | None:
    return checkpoint.parent if is_version(checkpoint.parent) else None


def _require_finished(version: Path) -> None:
    state = status(version)
    if state != "finished":
        became, remedy = _STATUS[state]
        raise NotFound(
            f"训练 {version.name} {became}，它的检查点不能用",
            f"{remedy}；若要用更早一次完成的训练，把那次的文件夹直接传进来 ({version})",
        )


def _best(version: Path) -> Path:
    last = checkpoints(version)[-1]
    name = json.loads((last / "trainer_state.json").read_text(encoding="utf-8")).get("best_model_checkpoint")
    best = version / Path(name).name if name else None
    if best is None:
        raise NotFound(
            "没有记录最佳检查点：训练时没有评测",
            "加上 val_dataset（或 split_dataset_ratio）和 eval_strategy='steps'",
            str(version),
        )
    if not is_checkpoint(best):
        raise NotFound(
            f"最佳检查点 {best.name} 已不在了（被 save_total_limit 删掉）", "把 save_total_limit 调大"
        )
    return best


def _nothing_here(folder: Path) -> NotFound:
    """The error for a folder that holds no run: what it holds instead."""
    if (folder / "config.json").exists():
        return NotFound(
            f"{folder} 是一个模型文件夹（底座或合并后的模型），不是训练结果", "请传训练的 output_dir"
        )
    if (folder / "adapter_config.json").exists():
        return NotFound(f"{folder} 是一个单独的适配器 (adapter)，没有训练记录", "把它直接传给 adapters 即可")
    inside = "、".join(sorted(p.name for p in folder.iterdir())[:8]) or "空的"
    return NotFound(
        f"{folder} 里没有训练结果（找不到 vN-日期 或 checkpoint-步数）", f"请检查路径，里面有：{inside}"
    )
