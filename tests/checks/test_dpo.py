"""The checks of lab 08 accept right answers in several spellings and name each known mistake."""

import pytest
import torch
import torch.nn.functional as F

from lab_utils import align
from lab_utils.checks import Check, dpo
from tests.checks.kit import assert_check


def logps_by_cross_entropy(logits, labels):
    batch, length = labels.shape
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
    return -loss.view(batch, length - 1).sum(1)


def logps_in_a_loop(logits, labels):
    totals = []
    for row, targets in zip(logits, labels, strict=True):
        total = torch.tensor(0.0)
        for t in range(1, len(targets)):
            if targets[t] != -100:
                total = total + row[t - 1, targets[t]] - torch.logsumexp(row[t - 1], dim=0)
        totals.append(total)
    return torch.stack(totals)


def dpo_by_softplus(chosen, rejected, ref_chosen, ref_rejected, beta):
    return F.softplus(-beta * ((chosen - rejected) - (ref_chosen - ref_rejected)))


def dpo_by_bce(chosen, rejected, ref_chosen, ref_rejected, beta):
    margin = beta * (chosen - ref_chosen) - beta * (rejected - ref_rejected)
    return F.binary_cross_entropy_with_logits(margin, torch.ones_like(margin), reduction="none")


def stats_in_python(chosen, rejected, ref_chosen, ref_rejected, beta):
    columns = (x.tolist() for x in (chosen, rejected, ref_chosen, ref_rejected))
    margins = [beta * ((c - a) - (r - b)) for c, r, a, b in zip(*columns, strict=True)]
    return [sum(margins) / len(margins), sum(m > 0 for m in margins) / len(margins)]


def stats_in_torch(chosen, rejected, ref_chosen, ref_rejected, beta):
    rewards = beta * (torch.stack([chosen, rejected]) - torch.stack([ref_chosen, ref_rejected]))
    margin = rewards[0] - rewards[1]
    return float(margin.mean()), float((margin > 0).double().mean())


def clip_by_max(logps, old_logps, advantages, epsilon):
    ratio = (logps - old_logps).exp()
    return torch.maximum(-ratio * advantages, -torch.clamp(ratio, 1 - epsilon, 1 + epsilon) * advantages)


def clip_by_cases(logps, old_logps, advantages, epsilon):
    ratio = logps.exp() / old_logps.exp()
    bounded = torch.where(advantages > 0, ratio.clamp(max=1 + epsilon), ratio.clamp(min=1 - epsilon))
    return -bounded * advantages


ACCEPTED = {
    dpo.SEQUENCE_LOGPS: [logps_by_cross_entropy, logps_in_a_loop],
    dpo.BRADLEY_TERRY_LOSS: [
        lambda c, r: F.softplus(r - c),
        lambda c, r: torch.logaddexp(c, r) - c,
    ],
    dpo.DPO_LOSS: [dpo_by_softplus, dpo_by_bce],
    dpo.REWARD_STATS: [stats_in_python, stats_in_torch],
    dpo.PPO_CLIP_LOSS: [clip_by_max, clip_by_cases],
    dpo.KL_K3: [
        lambda logps, ref: torch.exp(ref - logps) - (ref - logps) - 1,
        lambda logps, ref: ref.exp() / logps.exp() - 1 + logps - ref,
    ],
}


@pytest.mark.parametrize("check", ACCEPTED, ids=lambda check: check.name)
def test_accepts_right_answers_and_names_mistakes(check):
    assert_check(check, ACCEPTED[check])


def test_every_check_is_tested():
    assert {v for v in vars(dpo).values() if isinstance(v, Check)} == set(ACCEPTED)


def test_the_clipped_loss_is_what_ppo_averages():
    logps, old, advantages, epsilon = dpo.PPO_CLIP_LOSS.cases[0].args
    mean = dpo.ppo_clip_loss(logps, old, advantages, epsilon).mean()
    torch.testing.assert_close(
        mean, align.ppo_policy_loss(logps, old, advantages, torch.ones_like(logps), epsilon)
    )
