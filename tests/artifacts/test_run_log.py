"""Logs are read while they are written, and NaN is seen."""

import sys

import psutil
import pytest

from lab_utils.artifacts import run_log
from lab_utils.swift.progress import Progress

STEPS = (
    '{"loss": 2.5, "grad_norm": 1.0, "learning_rate": 0.1, "token_acc": 0.5, "epoch": 0.5, "global_step/max_steps": "1/2", "elapsed_time": "1s", "memory(GiB)": 0.3}\n'
    '{"loss": 2.0, "grad_norm": 0.9, "learning_rate": 0.0, "token_acc": 0.6, "epoch": 1.0, "global_step/max_steps": "2/2", "elapsed_time": "2s"}\n'
)
EVALUATION = '{"eval_loss": 1.9, "epoch": 1.0, "global_step/max_steps": "2/2"}\n'
END = (
    '{"train_runtime": 2.2, "train_loss": 2.25, "global_step/max_steps": "2/2"}\n'
    '{"last_model_checkpoint": "/x/checkpoint-2", "global_step": 2, "log_history": [{"loss": 2.5}], "memory": 0}\n'
)


def written(tmp_path, text):
    path = tmp_path / run_log.FILE
    path.write_text(text, encoding="utf-8")
    return path


def test_table_has_one_numeric_row_a_step(tmp_path):
    table = run_log.frame(written(tmp_path, STEPS + EVALUATION + END))
    assert table["step"].tolist() == [1, 2] and table["loss"].tolist() == [2.5, 2.0]
    assert table["eval_loss"].tolist()[1] == 1.9
    assert {"grad_norm", "learning_rate", "token_acc", "epoch", "memory(GiB)"} <= set(table.columns)
    assert all(kind.kind in "if" for kind in table.dtypes)


def test_half_written_last_line_waits(tmp_path):
    assert len(run_log.read_log(written(tmp_path, STEPS + '{"loss": 1.'))) == 2


def test_broken_line_inside_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="第 1 行"):
        run_log.read_log(written(tmp_path, "{oops\n" + STEPS))


def test_a_growing_log_is_read_once_and_by_whole_lines(tmp_path):
    """Cut anywhere, also inside a character: the rows are the same, and each comes once."""
    text = (STEPS + '{"loss": 1.0, "note": "春", "global_step/max_steps": "2/2"}\n' + END).encode()
    for size in (1, 7, 100, len(text)):
        path = tmp_path / f"{size}.jsonl"
        reader = run_log.LogReader(path)
        rows = reader.read_new()
        for start in range(0, len(text), size):
            with path.open("ab") as out:
                out.write(text[start : start + size])
            rows += reader.read_new()
        assert rows == run_log.read_log(path) and len(rows) == 5
        assert reader.read_new() == []


def test_a_look_at_a_long_log_costs_no_more_than_at_a_short_one(tmp_path):
    """Counted in bytes that the process reads and in functions that it calls, drawing the progress included."""
    work = {}
    for length in (100, 10_000):
        path = tmp_path / f"{length}.jsonl"
        row = '{{"loss": 2.5, "grad_norm": 1.0, "global_step/max_steps": "{:05d}/20000"}}\n'
        path.write_text("".join(row.format(step) for step in range(1, length + 1)))
        reader, progress = run_log.LogReader(path), Progress("sft")
        progress.update(reader.read_new())
        with path.open("a") as out:
            out.write(row.format(length + 1))
        before, calls = psutil.Process().io_counters().read_chars, []
        sys.setprofile(lambda frame, event, _, calls=calls: calls.append(event))
        progress.update(reader.read_new())
        progress._markup()
        sys.setprofile(None)
        read = psutil.Process().io_counters().read_chars - before
        assert progress.done["step"] == length + 1
        work[length] = read, len(calls)
    (short_read, short_calls), (long_read, long_calls) = work.values()
    assert 70 < long_read < short_read + 200  # the second look at the counters is read too
    assert long_calls < 2 * short_calls  # the curve has up to 121 points


def test_no_log_yet(tmp_path):
    assert run_log.read_log(tmp_path / run_log.FILE) == [] and list(
        run_log.frame(tmp_path / run_log.FILE)
    ) == [
        "step",
        "loss",
    ]


def test_regular_end_is_told_from_a_break(tmp_path):
    assert run_log.summary(run_log.read_log(written(tmp_path, STEPS + END)))["train_runtime"] == 2.2
    broken_off = STEPS + END.splitlines()[1] + "\n"  # ms-swift writes this line after an exception too
    assert run_log.summary(run_log.read_log(written(tmp_path, broken_off))) == {}


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_nan_is_found(tmp_path, name):
    old = {"loss": "2.0", "grad_norm": "0.9"}[name]
    rows = run_log.read_log(written(tmp_path, STEPS.replace(f'"{name}": {old}', f'"{name}": NaN')))
    assert run_log.not_finite(rows) == (name, 2)
    assert run_log.not_finite(run_log.read_log(written(tmp_path, STEPS))) is None
