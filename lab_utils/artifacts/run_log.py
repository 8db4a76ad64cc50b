"""Read the log that ms-swift writes while it trains (`logging.jsonl`)."""

import json
import math
from pathlib import Path

FILE = "logging.jsonl"


def read_log(path: Path) -> list[dict]:
    """Lines of a `logging.jsonl` that are whole; a last line still being written is left out."""
    rows = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number < len(lines):
                raise ValueError(f"训练日志 {path} 第 {number} 行不是完整的 JSON。") from None
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def step_of(row: dict) -> tuple[int, int] | None:
    """(step, last step) of a log row, None for the final summary that has none."""
    step, _, last = str(row.get("global_step/max_steps", "")).partition("/")
    return (int(step), int(last)) if step.isdigit() and last.isdigit() else None


def steps(rows: list[dict]) -> list[dict]:
    """Rows of training steps and evaluations with an integer `step` added; summaries left out."""
    out = []
    for row in rows:
        if (at := step_of(row)) and "train_runtime" not in row:
            out.append(
                {"step": at[0], **{k: v for k, v in row.items() if not isinstance(v, (str, list, dict))}}
            )
    return out


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
