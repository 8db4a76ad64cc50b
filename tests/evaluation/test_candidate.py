"""A candidate in this process answers alike alone and in a batch, and says what it can't be made of."""

import pytest
import torch

from lab_utils.errors import InvalidValue
from lab_utils.evaluation.candidate import local
from lab_utils.evaluation.parity import logprob_difference


def test_batches_do_not_change_the_answer(merged, questions):
    """Left padding is masked: alone or beside a longer prompt, the same log-probabilities."""
    one = local(merged)
    ids = [one.prompt_ids([{"role": "user", "content": q}]) for q in questions]
    together = one.next_logprobs(ids)
    for row, alone in zip(together, [one.next_logprobs([i])[0] for i in ids], strict=True):
        assert logprob_difference(row, alone)[0] < 1e-4
    with torch.no_grad():
        logits = one.model(torch.tensor([ids[0]])).logits[0, -1].log_softmax(-1)
    assert all(logits[token] == pytest.approx(value, abs=1e-4) for token, value in together[0].items())


def test_a_tokenizer_without_a_template_is_named(merged):
    candidate = local(merged)
    candidate.tokenizer.chat_template = None
    with pytest.raises(InvalidValue, match="没有对话模板.*chat_template.jinja"):
        candidate.prompt_ids([{"role": "user", "content": "写诗"}])
