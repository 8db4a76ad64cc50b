"""Read the log that ms-swift writes while it trains (`logging.jsonl`)."""

import contextlib
import json
import math
from pathlib import Path

from lab_utils.errors import InvalidValue
from lab_utils.files import GrowingFile

FILE = "logging.jsonl"


class LogReader:
    """Reads a `logging.jsonl` that grows: each look reads and parses only what is new."""

    def __init__(self, path: Path):
        self.path, self.lines = path, 0
        self._file, self._rest = GrowingFile(path), b""

    def read_new(self) -> list[dict]:
        """Rows appended since the last look; a line that is still being written waits for the next.

        Raises InvalidValue for a whole line that isn't JSON.
        """
        whole, newline, self._rest = (self._rest + self._file.read_new()).rpartition(b"\n")
        return [row for line in whole.split(b"\n") for row in self._rows(line)] if newline else []

    def read_rest(self) -> list[dict]:
        """The last line, if it is a row though no end of line stands behind it."""
        with contextlib.suppress(InvalidValue):
            return self._rows(self._rest)
        return []

    def _rows(self, line: bytes) -> list[dict]:
        """The one row of a line, none for an empty line or for JSON that is no row."""
        self.lines += 1
        if not line.strip():
            return []
        try:
            row = json.loads(line.decode("utf-8", errors="replace"))
        except json.JSONDecodeError:
            what = f"训练日志第 {self.lines} 行不是完整的 JSON"
            raise InvalidValue(what, "这个文件被改动过，请重新运行训练", str(self.path)) from None
        return [row] if isinstance(row, dict) else []


def read_log(path: Path) -> list[dict]:
    """Rows of a `logging.jsonl`, empty when there is none; a last line still being written is left out.

    Raises InvalidValue for a line that isn't JSON.
    """
    reader = LogReader(path)
    return reader.read_new() + reader.read_rest()


def step_of(row: dict) -> tuple[int, int] | None:
    """(step, last step) of a log row, None for the final summary that has none."""
    step, _, last = str(row.get("global_step/max_steps", "")).partition("/")
    return (int(step), int(last)) if step.isdigit() and last.isdigit() else None


def steps(rows: list[dict]) -> list[dict]:
    """Rows of training steps and evaluations with an integer `step` added; summaries left out."""
    return [
        {"step": at[0], **{k: v for k, v in row.items() if not isinstance(v, (str, list, dict))}}
        for row in rows
        if (at := step_of(row)) and "train_runtime" not in row
    ]


def summary(rows: list[dict]) -> dict:
    """The row written when training came to its regular end (`train_runtime` …), {} if it didn't."""
    return next((row for row in reversed(rows) if "train_runtime" in row), {})


def frame(path: Path):
    """The log as a pandas DataFrame, one row a step: `step`, `loss`, `grad_norm`, `learning_rate`,
    `token_acc`, `epoch`, `memory(GiB)`, `train_speed(s/it)` … as far as the run logged them.

    An evaluation at the same step is merged into the step's row (`eval_loss` …).
    """
    import pandas as pd

    merged: dict[int, dict] = {}
    for row in steps(read_log(path)):
        merged.setdefault(row["step"], {}).update(row)
    return pd.DataFrame(list(merged.values()), columns=None if merged else ["step", "loss"])


def not_finite(rows: list[dict]) -> tuple[str, int] | None:
    """(column, step) of the first loss or gradient norm that is NaN or infinite.

    transformers replaces a NaN loss in its log by an average (`logging_nan_inf_filter`), so the
    gradient norm is looked at too.
    """
    for row in steps(rows):
        for name in ("loss", "grad_norm", "eval_loss"):
            value = row.get(name)
            if isinstance(value, (int, float)) and not math.isfinite(value):
                return name, row["step"]
    return None
