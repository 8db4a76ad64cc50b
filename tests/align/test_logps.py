"""Log-probabilities of sequences equal TRL's, and say what is wrong with their input."""

import math

import pytest
import torch
from trl.experimental.cpo import CPOTrainer
from trl.experimental.kto import KTOTrainer
from trl.experimental.orpo import ORPOTrainer
from trl.trainer.utils import selective_log_softmax

from lab_utils.align import sequence_logps, token_logps
from tests.align.trl_code import (
    IGNORE,
    generators,
    integer,
    normal,
    prompts_and_completions,
    same,
    same_gradients,
)


@pytest.mark.parametrize("trainer", [CPOTrainer, KTOTrainer, ORPOTrainer])
@pytest.mark.parametrize("average", [False, True])
def test_equal_to_get_batch_logps(trainer, average):
    for generator in generators():
        rows, width = integer(generator, 1, 5), integer(generator, 2, 9)
        labels = prompts_and_completions(generator, rows, 7, width)["labels"]
        logits = normal(generator, rows, width, 7).requires_grad_()
        ours = sequence_logps(logits, labels, average=average)
        theirs = trainer.get_batch_logps(logits, labels, average_log_prob=average)
        same(ours, theirs)
        same_gradients(ours.sum(), theirs.sum(), logits)


def test_tokens_equal_selective_log_softmax_in_float32():
    for generator in generators():
        logits = normal(generator, 3, 8, 11).float()
        labels = torch.randint(0, 11, (3, 8), generator=generator)
        same(token_logps(logits, labels), selective_log_softmax(logits[:, :-1], labels[:, 1:]))


def test_known_values():
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0], [9.0, -9.0]]])
    labels = torch.tensor([[0, 1, 0]])
    expected = torch.tensor([[math.log(3 / 4), math.log(1 / 2)]])
    torch.testing.assert_close(token_logps(logits, labels), expected)
    torch.testing.assert_close(sequence_logps(logits, labels), expected.sum(1))
    torch.testing.assert_close(sequence_logps(logits, labels, average=True), expected.mean(1))


def test_padding_does_not_count():
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    short = sequence_logps(logits[:, :3], torch.tensor([[2, 3, 1]]), average=True)
    padded = sequence_logps(logits, torch.tensor([[2, 3, 1, IGNORE]]), average=True)
    torch.testing.assert_close(padded, short)


def test_another_ignored_label():
    logits = torch.zeros(1, 3, 4)
    assert token_logps(logits, torch.tensor([[0, -1, 2]]), ignore=-1).tolist() == [
        [0.0, pytest.approx(-math.log(4))]
    ]


@pytest.mark.parametrize(
    ("labels", "average", "message"),
    [
        (torch.zeros(1, 3, dtype=torch.long), False, "不要自己先错位"),
        (torch.tensor([[1, 2, 9, 1]]), False, "labels 里有 9"),
        (torch.tensor([[1, 2, -1, 1]]), False, "labels 里有 -1"),
        (torch.tensor([[1, IGNORE, IGNORE, IGNORE]]), True, "第 0 行"),
    ],
)
def test_errors(labels, average, message):
    with pytest.raises(ValueError, match=message):
        sequence_logps(torch.zeros(1, 4, 5), labels, average=average)


def test_one_token_is_no_sequence():
    with pytest.raises(ValueError, match="至少要有 2 个词元"):
        token_logps(torch.zeros(1, 1, 5), torch.zeros(1, 1, dtype=torch.long))


def test_nothing_supervised_sums_to_zero():
    assert sequence_logps(torch.zeros(1, 3, 5), torch.full((1, 3), IGNORE)).item() == 0
