import math

import numpy as np
import pytest

from ddim.metrics.proportions import false_alarm_threshold, share_interval


def test_the_interval_of_zero_successes_has_its_closed_form():
    low, high = share_interval(0, 100)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 100))
    assert share_interval(100, 100) == pytest.approx((1 - high, 1))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
def test_the_interval_covers_the_true_share_at_least_at_its_confidence(p):
    n = 40
    held = sum(
        math.comb(n, k) * p**k * (1 - p) ** (n - k)
        for k in range(n + 1)
        if share_interval(k, n)[0] <= p <= share_interval(k, n)[1]
    )
    assert held >= 0.95


@pytest.mark.parametrize("n", [20, 299, 1000])
def test_false_alarms_exceed_the_bound_only_as_often_as_the_confidence_allows(n):
    draw = np.random.default_rng(0)
    # Of uniform draws the rate of false alarms is the threshold itself.
    found = [false_alarm_threshold(draw.random(n)) for _ in range(2000)]
    too_many = np.mean([rate > bound for rate, bound in found])
    assert 0.02 < too_many < 0.065
    assert found[0][1] == pytest.approx(max(0.01, 1 - 0.05 ** (1 / n)))


def test_a_bound_of_one_per_cent_needs_299_draws():
    draws = np.arange(1.0, 300.0)
    assert false_alarm_threshold(draws) == (1.0, 0.01)
    assert false_alarm_threshold(draws[:298])[1] > 0.01
