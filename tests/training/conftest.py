"""One short GRPO run that the tests of its data, its samples and its log share."""

import pytest

from lab_utils import rewards
from lab_utils.evaluation import verse_exam
from lab_utils.training import grpo

FORMS = ("五言绝句", "七言绝句")


@pytest.fixture(scope="module")
def short_grpo(train_grpo, tiny_qwen3):
    """Two steps on a fresh model: `train(folder, *callbacks)`; the trainer."""
    data = grpo.dataset(verse_exam.questions("reward", 8, FORMS))
    judges = [rewards.theme_word_count, rewards.verse_form]
    return lambda folder, *callbacks: train_grpo(tiny_qwen3(), judges, data, folder, 2, callbacks)


@pytest.fixture(scope="module")
def watched(tokenizer, short_grpo, tmp_path_factory):
    """A trained trainer and the samples that were kept."""
    samples = grpo.Samples(tokenizer, verse_exam.questions("eval", 3, FORMS), every=2, max_new_tokens=8)
    return short_grpo(tmp_path_factory.mktemp("watched"), samples), samples
