"""Rows for TRL's GRPO trainer, its log as a table, and poems kept on the way."""

import pytest
import torch
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from lab_utils import grpo, models, rewards, verse_exam

FORMS = ("五言绝句", "七言绝句")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(models.path(models.SHIPPED))


def train(model, tokenizer, folder, callbacks):
    """Two steps of GRPO by TRL on `model`; the trainer."""
    settings = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=8,
        max_steps=2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        seed=0,
    )
    trainer = GRPOTrainer(
        model,
        [rewards.theme_word_count, rewards.verse_form],
        settings,
        train_dataset=grpo.dataset(verse_exam.questions("reward", 8, FORMS)),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def watched(tokenizer, tiny_qwen3, tmp_path_factory, plain_trainer):
    """A trained trainer and the samples that were kept."""
    samples = grpo.Samples(tokenizer, verse_exam.questions("eval", 3, FORMS), every=2, max_new_tokens=8)
    return train(tiny_qwen3(tokenizer), tokenizer, tmp_path_factory.mktemp("watched"), [samples]), samples


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


def test_watching_changes_neither_the_training_nor_its_random_numbers(
    watched, tokenizer, tiny_qwen3, tmp_path
):
    alone = train(tiny_qwen3(tokenizer), tokenizer, tmp_path, [])
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
