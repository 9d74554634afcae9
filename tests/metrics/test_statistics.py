import math

import numpy as np
import pytest
from scipy import stats

from ddim.metrics import statistics
from ddim.metrics.statistics import Estimate, estimate_difference, estimate_mean, estimate_share


def test_the_standard_error_of_a_mean_is_the_textbook_one():
    values = np.random.default_rng(0).normal(3, 2, (50, 4))
    found = estimate_mean(values)
    assert found.value == pytest.approx(values.mean(0))
    assert found.error == pytest.approx(values.std(0, ddof=1) / 50**0.5)
    assert found.high - found.value == pytest.approx(found.value - found.low)


def test_the_interval_of_a_ratio_covers_the_true_value_at_its_confidence():
    draw = np.random.default_rng(0)
    below = draw.exponential(1, (100, 2000))
    above = 3 * below + draw.normal(0, 1, below.shape) * below
    found = statistics.estimate_ratio(above, below)
    held = (found.low <= 3) & (found.high >= 3)
    assert 0.92 < held.mean() < 0.97


@pytest.mark.parametrize(("n", "m"), [(3, 3), (18, 2), (5, 40)])
def test_the_intervals_of_few_images_hold_the_truth_in_at_least_95_percent_of_cases(n, m):
    """Means of n and m normal values, and their difference, whose interval is conservative."""
    draw, sets = np.random.default_rng(0), 4000
    one, other = (estimate_mean(draw.normal(1, 2, (count, sets))) for count in (n, m))
    for found, truth in ((one, 1), (other, 1), (estimate_difference(one, other), 0)):
        assert np.mean((found.low <= truth) & (found.high >= truth)) > 0.94
    assert np.mean((other.low <= 1) & (other.high >= 1)) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062047), (2, 4.3026527), (9, 2.2621572), (math.inf, 1.9599640)]
)
def test_half_an_interval_is_the_quantile_of_students_t_in_standard_errors(freedom, quantile):
    """The quantiles are those of printed tables."""
    found = Estimate.from_error(np.array(3.0), np.array(2.0), freedom)
    assert found.high - 3 == pytest.approx(2 * quantile, rel=1e-7)
    assert found.error == pytest.approx(2)


def test_the_interval_of_zero_successes_has_its_closed_form():
    none, every = estimate_share(0, 100), estimate_share(100, 100)
    assert (none.value, none.low, none.high) == pytest.approx((0, 0, 1 - 0.025 ** (1 / 100)))
    assert (every.low, every.high) == pytest.approx((1 - none.high, 1))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
def test_the_interval_covers_the_true_share_at_least_at_its_confidence(p):
    n = 40
    shares = [estimate_share(k, n) for k in range(n + 1)]
    chances = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    assert sum(c for s, c in zip(shares, chances, strict=True) if s.low <= p <= s.high) >= 0.95


@pytest.mark.parametrize("n", [20, 299, 1000])
def test_false_alarms_exceed_the_bound_only_as_often_as_the_confidence_allows(n):
    draw = np.random.default_rng(0)
    # Of uniform draws the rate of false alarms is the threshold itself.
    found = [statistics.false_alarm_threshold(draw.random(n)) for _ in range(2000)]
    assert 0.02 < np.mean([rate > bound for rate, bound in found]) < 0.065
    assert found[0][1] == pytest.approx(max(0.01, 1 - 0.05 ** (1 / n)))


def test_the_best_of_many_equal_candidates_is_seldom_distinguishable():
    """By its own 95 % interval, the best of ten would be in about a fifth of the cases."""
    draws = np.random.default_rng(0).normal(size=(600, 10))
    best = [Estimate.from_error(values.min(), 1.0) for values in draws]
    assert np.mean([each.distinguishable for each in best]) > 0.15
    assert np.mean([each.distinguishable_among(10) for each in best]) < 0.05
    # With few degrees of freedom too, by Student's t.
    edge = stats.t.ppf(1 - 0.025 / 4, 3)
    for value, wanted in ((0.99 * edge, False), (1.01 * edge, True)):
        assert Estimate.from_error(value, 1.0, 3).distinguishable_among(4) == wanted
