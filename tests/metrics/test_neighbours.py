import numpy as np
import pytest

from ddim.metrics import neighbours
from ddim.metrics.neighbours import nearest_neighbours, standardise
from smooth_images import smooth

DRAW = np.random.default_rng


def test_the_nearest_neighbours_match_brute_force(monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", 7)
    queries, *views = (DRAW(seed).normal(3, 1, (n, 5)) for seed, n in ((0, 9), (1, 40), (2, 40)))
    apart = [np.linalg.norm(queries[:, None].astype("f4") - view.astype("f4"), axis=2) for view in views]
    for count in (1, 2):
        found, exact = nearest_neighbours(queries, views[:count], 6), np.min(apart[:count], 0)
        order = exact.argsort(1)[:, :6]
        assert (found.indices == order).all()
        assert found.distances == pytest.approx(np.take_along_axis(exact, order, 1), rel=1e-5)


def test_an_image_is_not_its_own_neighbour(monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", 8)
    rows = DRAW(0).normal(size=(30, 4))
    own = np.array([29, 3, 8])
    found = nearest_neighbours(rows[own], [rows], 29, themselves=own)
    for row, me in zip(found.indices, own, strict=True):
        assert sorted(row) == [k for k in range(30) if k != me]
    assert (nearest_neighbours(rows[own], [rows], 50, themselves=own).indices == found.indices).all()


def test_a_copy_is_at_distance_exactly_zero_far_from_the_origin():
    rows = (1e4 + DRAW(0).normal(size=(20, 64))).astype(np.float32)
    found = nearest_neighbours(rows[[7]], [rows], 5)
    assert found.indices[0, 0] == 7
    assert found.distances[0, 0] == 0
    assert found.closeness[0] == 0


def test_distances_are_those_of_correlations_and_ignore_brightness_and_contrast():
    images = smooth(60, 0)
    dim = (images[:6] // 2 + 40).astype(np.uint8)
    found = nearest_neighbours(dim, [images], embed=standardise)
    assert found.indices[:, 0].tolist() == [*range(6)]
    rows = (images - images.mean((1, 2), keepdims=True)).reshape(60, -1)
    exact = np.sort(1 - np.corrcoef(rows)[:6], 1)[:, :50]
    assert found.distances**2 / 2 == pytest.approx(exact, abs=0.02)
    grey = nearest_neighbours(np.full((1, 16, 16, 3), 90, np.uint8), [images], embed=standardise)
    assert grey.closeness == pytest.approx(1.0, abs=1e-6)


def test_copies_of_duplicated_training_images_are_found():
    """The ratio to the second nearest image (Yoon et al. 2023) sees none of them."""
    images = smooth(100, 0)
    near = np.clip(images[:20] + DRAW(1).integers(-6, 7, images[:20].shape), 0, 255).astype(np.uint8)
    found = nearest_neighbours(near, [np.concatenate([images, images])], embed=standardise)
    assert (found.closeness < 0.5).all()
