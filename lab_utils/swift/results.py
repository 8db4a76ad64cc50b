"""A finished run, read back: its log as a table, its checkpoints, what was dropped, how fast it was."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lab_utils.artifacts import checkpoint, run_log
from lab_utils.swift import failure

if TYPE_CHECKING:
    from pandas import DataFrame


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
    def log(self) -> "DataFrame":
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
        """The checkpoint with the best evaluation; NotFound when nothing was evaluated."""
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
