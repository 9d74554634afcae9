"""The difference of the KID of two sets, and its interval."""

from functools import partial

import numpy as np
import pytest

import gaussian_features
from ddim.errors import UserError
from ddim.metrics.kid import kid, kid_difference

features = partial(gaussian_features.features, scale=0.8)


def value(x, y):
    return kid(x, y, subsets=1).value


def without(x, k):
    return np.delete(x, k, 0)


def spread(values):
    """Return the variance of the delete-one jackknife, from the values without each image."""
    return (len(values) - 1) * np.var(values)


@pytest.mark.parametrize("paired", [True, False])
def test_the_difference_of_kid_has_the_interval_of_the_joint_jackknife(paired):
    x, y, reference = features(12, 5, 0), features(12, 5, 1, 0.3), features(9, 5, 2)
    found = kid_difference(x, y, reference, paired=paired)
    apart = [value(x, without(reference, k)) - value(y, without(reference, k)) for k in range(9)]
    of_x = [value(without(x, k), reference) for k in range(12)]
    of_y = [value(without(y, k), reference) for k in range(12)]
    variance = spread(apart)
    variance += spread(np.subtract(of_x, of_y)) if paired else spread(of_x) + spread(of_y)
    difference, radius = value(x, reference) - value(y, reference), 1.959964 * variance**0.5
    assert found == pytest.approx((difference, difference - radius, difference + radius), rel=1e-9)


def test_a_run_does_not_differ_from_itself():
    x, reference = features(30, 4, 0), features(20, 4, 1, 0.2)
    assert kid_difference(x, x, reference, paired=True) == pytest.approx((0, 0, 0), abs=1e-15)


def test_unpaired_sets_may_have_different_numbers_of_images():
    x, y, reference = features(30, 4, 0), features(25, 4, 1, 0.2), features(20, 4, 2)
    difference, low, high = kid_difference(x, y, reference, paired=False)
    assert difference == pytest.approx(value(x, reference) - value(y, reference))
    assert low < difference < high
    with pytest.raises(UserError, match="paired sets must have the same number of images, got 30 and 25"):
        kid_difference(x, y, reference, paired=True)


def test_differences_of_three_images_a_set_are_the_smallest():
    x, reference = features(3, 4, 0), features(3, 4, 1)
    assert np.isfinite(kid_difference(x, x + 1, reference, paired=True)).all()
    for sets in ((x[:2], x, reference), (x, x[:2], reference), (x, x, reference[:2])):
        with pytest.raises(UserError, match="^KID needs at least 3 generated"):
            kid_difference(*sets, paired=False)


@pytest.mark.parametrize("paired", [True, False])
def test_the_interval_covers_the_true_difference_at_its_confidence(paired):
    """In 95 of 100 draws; with shared seeds the paired interval is less than half as wide."""
    held, widths = 0, []
    for seed in range(200):
        draw = np.random.default_rng(seed)
        x, reference = draw.standard_normal((60, 3)) + 1.0, draw.standard_normal((50, 3))
        # The same distribution, so that the difference is 0; paired samples are nearly equal.
        y = x + 0.1 * draw.standard_normal((60, 3)) if paired else draw.standard_normal((60, 3)) + 1.0
        x = x + 0.1 * draw.standard_normal((60, 3)) if paired else x
        _, low, high = kid_difference(x, y, reference, paired=paired)
        held += low <= 0 <= high
        widths.append((high - low) / np.subtract(*kid_difference(x, y, reference, paired=False)[2:0:-1]))
    assert 180 <= held <= 198
    assert np.mean(widths) < 0.5 if paired else np.mean(widths) == pytest.approx(1)
