"""The embedded flowers: the same everywhere, different from each other, and visible."""

import numpy as np
import pytest

from ddim.data import open_images
from ddim.data.blossoms import KINDS, draw_blossom, name_kind


def test_all_flowers_differ():
    drawn = [draw_blossom(index, (32, 32)).astype(int) for index in [*range(60), 10**9]]
    distances = [np.abs(a - b).mean() for n, a in enumerate(drawn) for b in drawn[:n]]
    assert min(distances) > 5


@pytest.mark.parametrize("index", range(12))
def test_a_flower_at_twice_the_size_is_the_same_image(index):
    small, large = (draw_blossom(index, (side, side)).astype(float) for side in (64, 128))
    halved = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(small - halved).mean() < 8


def test_all_kinds_are_about_equally_frequent():
    counts = [sum(name_kind(index) == name for index in range(1200)) for name in KINDS]
    assert 60 < min(counts) <= max(counts) < 140


def test_the_flower_stands_out_in_the_middle():
    mean = np.stack([draw_blossom(index, (32, 32)) for index in range(200)]).astype(float)
    deviation = mean.std(axis=0).mean(axis=-1)
    warmth = (mean[..., 0] - mean[..., 1]).mean(axis=0)
    assert deviation[10:22, 10:22].mean() > 45
    assert warmth[10:22, 10:22].mean() > warmth[:4].mean() + 20


def test_the_data_set_has_the_kinds_as_classes_and_any_size(tmp_path):
    images = open_images("blossoms:80", (33, 47), cache=tmp_path)
    assert images.pixels.shape == (80, 33, 47, 3)
    assert images.classes == tuple(sorted(KINDS))
    for name, label, pixels in list(zip(images.names, images.labels, images.pixels, strict=True))[::9]:
        kind, _, index = name.partition("/")
        assert images.classes[label] == name_kind(int(index)) == kind
        np.testing.assert_array_equal(pixels, draw_blossom(int(index), (33, 47)))
