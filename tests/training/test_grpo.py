"""Rows for TRL's GRPO trainer, its log as a table, and poems kept on the way."""

import pytest
import torch

from lab_utils import rewards
from lab_utils.evaluation import verse_exam
from lab_utils.training import grpo

FORMS = ("五言绝句", "七言绝句")


@pytest.fixture(scope="module")
def train(train_grpo, tiny_qwen3):
    """Two steps on a fresh model: `train(folder, *callbacks)`; the trainer."""
    data = grpo.dataset(verse_exam.questions("reward", 8, FORMS))
    judges = [rewards.theme_word_count, rewards.verse_form]
    return lambda folder, *callbacks: train_grpo(tiny_qwen3(), judges, data, folder, 2, callbacks)


@pytest.fixture(scope="module")
def watched(tokenizer, train, tmp_path_factory):
    """A trained trainer and the samples that were kept."""
    samples = grpo.Samples(tokenizer, verse_exam.questions("eval", 3, FORMS), every=2, max_new_tokens=8)
    return train(tmp_path_factory.mktemp("watched"), samples), samples


def test_the_log_has_a_row_a_step_and_a_column_a_reward(watched):
    log = grpo.frame(watched[0].state.log_history)
    assert log["step"].tolist() == [1, 2]
    total = log["theme_word_count"] + log["verse_form"]
    assert torch.allclose(torch.tensor(log["reward"]), torch.tensor(total))
    assert set(grpo.SHORT_NAMES.values()) <= set(log.columns)
    assert (log["length"] <= 8).all() and log["frac_reward_zero_std"].between(0, 1).all()


def test_weights_make_the_reward_what_is_learned_from(watched):
    history = watched[0].state.log_history
    plain = grpo.frame(history)
    log = grpo.frame(history, {"theme_word_count": 1.0, "verse_form": 0.0})
    assert log["reward"].tolist() == log["theme_word_count"].tolist() == plain["theme_word_count"].tolist()
    with pytest.raises(ValueError, match="verse_rhyme"):
        grpo.frame(history, {"verse_rhyme": 1.0})


def test_poems_are_kept_before_the_first_step_and_after_every_second(watched):
    _, samples = watched
    assert list(samples.tables) == [0, 2]
    assert all(len(table) == 3 for table in samples.tables.values())


def test_watching_changes_neither_the_training_nor_its_random_numbers(watched, train, tmp_path):
    alone = train(tmp_path)
    assert alone.model.training == watched[0].model.training
    for one, other in zip(alone.model.parameters(), watched[0].model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_data_set_holds_questions_only():
    rows = verse_exam.questions("reward", 2, FORMS)
    made = grpo.dataset(rows)
    assert made.column_names == ["prompt", "form", "theme"]
    assert made[1]["prompt"] == rows[1]["messages"] and made[1]["theme"] == rows[1]["theme"]
    with pytest.raises(ValueError, match="空的"):
        grpo.dataset([])
    answered = {**rows[0], "messages": [*rows[0]["messages"], {"role": "assistant", "content": "诗"}]}
    with pytest.raises(ValueError, match="第 2 行"):
        grpo.dataset([rows[1], answered])


def test_a_log_without_rewards_is_refused():
    with pytest.raises(ValueError, match="logging_steps"):
        grpo.frame([{"step": 2, "train_runtime": 1.0}])


def test_rows_of_ms_swift_are_read_too():
    row = {
        "step": 3,
        "loss": 0.0,
        "reward": 0.5,
        "rewards/theme_in_form/mean": 0.4,
        "rewards/theme_in_form/std": 0.1,
    }
    assert grpo.frame([row]).to_dict("records") == [
        {"step": 3, "loss": 0.0, "reward": 0.5, "theme_in_form": 0.4}
    ]


def test_every_below_one_is_refused(tokenizer):
    with pytest.raises(ValueError, match="every"):
        grpo.Samples(tokenizer, [], every=0)
