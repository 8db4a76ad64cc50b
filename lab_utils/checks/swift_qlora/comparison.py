"""Checks of before and after: a paired bootstrap interval."""

import random
from random import Random

from lab_utils.checks.frame import Case, Check, Mistake

__all__ = ["PAIRED_INTERVAL", "paired_interval"]


def paired_interval(before: list[bool], after: list[bool], seed: int) -> tuple[float, float, float]:
    """`(mean, low, high)`: mean of `after - before` and its 95 % bootstrap interval by 10,000 resamples.

    Uses `random.Random(seed)`; low and high are the values at 2.5 % and 97.5 % of the sorted means.
    """
    change = [a - b for a, b in zip(after, before, strict=True)]
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(change, k=len(change))) / len(change) for _ in range(10_000))
    return sum(change) / len(change), means[250], means[9749]


def _scores(seed: int, n: int, gain: float) -> tuple[list[float], list[float]]:
    rng = random.Random(seed)
    before = [rng.gauss(0, 1) for _ in range(n)]
    return before, [b + rng.gauss(gain, 1) for b in before]


def _outcomes(seed: int, n: int, low: float, high: float) -> tuple[list[bool], list[bool]]:
    rng = random.Random(seed)
    before = [rng.random() < low for _ in range(n)]
    return before, [b or rng.random() < high for b in before]


def _unpaired(before, after, seed):
    rng = random.Random(seed)
    n = len(before)
    means = sorted((sum(rng.choices(after, k=n)) - sum(rng.choices(before, k=n))) / n for _ in range(10_000))
    return (sum(after) - sum(before)) / n, means[250], means[9749]


def _ninety(before, after, seed):
    change = [a - b for a, b in zip(after, before, strict=True)]
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(change, k=len(change))) / len(change) for _ in range(10_000))
    return sum(change) / len(change), means[500], means[9499]


def _spread_of_values(before, after, seed):
    change = sorted(a - b for a, b in zip(after, before, strict=True))
    n = len(change)
    return sum(change) / n, change[int(0.025 * n)], change[int(0.975 * n)]


def _draw_scores(rng: Random) -> tuple:
    before = [rng.gauss(0, 1) for _ in range(100)]
    gain = rng.uniform(-0.3, 0.3)
    return before, [score + rng.gauss(gain, 1) for score in before], rng.randrange(1000)


PAIRED_INTERVAL = Check(
    "paired_interval",
    paired_interval,
    draw=_draw_scores,
    cases=(
        Case(
            "100 对，底座很少通过",
            (*_outcomes(1, 100, 0.02, 0.85), 0),
            "每次有放回地抽 n 个差值，求平均；10000 个平均数排序后取 2.5% 和 97.5% 处",
        ),
        Case("100 对实数分数，差别小", (*_scores(2, 100, 0.2), 0), "先求每一对的差，再抽样"),
        Case(
            "没有变化",
            ([True, False] * 20, [True, False] * 20, 0),
            "每一对都一样时，区间就是 0 到 0",
            edge=True,
        ),
    ),
    tolerance=0.015,  # two bootstraps of one sample differ by less, 90 % and 95 % bounds by more
    mistakes=(
        Mistake("不配对", _unpaired, "before 和 after 是同一批题目：先求每题的差，再对差值抽样，不要分开抽"),
        Mistake("90% 区间", _ninety, "这是 5% 到 95%，即 90% 区间；95% 区间取 2.5% 和 97.5%"),
        Mistake("个体的分布", _spread_of_values, "这是单个差值的分布，不是平均数的分布：要先重抽样求平均"),
        Mistake(
            "方向反了",
            lambda b, a, s: tuple(-x for x in paired_interval(b, a, s)),
            "差是 after - before，正数表示变好",
        ),
        Mistake("只有平均", lambda b, a, s: paired_interval(b, a, s)[0], "返回三个数：(平均, 下界, 上界)"),
    ),
)
