"""The checks of lab 05 accept right answers in several spellings and name each known mistake."""

import math

import numpy as np
import pytest

from lab_utils.checks import Check, swift_qlora
from lab_utils.evaluation.intervals import paired_difference
from tests.checks.kit import assert_check


def labels_in_a_loop(prompt, answer, end, length, pad):
    ids, labels = [], []
    for token in prompt:
        ids.append(token)
        labels.append(-100)
    for token in [*answer, end]:
        ids.append(token)
        labels.append(token)
    while len(ids) < length:
        ids.append(pad)
        labels.append(-100)
    return ids[:length], labels[:length]


def labels_as_lists(*args):
    return list(labels_in_a_loop(*args))


def steps_in_integers(n, b, a, e):
    batches = (n + b - 1) // b
    return e * ((batches + a - 1) // a)


def cosine_by_half_angle(step, total, peak, warmup):
    if warmup and step < warmup:
        return step / warmup * peak
    return peak * math.cos(math.pi / 2 * (step - warmup) / (total - warmup)) ** 2


def numpy_interval(before, after, seed):
    change = np.array(after, float) - np.array(before, float)
    rng = np.random.default_rng(seed + 7)
    means = rng.choice(change, (10_000, len(change))).mean(1)
    return (change.mean(), *np.quantile(means, [0.025, 0.975]))


def library_interval(before, after, seed):
    found = paired_difference(before, after, seed=seed + 3)
    return [found.value, found.low, found.high]


ACCEPTED = {
    swift_qlora.QLORA_FLAGS: [
        lambda rank, alpha: dict(swift_qlora.qlora_flags(rank, alpha), lora_alpha=alpha * 1.0),
        lambda r, a: {**swift_qlora.qlora_flags(0, 0), "lora_rank": r, "lora_alpha": a},
    ],
    swift_qlora.MAKE_LABELS: [labels_in_a_loop, labels_as_lists],
    swift_qlora.OPTIMIZER_STEPS: [steps_in_integers, lambda n, b, a, e: math.ceil(math.ceil(n / b) / a) * e],
    swift_qlora.LEARNING_RATE_AT: [
        cosine_by_half_angle,
        lambda s, t, p, w: np.float64(cosine_by_half_angle(s, t, p, w)),
    ],
    swift_qlora.ROWS_WITHOUT_LABELS: [
        lambda b: [i for i in range(len(b)) if set(b[i]) == {-100}],
        lambda b: [i for i, row in enumerate(b) if max(row) == -100],
    ],
    swift_qlora.PAIRED_INTERVAL: [numpy_interval, library_interval],
}


@pytest.mark.parametrize("check", ACCEPTED, ids=lambda check: check.name)
def test_accepts_right_answers_and_names_mistakes(check):
    assert_check(check, ACCEPTED[check])


def test_every_check_is_tested():
    assert {v for v in vars(swift_qlora).values() if isinstance(v, Check)} == set(ACCEPTED)
