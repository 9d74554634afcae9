from dataclasses import astuple

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from ddim.metrics.prdc import prdc
from gaussian_features import features

SIZES = [(40, 40, 8), (60, 35, 3), (30, 90, 20), (1500, 1100, 16)]


def by_definition(x, y, k):
    """Return precision, recall, density and coverage of generated x and reference y, pair by pair."""
    far = lambda a, b: float(np.sqrt(((a - b) ** 2).sum()))
    radius = lambda z: [sorted(far(a, b) for j, b in enumerate(z) if j != i)[k - 1] for i, a in enumerate(z)]
    of_x, of_y = radius(x), radius(y)
    precision = np.mean([any(far(a, b) <= r for b, r in zip(y, of_y, strict=True)) for a in x])
    recall = np.mean([any(far(a, b) <= r for a, r in zip(x, of_x, strict=True)) for b in y])
    density = np.sum([far(a, b) <= r for a in x for b, r in zip(y, of_y, strict=True)]) / (k * len(x))
    coverage = np.mean([any(far(a, b) <= r for a in x) for b, r in zip(y, of_y, strict=True)])
    return precision, recall, density, coverage


@pytest.mark.parametrize("n, m, d", SIZES)
def test_precision_and_recall_equal_torch_fidelity(n, m, d):
    x, y = features(n, d, 0), features(m, d, 100, shift=0.3, scale=1.2)
    pair = torch.from_numpy(x), torch.from_numpy(y)
    theirs = prc_features_to_metric(*pair, prc_neighborhood=3, save_cpu_ram=False, verbose=False)
    found = prdc(x, y)
    assert found.precision == pytest.approx(theirs["precision"], rel=1e-6)
    assert found.recall == pytest.approx(theirs["recall"], rel=1e-6)


@pytest.mark.parametrize("k, k_density", [(1, 1), (2, 4), (4, 2)])
def test_all_four_metrics_follow_their_definitions(k, k_density):
    x, y = features(23, 3, 0), features(17, 3, 1, shift=0.5, scale=0.7)
    found = astuple(prdc(x, y, k=k, k_density=k_density))
    assert found[:2] == pytest.approx(by_definition(x, y, k)[:2], rel=1e-12)
    assert found[2:] == pytest.approx(by_definition(x, y, k_density)[2:], rel=1e-12)


def test_one_outlier_of_the_reference_raises_precision_but_not_density():
    # The example of Naeem et al. (2020, figure 2): fakes around an outlier, whose ball is huge.
    reference = np.concatenate([features(200, 4, 0, scale=0.1), np.full((1, 4), 30.0)])
    generated = features(200, 4, 1, shift=30, scale=3)
    found = prdc(generated, reference)
    assert found.precision == 1
    assert found.density == pytest.approx(1 / 5)


@pytest.mark.parametrize("shift", [0, 1000])
def test_identical_sets_score_one_even_with_duplicate_images(shift):
    x = np.repeat(features(30, 50, 0, shift=shift), 7, axis=0)
    found = prdc(x, x)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    # Products of matrices of other sizes round otherwise, and the balls about copies have no width.
    for count in range(6, 60, 3):
        assert prdc(x[:count], x).precision == 1


def test_the_order_of_images_and_the_size_of_blocks_do_not_matter(monkeypatch):
    x, y = features(70, 6, 0), features(50, 6, 1, shift=0.3)
    whole = prdc(x, y)
    assert prdc(x[::-1], y[::-1]) == whole
    for rows in (3, 13):
        monkeypatch.setattr("ddim.metrics.feature_blocks._ROWS", rows)
        assert prdc(x, y) == whole
