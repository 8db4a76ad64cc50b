import numpy as np
import pytest
from scipy import stats

from lab_utils import plots
from lab_utils.evaluation.intervals import Interval, bootstrap, paired_difference


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(3).random(150) < 0.7
    ours = bootstrap(values)
    theirs = stats.bootstrap((values.astype(float),), np.mean, n_resamples=10_000, method="percentile", rng=1)
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.01)


@pytest.mark.parametrize(("values", "side"), [([0] * 200, "less"), ([1] * 200, "greater")])
def test_all_equal_rates_get_the_exact_binomial_bound(values, side):
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
    with pytest.raises(ValueError, match="值|values"):
        bootstrap(values)


def test_unequal_pairs_are_refused():
    with pytest.raises(ValueError, match="before 有 2 个，after 有 3 个"):
        paired_difference([1, 2], [1, 2, 3])


def test_same_seed_same_interval():
    values = [0.2, 0.5, 0.9, 0.1]
    assert bootstrap(values, seed=5) == bootstrap(values, seed=5)


def test_every_character_of_a_figure_is_in_the_shipped_font(tmp_path, recwarn):
    score = Interval(0.8, 0.7, 0.9, 200)
    ax = plots.rates({"五言绝句": {"底座": score, "微调后": score}}, "通过率 α/r ≤ −1", "比例 (rate)")
    ax.figure.savefig(tmp_path / "figure.png")
    assert not [str(w.message) for w in recwarn if "Glyph" in str(w.message) or "findfont" in str(w.message)]
    assert [bar.get_height() for bar in ax.patches] == [0.8, 0.8]


def test_token_mask_marks_only_supervised_tokens_and_escapes():
    page = plots.token_mask(["<b>", "好", "\n"], [False, True, False])
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert page.count(f"background:{plots.BRIGHT}") == 1 and "⏎" in page
