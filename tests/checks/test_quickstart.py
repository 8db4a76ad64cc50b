"""The checks of lab 00 accept right answers in several spellings and name each known mistake."""

import numpy as np
import pytest

from lab_utils.checks import Check, quickstart
from tests.checks.kit import assert_check


def lengths_by_regex(text):
    import re

    return [len(line) for line in re.findall(r"[^，。\s]+", text)]


ACCEPTED = {
    quickstart.LINE_LENGTHS: [lengths_by_regex, lambda t: tuple(lengths_by_regex(t))],
    quickstart.IS_QUATRAIN: [
        lambda n: len(n) == 4 and all(x == 5 for x in n),
        lambda n: np.bool_(list(n) == [5] * 4),
    ],
    quickstart.PASS_RATE: [
        lambda p: float(np.mean(p)) if len(p) else 0,
        lambda p: p.count(True) / max(1, len(p)),
    ],
    quickstart.WEIGHT_GIB: [lambda n, b: n * (b / 8) / 1024**3, lambda n, b: np.float64(n) * b / 2**33],
}


@pytest.mark.parametrize("check", ACCEPTED, ids=lambda check: check.name)
def test_accepts_right_answers_and_names_mistakes(check):
    assert_check(check, ACCEPTED[check])


def test_every_check_is_tested():
    assert {v for v in vars(quickstart).values() if isinstance(v, Check)} == set(ACCEPTED)
