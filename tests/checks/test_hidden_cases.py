"""Hidden cases of every check: enough of them, all different, none that a table of known answers passes."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from lab_utils.checks.compare import value_key
from lab_utils.checks.frame import Case, Check, Output, run
from tests.checks.every import CHECKS, NAMES

SEEDS = range(5)
PER_SEED = 32


@cache
def drawn(check: Check) -> list[tuple[Case, ...]]:
    """Hidden cases for each seed."""
    return [check.hidden_cases(seed, PER_SEED) for seed in SEEDS]


@pytest.mark.parametrize("check", CHECKS, ids=NAMES)
def test_no_hidden_case_equals_a_visible_one_or_another_of_any_seed(check):
    keys = [
        value_key(case.args) for case in (*check.cases, *(case for cases in drawn(check) for case in cases))
    ]
    assert len(set(keys)) == len(check.cases) + len(SEEDS) * PER_SEED


@pytest.mark.parametrize("check", CHECKS, ids=NAMES)
def test_hidden_cases_are_the_same_for_the_same_seed(check):
    again = check.hidden_cases(SEEDS[0], PER_SEED)
    assert [value_key(case.args) for case in again] == [value_key(case.args) for case in drawn(check)[0]]


@pytest.mark.parametrize("check", CHECKS, ids=NAMES)
def test_a_table_of_known_answers_passes_no_other_case(check):
    """Of the visible cases, or of the hidden ones of another seed: neither knows one of this seed."""
    for known in (check.cases, drawn(check)[1]):
        answers = {value_key(case.args): None for case in known}
        assert not [case for case in drawn(check)[0] if value_key(case.args) in answers]


@pytest.mark.parametrize("check", CHECKS, ids=NAMES)
def test_the_reference_answers_hidden_cases_and_known_mistakes_dont_pass(check):
    cases = check.cases + drawn(check)[0][:4]
    assert all(run(check.reference, case.args).error is None for case in cases)
    wider = replace(check, cases=cases)
    assert wider.judge(check.reference).ok
    assert [mistake.name for mistake in check.mistakes if wider.judge(mistake.answer).ok] == []


def doubled(x):
    return 2 * x


def draw_one_digit(rng):
    return (rng.randrange(10),)


def check_of(draw, name="doubled", visible=(3,)):
    return Check(name, doubled, cases=tuple(Case(str(x), (x,)) for x in visible), draw=draw)


def test_repeated_draws_are_left_out():
    assert sorted(case.args[0] for case in check_of(draw_one_digit).hidden_cases(7, 9)) == [
        0,
        1,
        2,
        4,
        5,
        6,
        7,
        8,
        9,
    ]


def test_a_generator_that_is_too_poor_is_a_fault_of_the_check():
    with pytest.raises(RuntimeError, match="draw of doubled gave 9 different inputs, not 10"):
        check_of(draw_one_digit).hidden_cases(7, 10)


def test_a_check_without_a_generator_has_no_hidden_cases():
    assert check_of(None).hidden_cases(7, 4) == ()


def test_fewer_hidden_cases_are_the_first_of_more():
    check = check_of(draw_one_digit)
    assert check.hidden_cases(7, 2) == check.hidden_cases(7, 5)[:2]


def test_exercises_of_one_name_in_two_labs_draw_differently():
    def draw(rng):
        return (rng.randrange(10**6),)

    def elsewhere(rng):
        return (rng.randrange(10**6),)

    elsewhere.__module__ = "lab_utils.checks.another_lab"
    ours, theirs = (check_of(make).hidden_cases(7, 4) for make in (draw, elsewhere))
    assert not {case.args for case in ours} & {case.args for case in theirs}
    other_name = check_of(draw, name="twice").hidden_cases(7, 4)
    assert not {case.args for case in ours} & {case.args for case in other_name}


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]), True),
        (torch.tensor([1.0, 2.0]), np.array([1.0, 2.0]), True),
        (torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 2.0]]), False),
        (torch.zeros(0, 2), torch.zeros(0, 3), False),
        ([1, 2], (1, 2), True),
        ([1, 2], [2, 1], False),
        ({"a": [1]}, {"a": [1]}, True),
        ({"a": [1]}, {"a": [2]}, False),
        ([float("nan")], [float("nan")], True),
        ("7", 7, False),
        (None, "None", False),
    ],
)
def test_inputs_are_compared_by_value(one, other, equal):
    assert (value_key(one) == value_key(other)) is equal


def test_hidden_cases_tell_no_value():
    check = check_of(draw_one_digit)
    (case,) = check.hidden_cases(7, 1)
    stage, message, _ = check.finding(case, Output(value=-1))
    assert (stage, message) == ("edge", "用例「隐藏用例 1」的结果不对")
