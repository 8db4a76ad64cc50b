import numpy as np
import pytest
from scipy import stats

from lab_utils.errors import InvalidValue
from lab_utils.evaluation.intervals import Interval, bootstrap, paired_difference


@pytest.mark.parametrize("seed", [0, 3])
def test_bootstrap_is_the_percentiles_of_resampled_means(seed):
    """The figures of earlier editions stay: the same generator picks the same rows."""
    values = np.random.default_rng(3).random(150) < 0.7
    picks = np.random.default_rng(seed).integers(0, 150, (10_000, 150))
    low, high = np.quantile(values.astype(float)[picks].mean(axis=1), [0.025, 0.975])
    found = bootstrap(values, seed=seed)
    assert (found.value, found.n) == (pytest.approx(values.mean()), 150)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_one_value_is_its_own_interval():
    assert bootstrap([0.3]) == Interval(0.3, 0.3, 0.3, 1)


def test_equal_values_that_are_no_rates_have_no_width():
    assert bootstrap([0.3] * 5).low == bootstrap([0.3] * 5).high == pytest.approx(0.3)
    assert paired_difference([1, 1, 0], [1, 1, 0]) == Interval(0.0, 0.0, 0.0, 3)


@pytest.mark.parametrize("values", [[0] * 200, [1] * 200])
def test_all_equal_rates_get_the_exact_binomial_bound(values):
    exact = stats.binomtest(sum(values), 200).proportion_ci(0.95, method="exact")
    found = bootstrap(values)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert found.low < found.high


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = sum(not bootstrap(rng.random(120) < 0.4, rounds=1000, seed=i).excludes(0.4) for i in range(300))
    assert 0.91 <= hits / 300 <= 0.98


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(1)
    before = rng.normal(size=200)
    after = before + 0.1 + 0.1 * rng.normal(size=200)
    found = paired_difference(before, after)
    assert found.excludes(0) and found.value == pytest.approx((after - before).mean())
    assert found.high - found.low < 0.25 * (bootstrap(after).high - bootstrap(after).low)


@pytest.mark.parametrize("values", [[], [[1, 2]], [1.0, float("nan")], [float("inf")]])
def test_bad_values_are_refused(values):
    with pytest.raises(InvalidValue, match="值|values"):
        bootstrap(values)


def test_unequal_pairs_are_refused():
    with pytest.raises(InvalidValue, match="before 有 2 个，after 有 3 个"):
        paired_difference([1, 2], [1, 2, 3])


def test_same_seed_same_interval():
    values = [0.2, 0.5, 0.9, 0.1]
    assert bootstrap(values, seed=5) == bootstrap(values, seed=5)
