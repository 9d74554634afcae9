import numpy as np
import pytest

from ddim.metrics.statistics import Estimate, estimate_difference, estimate_mean, estimate_ratio


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
    found = estimate_ratio(above, below)
    held = (found.low <= 3) & (found.high >= 3)
    assert 0.92 < held.mean() < 0.97


def test_squared_errors_of_a_difference_add():
    found = estimate_difference(
        Estimate.from_error(np.array(5.0), np.array(3.0)), Estimate.from_error(np.array(1.0), np.array(4.0))
    )
    assert found.value == 4
    assert found.error == pytest.approx(5)
