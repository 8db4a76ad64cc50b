"""Checks of latency: first token, gaps, percentiles."""

import itertools
import math
from random import Random

from lab_utils.checks.frame import Case, Check, Mistake
from lab_utils.serving import load

__all__ = ["FIRST_AND_GAP", "PERCENTILE", "first_and_gap", "percentile"]


def first_and_gap(sent: float, pieces: list[float]) -> tuple[float, float]:
    """`(TTFT, mean inter-token latency)` in seconds of one request; one piece has no gap: 0.0."""
    gaps = [after - before for before, after in itertools.pairwise(pieces)]
    return pieces[0] - sent, sum(gaps) / len(gaps) if gaps else 0.0


def percentile(values: list[float], q: float) -> float:
    """The smallest value that at least `q` per cent of `values` don't exceed (nearest rank)."""
    return load.percentile(values, q)


def _draw_times(rng: Random) -> tuple:
    """Times in sixteenths of a second, whose differences are exact."""
    times = [rng.randint(0, 4000) / 8]
    for _ in range(rng.randint(3, 9)):
        times.append(times[-1] + rng.randint(1, 40) / 16)
    return times[0], times[1:]


FIRST_AND_GAP = Check(
    "first_and_gap",
    first_and_gap,
    draw=_draw_times,
    cases=(
        Case(
            "0.5 秒发出，三段文字",
            (0.5, [1.0, 1.25, 1.75]),
            "TTFT 从发出请求算起；间隔是相邻两段到达时刻之差的平均",
        ),
        Case("五段，快慢不一", (2.0, [2.25, 2.5, 2.5625, 3.5, 4.0]), "n 段文字只有 n-1 个间隔"),
        Case("只有一段", (1.0, [4.0]), "只有一段时没有间隔，返回 0.0，不要除以零", edge=True),
    ),
    tolerance=1e-9,
    mistakes=(
        Mistake(
            "TTFT 从 0 算起",
            lambda s, p: (p[0], first_and_gap(s, p)[1]),
            "首词元延迟是从这个请求发出的时刻 sent 算起的",
        ),
        Mistake("除以段数", lambda s, p: (p[0] - s, (p[-1] - p[0]) / len(p)), "n 段文字之间只有 n-1 个间隔"),
        Mistake(
            "把首段也算成间隔",
            lambda s, p: (p[0] - s, (p[-1] - s) / len(p)),
            "等第一段文字的时间属于 TTFT，不算间隔",
        ),
        Mistake(
            "总时间当作 TTFT",
            lambda s, p: (p[-1] - s, first_and_gap(s, p)[1]),
            "这是整个请求的用时；TTFT 只到第一段文字",
        ),
        Mistake("次序反了", lambda s, p: first_and_gap(s, p)[::-1], "先返回 TTFT，再返回平均间隔"),
        Mistake(
            "只有一段时除以零",
            lambda s, p: (p[0] - s, (p[-1] - p[0]) / (len(p) - 1)),
            "只有一段文字时间隔个数是 0，要单独处理",
        ),
        Mistake(
            "最大间隔",
            lambda s, p: (p[0] - s, max([b - a for a, b in itertools.pairwise(p)], default=0.0)),
            "要的是平均间隔，不是最大的那一个",
        ),
    ),
)


_TEN = [70.0, 10.0, 40.0, 100.0, 20.0, 60.0, 90.0, 30.0, 80.0, 50.0]


def _draw_latencies(rng: Random) -> tuple:
    values = [rng.randint(1, 10**6) / 8 for _ in range(rng.choice((9, 13, 21, 33)))]
    return values, rng.choice((25, 50, 90, 95, 99))


PERCENTILE = Check(
    "percentile",
    percentile,
    draw=_draw_latencies,
    cases=(
        Case("10 个数的 p50", (_TEN, 50), "先排序；至少一半的数不超过它"),
        Case("10 个数的 p95", (_TEN, 95), "第 ceil(0.95 × 10) 个"),
        Case("7 个数的 p90", ([5.0, 1.0, 4.0, 2.0, 7.0, 3.0, 6.0], 90), "名次 q/100 × n 不是整数时向上取整"),
        Case("p100", (_TEN, 100), "p100 是最大的一个", edge=True),
        Case("只有一个数", ([3.0], 50), "只有一个数时，哪个百分位都是它", edge=True),
    ),
    tolerance=1e-9,
    mistakes=(
        Mistake(
            "没有排序",
            lambda v, q: v[math.ceil(q / 100 * len(v)) - 1],
            "名次是从小到大排好以后的名次，先排序",
        ),
        Mistake(
            "没有减 1",
            lambda v, q: ([*sorted(v), max(v)])[math.ceil(q / 100 * len(v))],
            "第 k 个数的下标是 k - 1",
        ),
        Mistake(
            "向下取整",
            lambda v, q: sorted(v)[max(1, int(q / 100 * len(v))) - 1],
            "名次要向上取整，否则盖不住 q% 的数",
        ),
        Mistake(
            "从大到小",
            lambda v, q: sorted(v, reverse=True)[math.ceil(q / 100 * len(v)) - 1],
            "从小到大排序：p95 应当是很大的数",
        ),
        Mistake("最大值的 q%", lambda v, q: max(v) * q / 100, "百分位是一个名次，不是最大值的百分之几"),
        Mistake(
            "平均数",
            lambda v, q: sum(v) / len(v),
            "平均数会被少数极慢的请求带偏，也看不出它们；这里要按名次取",
        ),
        Mistake(
            "q 没有除以 100", lambda v, q: sorted(v)[math.ceil(q * len(v)) - 1], "q 是百分数，要除以 100"
        ),
    ),
)
