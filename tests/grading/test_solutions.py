"""For every lab: the solution earns all points, what was given out earns none, a known mistake not all."""

from functools import cache

import pytest

from lab_utils import course
from lab_utils.authoring import master
from lab_utils.grading import notebook_file, sandbox, scoring, tasks
from lab_utils.grading.conversation import Request

NUMBERS = [lab.number for lab in course.LABS]


@pytest.fixture(scope="module")
def warm():
    """One sandbox with torch for all labs."""
    assert not sandbox.available()
    with sandbox.Sandbox(("numpy", "torch")) as box:
        yield box


@cache
def task(number):
    return tasks.load(number, 0)


def grade(number, box, student):
    lab = course.lab(number)
    nb = master.notebook(lab, master.read(lab), student=student)
    return scoring.grade(task(number), notebook_file.parse(master.dumps(nb).encode()), box)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_solution_earns_all(number, warm):
    earned = grade(number, warm, student=False)
    assert earned.score == sum(course.lab(number).points.values()), earned
    assert earned.notes == ()


@pytest.mark.parametrize("number", NUMBERS)
def test_the_blank_notebook_earns_nothing(number, warm):
    earned = grade(number, warm, student=True)
    assert earned.score == 0
    assert {result.stage for result in earned.exercises} == {"not_yet"}


@pytest.mark.parametrize("number", NUMBERS)
def test_a_second_run_gives_the_same_bytes(number, warm):
    first, second = (grade(number, warm, student=False) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("number", NUMBERS)
def test_every_exercise_has_hidden_cases_on_which_no_known_mistake_passes_all(number):
    for exercise in task(number).exercises:
        assert len(exercise.check.cases) >= exercise.visible + 3, f"the check of {exercise.name} has no draw"
        assert exercise.free < len(exercise.check.cases)
        assert exercise.check.judge(exercise.check.reference).ok
        for mistake in exercise.check.mistakes:
            assert not exercise.check.judge(mistake.answer).ok, (exercise.name, mistake.name)


@pytest.mark.parametrize("number", NUMBERS)
def test_another_seed_gives_other_hidden_inputs(number):
    for exercise in task(number).exercises:
        ours = [case.args for case in exercise.check.cases[exercise.visible :]]
        others = [case.args for case in exercise.check.hidden_cases(1, tasks.HIDDEN_CASES)]
        assert repr(ours) != repr(others)


def test_a_helper_of_the_course_answers_but_takes_only_numbers(warm):
    """Lab 01's model answer calls `parameters.attention_params`, which is worked out outside the sandbox."""
    lab, source = course.lab("01"), "from lab_utils.checks import parameters\n"
    tries = {
        "right": "parameters.attention_params(1024, 16, 8, 128, False)",
        "huge": "parameters.attention_params('x' * 10**6, 10**6, 8, 128, False)",
        "itself": "parameters.decoder_params(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)",
        "library": "__import__('lab_utils.params').params.count('Qwen3-0.6B')",
    }
    (exercise,) = [e for e in task(lab.number).exercises if e.name == "decoder_params"]
    found = {}
    for name, expression in tries.items():
        with warm.answer() as answer:
            code = f"{source}def decoder_params(*args):\n    return {expression}\n"
            answer.load(Request([code], 0, "decoder_params", [], exercise.helpers, exercise.constants))
            found[name] = answer.call((1,))
    assert found["right"].value == 1024 * 16 * 128 * 2 + 1024 * 8 * 128 * 2
    assert found["huge"].error.kind == "ValueError"
    for name in ("itself", "library"):
        assert "练习要自己写" in found[name].error.message
