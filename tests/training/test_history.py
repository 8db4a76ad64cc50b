"""A trainer's log as a table: one row a step, of any of TRL's trainers, of GRPO and of ms-swift."""

import pytest
import torch

from lab_utils.errors import InvalidValue
from lab_utils.training.history import SHORT_NAMES, reward_steps, steps


def test_a_training_step_has_one_row():
    log = [
        {"loss": 0.69, "learning_rate": 1e-3, "step": 1},
        {"loss": "0.5", "learning_rate": 5e-4, "step": 2},
        {"eval_loss": 0.6, "step": 2},
        {"train_runtime": 3.0, "train_loss": 0.6, "step": 2},
    ]
    table = steps(log)
    assert table["step"].tolist() == [1, 2] and table["loss"].tolist() == [0.69, 0.5]
    assert list(table.columns) == ["loss", "learning_rate", "step"]


def test_the_log_has_a_row_a_step_and_a_column_a_reward(watched):
    log = reward_steps(watched[0].state.log_history)
    assert log["step"].tolist() == [1, 2]
    total = log["theme_word_count"] + log["verse_form"]
    assert torch.allclose(torch.tensor(log["reward"]), torch.tensor(total))
    assert set(SHORT_NAMES.values()) <= set(log.columns)
    assert (log["length"] <= 8).all() and log["frac_reward_zero_std"].between(0, 1).all()


def test_weights_make_the_reward_what_is_learned_from(watched):
    log_history = watched[0].state.log_history
    plain = reward_steps(log_history)
    log = reward_steps(log_history, {"theme_word_count": 1.0, "verse_form": 0.0})
    assert log["reward"].tolist() == log["theme_word_count"].tolist() == plain["theme_word_count"].tolist()
    with pytest.raises(InvalidValue, match="verse_rhyme"):
        reward_steps(log_history, {"verse_rhyme": 1.0})


def test_a_log_without_rewards_is_refused():
    with pytest.raises(InvalidValue, match="logging_steps"):
        reward_steps([{"step": 2, "train_runtime": 1.0}])


def test_rows_of_ms_swift_are_read_too():
    row = {
        "step": 3,
        "loss": 0.0,
        "reward": 0.5,
        "rewards/theme_in_form/mean": 0.4,
        "rewards/theme_in_form/std": 0.1,
    }
    assert reward_steps([row]).to_dict("records") == [
        {"step": 3, "loss": 0.0, "reward": 0.5, "theme_in_form": 0.4}
    ]
