import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from ddim.metrics.fid import fid, fid_infinity
from gaussian_features import features

SIZES = [(40, 40, 8), (60, 35, 3), (30, 90, 20), (1500, 1100, 16)]


def with_moments(n, mean, covariance, seed=0):
    """Return features (n, d) whose sample mean and covariance are exactly these."""
    x = features(n, len(mean), seed)
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return white @ np.linalg.cholesky(np.atleast_2d(covariance)).T + mean


@pytest.mark.parametrize("n, m, d", SIZES)
def test_fid_equals_torch_fidelity(n, m, d):
    mix = features(d, d, 50) / d**0.5
    x, y = features(n, d, 0) @ mix, features(m, d, 100, shift=0.3, scale=1.4)
    statistics = [fid_features_to_statistics(torch.from_numpy(part)) for part in (x, y)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert fid(x, y) == pytest.approx(theirs, rel=1e-6)


def test_fid_of_commuting_gaussians_adds_distances_of_means_and_deviations():
    mean1, mean2 = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.5])
    std1, std2 = np.array([1.0, 2.0, 0.1]), np.array([3.0, 0.5, 0.1])
    x = with_moments(50, mean1, np.diag(std1**2), seed=1)
    y = with_moments(80, mean2, np.diag(std2**2), seed=2)
    expected = ((mean1 - mean2) ** 2).sum() + ((std1 - std2) ** 2).sum()
    assert fid(x, y) == pytest.approx(expected, rel=1e-9)


def test_fid_works_with_fewer_images_than_dimensions():
    # In the plane of the data it is the FID of two dimensions; the other 18 hold nothing.
    turn = np.linalg.qr(features(20, 20, 0))[0][:2]
    x, y = features(10, 2, 1), features(12, 2, 2, shift=0.5, scale=2)
    assert fid(x @ turn, y @ turn) == pytest.approx(fid(x, y), rel=1e-9)


def test_the_order_of_images_and_the_size_of_blocks_do_not_matter(monkeypatch):
    x, y = features(70, 6, 0), features(50, 6, 1, shift=0.3)
    whole = fid(x, y)
    assert fid(x[::-1], y[::-1]) == pytest.approx(whole, rel=1e-10)
    monkeypatch.setattr("ddim.metrics.feature_blocks._ROWS", 13)
    assert fid(x, y) == pytest.approx(whole, rel=1e-10)


def test_fid_infinity_removes_the_bias_of_few_generated_images():
    # Of a set that is the truth: FID of 300 images is biased, that of infinitely many is 0.
    d = 20
    truth = with_moments(60_000, np.zeros(d), np.eye(d), seed=1)
    raw, free = [], []
    for seed in range(8):
        x = features(300, d, seed + 10)
        raw.append(fid(x, truth))
        free.append(fid_infinity(x, truth, seed=seed).value)
    assert np.mean(raw) > 0.3
    assert abs(np.mean(free)) < 0.15 * np.mean(raw)


def test_fid_infinity_and_its_interval_are_about_fid_against_this_reference():
    """Which is biased upwards itself: a reference of few images is as far from its own law."""
    d, shift, scale = 24, 0.1, 1.1
    this = drawn_from = 0
    for seed in range(20):
        y = features(150, d, 900 + seed)
        # Of a multiple of the identity and a covariance C the root in FID is that of C alone.
        deviations = np.sqrt(np.linalg.eigvalsh(np.cov(y.T)))
        against = ((shift - y.mean(0)) ** 2).sum() + ((scale - deviations) ** 2).sum()
        found = fid_infinity(features(600, d, seed, shift, scale), y)
        this += found.low <= against <= found.high
        drawn_from += found.low <= d * (shift**2 + (scale - 1) ** 2) <= found.high
    assert this >= 19
    assert drawn_from <= 3
