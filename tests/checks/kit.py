"""Test kit for checks: what a check must accept and what it must reject."""

from collections.abc import Callable
from dataclasses import replace

from lab_utils.checks.frame import Check


def assert_check(check: Check, accepted: list[Callable], least_mistakes: int = 5) -> None:
    """Assert that `check` is fit for students.

    It must accept its reference and every function in `accepted` (the same answer written
    in other ways), on hidden cases too, call an untouched stub "not yet", and reject each of
    its known mistakes with the hint of that very mistake and of no other.
    """

    def stub(*_):
        raise NotImplementedError

    assert check.judge(stub).stage == "not_yet"
    wider = replace(check, cases=check.cases + check.hidden_cases("accepted", 12))
    for answer in [check.reference, *accepted]:
        verdict = wider.judge(answer)
        assert verdict.ok, f"{check.name} rejects a right answer: {verdict}"
    assert len(check.mistakes) >= least_mistakes, f"{check.name} knows only {len(check.mistakes)} mistakes"
    for mistake in check.mistakes:
        verdict = check.judge(mistake.answer)
        assert not verdict.ok, f"{check.name} accepts the mistake {mistake.name!r}"
        assert verdict.mistake == mistake.name, (
            f"{check.name}: {mistake.name!r} taken for {verdict.mistake!r}"
        )
        assert verdict.hint == mistake.hint
