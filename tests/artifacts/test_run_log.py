"""Logs are read while they are written, and NaN is seen."""

import pytest

from lab_utils.artifacts import run_log

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
