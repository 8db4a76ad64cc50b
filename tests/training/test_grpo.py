"""Rows for TRL's GRPO trainer, and poems kept on the way."""

import pytest
import torch

from lab_utils.errors import InvalidValue
from lab_utils.evaluation import verse_exam
from lab_utils.training import grpo
from tests.training.conftest import FORMS


def test_poems_are_kept_before_the_first_step_and_after_every_second(watched):
    _, samples = watched
    assert list(samples.tables) == [0, 2]
    assert all(len(table) == 3 for table in samples.tables.values())


def test_watching_changes_neither_the_training_nor_its_random_numbers(watched, short_grpo, tmp_path):
    alone = short_grpo(tmp_path)
    assert alone.model.training == watched[0].model.training
    for one, other in zip(alone.model.parameters(), watched[0].model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_data_set_holds_questions_only():
    rows = verse_exam.questions("reward", 2, FORMS)
    made = grpo.dataset(rows)
    assert made.column_names == ["prompt", "form", "theme"]
    assert made[1]["prompt"] == rows[1]["messages"] and made[1]["theme"] == rows[1]["theme"]
    with pytest.raises(InvalidValue, match="空的"):
        grpo.dataset([])
    answered = {**rows[0], "messages": [*rows[0]["messages"], {"role": "assistant", "content": "诗"}]}
    with pytest.raises(InvalidValue, match="第 2 行"):
        grpo.dataset([rows[1], answered])


def test_every_below_one_is_refused(tokenizer):
    with pytest.raises(InvalidValue, match="every"):
        grpo.Samples(tokenizer, [], every=0)
