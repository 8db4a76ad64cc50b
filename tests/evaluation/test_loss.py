"""The loss of answers is that of transformers, and on held-out rows every token counts the same."""

import math

import pytest
import torch

from lab_utils.data.batches import collate, encode_rows
from lab_utils.errors import InvalidValue
from lab_utils.evaluation.loss import answer_loss, held_out_loss, perplexity
from tests.data.rows import POEMS


@pytest.fixture(scope="module")
def examples(tokenizer):
    return encode_rows(tokenizer, POEMS)


@pytest.fixture
def model(tiny_qwen3):
    return tiny_qwen3(tie_word_embeddings=True).eval()


def test_the_loss_is_that_of_transformers(model, examples):
    batch = collate(examples, pad_id=0)
    torch.testing.assert_close(answer_loss(model, batch), model(**batch).loss)


def test_held_out_loss_weighs_every_token_alike_in_whatever_batches(model, examples):
    one_by_one = [held_out_loss(model, [example]) for example in examples]
    tokens = [sum(label != -100 for label in labels) for _, labels in examples]
    assert len(set(tokens)) == 4
    mean = sum(loss * count for loss, count in zip(one_by_one, tokens, strict=True)) / sum(tokens)
    for batch_size in (1, 3, 32):
        assert held_out_loss(model, examples, batch_size) == pytest.approx(mean, rel=1e-5)
    with pytest.raises(InvalidValue, match="没有留出的数据"):
        held_out_loss(model, [])


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_given_back(model, examples, mode):
    model.train(mode)
    held_out_loss(model, examples)
    assert model.training is mode


def test_perplexity_of_a_uniform_guess_is_the_number_of_tokens():
    assert perplexity(math.log(5928)) == pytest.approx(5928)
