"""Scores with their uncertainty: rates, bootstrap intervals, paired comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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

    values: (n,) numbers or booleans. When all values are equal every resample is the same
    and the bootstrap says nothing: for all-pass and all-fail the exact binomial bound
    (Clopper-Pearson; "rule of three") takes its place.

    Raises ValueError for no values or a value that is not finite.
    """
    values = _finite(values)
    mean = float(values.mean())
    if mean in (0.0, 1.0) and set(np.unique(values)) <= {0.0, 1.0}:
        bound = 1 - ((1 - level) / 2) ** (1 / len(values))
        low, high = (0.0, bound) if mean == 0.0 else (1 - bound, 1.0)
    else:
        means = _resampled_means(values, rounds, seed)
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), len(values), level)


def paired_difference(
    before: Sequence[float], after: Sequence[float], level: float = 0.95, rounds: int = 10_000, seed: int = 0
) -> Interval:
    """Bootstrap interval of the mean of `after - before`, item by item on the same prompts.

    Raises ValueError when the two differ in length, are empty or hold a value that is not finite.
    """
    if len(before) != len(after):
        raise ValueError(
            f"配对比较 (paired comparison) 需要同样多的结果：before 有 {len(before)} 个，after 有 {len(after)} 个"
        )
    change = _finite(after) - _finite(before)
    means = _resampled_means(change, rounds, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(change.mean()), float(low), float(high), len(change), level)


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"需要一列至少一个的数 (values)，收到形状 {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(
            f"第 {int(np.flatnonzero(~np.isfinite(array))[0]) + 1} 个值不是有限的数 (NaN 或 inf)"
        )
    return array


def _resampled_means(values: np.ndarray, rounds: int, seed: int) -> np.ndarray:
    """Means of `rounds` resamples with replacement; (rounds,) float64."""
    picks = np.random.default_rng(seed).integers(0, len(values), (rounds, len(values)))
    return values[picks].mean(axis=1)
