from functools import partial

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

import gaussian_features
from ddim.metrics.kid import kid, kid_difference

features = partial(gaussian_features.features, scale=0.8)

SIZES = [(40, 40, 8), (60, 35, 3), (30, 90, 64), (1500, 1100, 16)]


def pair_by_pair(x, y):
    """Return the unbiased MMD^2 by its definition: means of the kernel over pairs of different images."""
    kernel = lambda a, b: (float(np.dot(a, b)) / len(a) + 1) ** 3
    within = lambda z: np.mean([kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])
    return within(x) + within(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])


@pytest.mark.parametrize("n, m, d", SIZES)
def test_kid_over_subsets_equals_torch_fidelity(n, m, d):
    x, y = features(n, d, 0), features(m, d, 100, shift=0.3)
    size = min(n, m) * 2 // 3
    ours = kid(x, y, subsets=7, size=size, seed=3)
    options = {"kid_subsets": 7, "kid_subset_size": size, "rng_seed": 3, "verbose": False}
    theirs = kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), **options)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6, abs=1e-12)
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-6)
    assert (ours.subsets, ours.size) == (7, size)


def test_the_interval_is_the_jackknife_that_leaves_out_every_image_in_turn():
    x, y = features(9, 4, 0), features(7, 4, 1, shift=0.4)
    variance = 0.0
    for one, without in ((x, lambda i: (np.delete(x, i, 0), y)), (y, lambda i: (x, np.delete(y, i, 0)))):
        values = np.array([pair_by_pair(*without(i)) for i in range(len(one))])
        variance += (len(one) - 1) / len(one) * ((values - values.mean()) ** 2).sum()
    found = kid(x, y, subsets=1)
    assert found.value == pytest.approx(pair_by_pair(x, y), rel=1e-10)
    assert found.high - found.value == pytest.approx(1.9599639845 * variance**0.5, rel=1e-9)
    assert found.value - found.low == pytest.approx(1.9599639845 * variance**0.5, rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.6])
def test_the_interval_covers_the_true_value_at_its_confidence(shift):
    # The kernel of independent Gaussians needs but the moments of S = x.y / d, a sum of d products.
    d, variance = 16, 0.8**2

    def between(u, v):
        m1, m2 = u * v, (variance + u**2) * (variance + v**2)
        m3 = (u**3 + 3 * u * variance) * (v**3 + 3 * v * variance)
        second = (m2 + (d - 1) * m1**2) / d
        third = (m3 + 3 * (d - 1) * m2 * m1 + (d - 1) * (d - 2) * m1**3) / d**2
        return 1 + 3 * m1 + 3 * second + third

    truth = between(shift, shift) + between(0, 0) - 2 * between(shift, 0)
    held = 0
    for seed in range(100):
        found = kid(features(120, d, seed, shift), features(90, d, 1000 + seed), subsets=1)
        held += found.low <= truth <= found.high
    assert held >= 88


def test_the_estimate_is_unbiased_and_often_below_zero():
    pairs = [(features(20, 4, seed), features(20, 4, 500 + seed)) for seed in range(200)]
    values = np.array([kid(*pair, subsets=1).value for pair in pairs])
    assert abs(values.mean()) < 4 * values.std() / len(values) ** 0.5
    assert 60 < (values < 0).sum() < 160


def test_the_order_of_images_and_the_size_of_blocks_do_not_matter(monkeypatch):
    x, y = features(70, 6, 0), features(50, 6, 1, shift=0.3)
    whole = kid(x, y, subsets=3, size=40)
    turned = kid(x[::-1], y[::-1], subsets=3, size=40)
    monkeypatch.setattr("ddim.metrics.feature_blocks._ROWS", 13)
    cut = kid(x, y, subsets=3, size=40)
    assert cut.to_json() == pytest.approx(whole.to_json(), rel=1e-10)
    for name in ("value", "low", "high"):
        assert getattr(turned, name) == pytest.approx(getattr(whole, name), rel=1e-10)


def without(x, k):
    return np.delete(x, k, 0)


@pytest.mark.parametrize("paired", [True, False])
def test_a_difference_has_the_interval_of_the_joint_jackknife(paired):
    value = lambda x, y: kid(x, y, subsets=1).value
    spread = lambda values: (len(values) - 1) * np.var(values)
    x, y, reference = features(12, 5, 0), features(12, 5, 1, 0.3), features(9, 5, 2)
    found = kid_difference(x, y, reference, paired=paired)
    apart = [value(x, without(reference, k)) - value(y, without(reference, k)) for k in range(9)]
    of_x = [value(without(x, k), reference) for k in range(12)]
    of_y = [value(without(y, k), reference) for k in range(12)]
    variance = spread(apart)
    variance += spread(np.subtract(of_x, of_y)) if paired else spread(of_x) + spread(of_y)
    assert found.value == pytest.approx(value(x, reference) - value(y, reference), rel=1e-9)
    assert found.high - found.value == pytest.approx(1.9599639845 * variance**0.5, rel=1e-9)
    assert found.value - found.low == pytest.approx(1.9599639845 * variance**0.5, rel=1e-9)


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
        found, apart = (kid_difference(x, y, reference, paired=each) for each in (paired, False))
        held += not found.distinguishable
        widths.append((found.high - found.low) / (apart.high - apart.low))
    assert 180 <= held <= 198
    assert np.mean(widths) < 0.5 if paired else np.mean(widths) == pytest.approx(1)
