"""The KL estimators: on average they are torch's KL divergence, or its gradient; errors."""

import math

import pytest
import torch

from lab_utils import align
from lab_utils.errors import InvalidValue
from tests.align.trl_code import generators, normal, same


def test_kl_estimators_on_average_are_the_kl():
    generator = torch.Generator().manual_seed(0)
    logps, ref_logps = normal(generator, 2, 9).log_softmax(-1)
    kl = torch.nn.functional.kl_div(ref_logps, logps, log_target=True, reduction="sum")
    for unbiased in (align.kl_k1, align.kl_k3):
        same((logps.exp() * unbiased(logps, ref_logps)).sum(), kl)
    assert (align.kl_k1(logps, ref_logps) < 0).any()
    assert (align.kl_k2(logps, ref_logps) >= 0).all() and (align.kl_k3(logps, ref_logps) >= 0).all()
    assert all(kl(logps, logps).abs().max() == 0 for kl in (align.kl_k1, align.kl_k2, align.kl_k3))


def test_the_gradient_of_k2_on_average_is_that_of_the_kl():
    for generator in generators():
        logits, ref_logits = normal(generator, 2, 6)
        logits.requires_grad_()
        logps, ref_logps = logits.log_softmax(-1), ref_logits.log_softmax(-1)
        average = (logps.detach().exp() * align.kl_k2(logps, ref_logps)).sum()
        kl = torch.nn.functional.kl_div(ref_logps, logps, log_target=True, reduction="sum")
        (ours,), (theirs,) = (
            torch.autograd.grad(value, logits, retain_graph=True) for value in (average, kl)
        )
        same(ours, theirs)


ROWS = torch.zeros(2, 3)
NAN = torch.full((2, 3), math.nan)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *[(lambda kl=kl: kl(ROWS, torch.zeros(3)), r"ref_logps 是 \(3,\)") for kl in (align.kl_k1, align.kl_k2, align.kl_k3)],
        (lambda: align.kl_k3(ROWS, NAN), "ref_logps 在位置"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(InvalidValue, match=message):
        call()
