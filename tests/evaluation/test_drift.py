"""Drift is what its parts are in torch, and the logits are those that foretell the answer."""

import pytest
import torch
import torch.nn.functional as F

from lab_utils import export
from lab_utils.data.loss_mask import encode
from lab_utils.errors import InvalidValue
from lab_utils.evaluation.drift import answer_logits, drift

SAID = [
    [{"role": "user", "content": "一"}, {"role": "assistant", "content": "山月"}],
    [{"role": "user", "content": "写一首诗"}, {"role": "assistant", "content": "春江水"}],
]


def test_equals_torch():
    torch.manual_seed(0)
    p, q = torch.randn(7, 11), torch.randn(7, 11)
    found = drift(p, q)
    want = F.kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="batchmean", log_target=True)
    assert found.kl == pytest.approx(want.item(), rel=1e-5)
    assert found.max_abs == pytest.approx((p - q).abs().max().item())
    assert found.agreement == (p.argmax(-1) == q.argmax(-1)).float().mean().item()
    assert drift(p, p).kl == drift(p, p).max_abs == 0
    assert drift(p, p).agreement == 1


def test_shapes_must_agree():
    with pytest.raises(InvalidValue, match="形状"):
        drift(torch.zeros(2, 3), torch.zeros(3, 3))


def test_logits_are_those_of_the_answers_loss(base):
    """Their cross-entropy with the answer's tokens is the loss that the model itself computes."""
    candidate = export.local(base)
    logits = answer_logits(candidate, SAID)
    begin = 0
    for messages in SAID:
        ids, labels = encode(candidate.tokenizer, messages)
        learned = torch.tensor([label for label in labels if label != -100])
        own = logits[begin : begin + len(learned)]
        begin += len(learned)
        loss = candidate.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        assert F.cross_entropy(own, learned).item() == pytest.approx(loss.item(), rel=1e-5)
    assert begin == len(logits)


def test_no_conversation(base):
    with pytest.raises(InvalidValue, match="没有对话"):
        answer_logits(export.local(base), [])
