"""The preflight refuses what can't learn, with everything that is wrong, and reports what can."""

import numpy as np
import pytest

from lab_utils.errors import InvalidValue
from lab_utils.rewards import (
    PreflightError,
    correct_answer,
    preflight,
    verse_form,
    verse_form_graded,
    verse_rhyme,
)
from tests.rewards.samples import POEM


def ready(**changed):
    """Preflight of a probe that can learn, with something changed."""
    setting = {
        "reward_functions": [verse_form, verse_form_graded],
        "groups": [[POEM, "春"], [POEM, POEM]],
        "rows": [{"prompt": str(i), "form": "五言绝句", "theme": "山楼"} for i in range(2)],
        "num_generations": 2,
        "generation_batch_size": 8,
        "temperature": 1.0,
    }
    return preflight(**{**setting, **changed})


def refused(**changed) -> list[str]:
    with pytest.raises(PreflightError) as caught:
        ready(**changed)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def test_a_probe_that_can_learn_is_reported():
    report = ready(reward_weights=[1.0, 2.0])
    assert (report.groups, report.num_generations) == (2, 2)
    form, graded = report.rewards
    assert (form.name, form.mean, form.std, form.zero_std_groups) == ("verse_form", 0.75, 0.5, 0.5)
    assert graded.name == "verse_form_graded"
    assert (report.total.mean, report.total.zero_std_groups) == (2.25, 0.5)
    assert report.silent == ()
    assert "verse_form：平均 0.750" in str(report) and "50% 的组" in str(report)


def test_std_is_what_trl_logs():
    import torch
    from trl.trainer.utils import nanstd

    values = verse_form_graded([POEM, "春", POEM, POEM], form=["五言绝句"] * 4)
    assert ready().rewards[1].std == pytest.approx(nanstd(torch.tensor(values)).item())


def test_a_reward_that_says_nothing_yet_is_pointed_out():
    report = ready(reward_functions=[verse_form, verse_rhyme], groups=[[POEM, POEM[:-1]]] * 2)
    assert report.silent == ("verse_rhyme",)
    assert "verse_rhyme 在每一组里都一样" in str(report)


def test_columns_and_prompts_arrive_as_in_trl():
    seen = {}

    def length(prompts, completions, form, **kwargs):
        seen.update(prompts=prompts, form=form, **kwargs)
        return [float(len(text)) for text in completions]

    ready(reward_functions=[length])
    assert seen["prompts"] == ["0", "0", "1", "1"] and seen["theme"] == ["山楼"] * 4
    assert "trainer_state" in seen and "prompt" not in seen


def test_swift_objects_are_accepted(plugin):
    report = ready(reward_functions=[plugin["verse_form"]()])
    assert report.rewards[0].name == "verse_form"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"generation_batch_size": 7}, ["不能整除", "generation_batch_size=7", "改成 8", "7 之一"]),
        ({"generation_batch_size": 1}, ["不能整除", "改成 2"]),
        ({"num_generations": 1, "groups": [[POEM], ["春"]]}, ["num_generations=1", "改成 2 以上"]),
        ({"temperature": 0.0}, ["贪心", "0.7"]),
        ({"temperature": float("nan")}, ["贪心"]),
        (
            {"groups": [[POEM, POEM + "\n"], ["春", "夏"]]},
            ["reward std = 0", "verse_form = 0 到 1", "verse_form_graded = 0 到 1"],
        ),
        ({"groups": [["春", "夏"], ["秋", "冬"]]}, ["verse_form = 0；", "分级"]),
        ({"reward_weights": [0.0, 0.0]}, ["reward_weights"]),
        ({"groups": [[POEM, POEM], ["春", "春"]]}, ["一字不差", "temperature"]),
    ],
)
def test_settings_that_can_not_learn_are_refused(changed, words):
    (problem,) = refused(**changed)
    assert all(word in problem for word in words), problem


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (None, ["NoneType", "不是数的列表"]),
        (np.zeros(4), ["ndarray"]),
        (1.0, ["float，不是数的列表"]),
        ([1.0], ["返回了 1 个奖励，回答有 4 个"]),
        ([1.0, None, 0.0, 0.0], ["第 2 个回答", "None，不是数"]),
        ([1.0, 0.0, "1", 0.0], ["第 3 个回答", "'1'"]),
        ([1.0, 0.0, 0.0, float("nan")], ["第 4 个回答", "NaN"]),
        ([float("inf"), 0.0, 0.0, 0.0], ["第 1 个回答", "inf"]),
    ],
)
def test_broken_reward_functions_are_refused_by_name(values, words):
    def broken(completions, **kwargs):
        return values

    (problem,) = refused(reward_functions=[verse_form, broken])
    assert problem.startswith("broken ") and all(word in problem for word in words), problem


def test_a_failing_reward_function_is_refused_with_its_error():
    (problem,) = refused(reward_functions=[correct_answer])
    assert problem.startswith("correct_answer 出错") and "缺少 answer" in problem


def test_all_problems_come_at_once():
    def broken(completions, **kwargs):
        return None

    assert len(refused(reward_functions=[broken], generation_batch_size=3, temperature=0.0)) == 3


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"groups": [], "rows": []}, "至少要有"),
        ({"reward_functions": []}, "至少要有"),
        ({"rows": [{"form": "五言绝句"}]}, "rows 有 1 行"),
        ({"groups": [[POEM, "春"], [POEM]]}, "第 2 组有 1 个回答"),
        ({"rows": [{"form": "五言绝句"}, {}]}, "字段不一样"),
        ({"reward_weights": [1.0]}, "reward_weights 有 1 个"),
    ],
)
def test_a_malformed_probe_is_an_error_of_its_own(changed, word):
    with pytest.raises(InvalidValue, match=word) as caught:
        ready(**changed)
    assert not isinstance(caught.value, PreflightError)
