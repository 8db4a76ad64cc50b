"""Scores with their uncertainty: rates, bootstrap intervals, paired comparison, all by scipy.stats."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lab_utils.errors import InvalidValue


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values with its confidence interval `[low, high]`."""

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95

    def __str__(self) -> str:
        return f"{self.value:.1%}（{self.level:.0%} 区间 {self.low:.1%} 到 {self.high:.1%}，n={self.n}）"

    def excludes(self, value: float) -> bool:
        """True when `value` lies outside the interval."""
        return not self.low <= value <= self.high


def bootstrap(values: Sequence[float], level: float = 0.95, rounds: int = 10_000, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of a mean (Efron 1979).

    values: (n,) numbers or booleans. When all values are equal every resample is the same and the bootstrap says
    nothing: for all-pass and all-fail the exact binomial bound (Clopper-Pearson; "rule of three") takes its place.

    Raises InvalidValue for no values or a value that is not finite.
    """
    array = _finite(values)
    if np.all(array == array[0]) and array[0] in (0.0, 1.0):
        from scipy.stats import binomtest

        exact = binomtest(int(array.sum()), len(array)).proportion_ci(level, method="exact")
        return Interval(float(array[0]), float(exact.low), float(exact.high), len(array), level)
    return _percentile_interval(array, level, rounds, seed)


def paired_difference(before: Sequence[float], after: Sequence[float], seed: int = 0) -> Interval:
    """95 % bootstrap interval of the mean of `after - before`, item by item on the same prompts.

    Raises InvalidValue when the two differ in length, are empty or hold a value that is not finite.
    """
    if len(before) != len(after):
        raise InvalidValue(
            "配对比较 (paired comparison) 需要同样多的结果："
            f"before 有 {len(before)} 个，after 有 {len(after)} 个",
            "两次要答同样的题，顺序也一样",
        )
    return _percentile_interval(_finite(after) - _finite(before), 0.95, 10_000, seed)


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not len(array):
        raise InvalidValue(f"values 的形状 (shape) 应为 (n,)，收到 {array.shape}", "给出一列至少一个的数")
    if not np.isfinite(array).all():
        place = int(np.flatnonzero(~np.isfinite(array))[0]) + 1
        raise InvalidValue(f"第 {place} 个值不是有限的数 (NaN 或 inf)", "先找出它从哪里来，再算区间")
    return array


def _percentile_interval(values: np.ndarray, level: float, rounds: int, seed: int) -> Interval:
    """The mean of `values`, (n,) float64, between the percentiles of the means of `rounds` resamples."""
    from scipy import stats

    mean = float(values.mean())
    if len(values) == 1:  # every resample is the one value
        return Interval(mean, mean, mean, 1, level)
    generator = np.random.default_rng(seed)
    bounds = stats.bootstrap(
        (values,), np.mean, n_resamples=rounds, confidence_level=level, method="percentile", rng=generator
    ).confidence_interval
    return Interval(mean, float(bounds.low), float(bounds.high), len(values), level)
