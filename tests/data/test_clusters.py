"""Clusters of images: the groups that are there, whatever the order, the mirroring and the other images."""

import numpy as np
import pytest

from ddim.data import Images, SplitImages
from ddim.data.clusters import Clusters, ImageClusters, average_cells, group_images
from ddim.data.values import Values
from ddim.errors import UserError

SIZES = (30, 22, 14, 9)
TRUTH = np.repeat(np.arange(4), SIZES)
"""The group of each image of `groups`, the largest group first."""


def groups(noise=12):
    """Images of four looks: red, blue, red above blue, and blue left of red; with noise on each image."""
    red, blue = np.array((200, 40, 40)), np.array((40, 40, 200))
    looks = np.empty((4, 16, 16, 3))
    looks[0], looks[1] = red, blue
    looks[2, :8], looks[2, 8:] = red, blue
    looks[3, :, :8], looks[3, :, 8:] = blue, red
    grain = np.random.default_rng(0).integers(-noise, noise + 1, (len(TRUTH), 16, 16, 3))
    return (looks[TRUTH] + grain).astype(np.uint8)


def cells(pixels, values=None):
    return average_cells(pixels, values or Values(), np.arange(len(pixels)))


def found(pixels, count=4, mirrored=True, seed=0, held_out=()):
    train = np.setdiff1d(np.arange(len(pixels)), held_out)
    return group_images(cells(pixels), train, count, mirrored, seed)


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_groups_of_images_are_found_and_numbered_by_size(mirrored, seed):
    clusters = found(groups(), mirrored=mirrored, seed=seed)
    assert np.array_equal(clusters.labels, TRUTH)
    assert clusters.counts.tolist() == list(SIZES)
    assert clusters.names == ("cluster-00", "cluster-01", "cluster-02", "cluster-03")


@pytest.mark.parametrize(
    ("channels", "values"),
    [(1, Values()), (4, Values()), (3, Values("uint16", 0, 65535)), (5, Values("float32", -1, 1))],
)
def test_images_of_any_channels_and_values_have_clusters(channels, values):
    dark = np.array(values.low + (values.high - values.low) * 0.2)
    light = np.array(values.low + (values.high - values.low) * 0.7)
    pixels = np.where(np.arange(20) < 12, dark, light)[:, None, None, None] * np.ones((12, 10, channels))
    pixels[..., 0] *= np.linspace(0.9, 1, 20)[:, None, None]
    clusters = group_images(cells(pixels.astype(values.type), values), np.arange(20), 2, True, 0)
    assert clusters.labels.tolist() == [0] * 12 + [1] * 8


def test_images_in_another_order_or_mirrored_have_the_same_clusters():
    pixels = np.random.default_rng(1).integers(0, 256, (60, 9, 13, 3), np.uint8)
    order = np.random.default_rng(2).permutation(60)
    others = pixels[order]
    others[::2] = others[::2, :, ::-1]
    one, other = found(pixels, 6), found(others, 6)
    assert np.array_equal(one.labels[order], other.labels)
    assert np.array_equal(one.centres, other.centres)


def test_images_and_their_mirror_images_are_apart_if_training_does_not_mirror_images():
    half = groups()[TRUTH == 3]
    pixels = np.concatenate([half, half[:5, :, ::-1]])
    assert found(pixels, 2, mirrored=False).counts.tolist() == [9, 5]
    assert set(found(groups()).find_labels(cells(pixels))[0]) == {3}


def test_only_training_images_decide_about_the_centres():
    pixels = groups()
    held_out = np.arange(0, len(pixels), 5)
    strange = pixels.copy()
    strange[held_out] = np.random.default_rng(3).integers(0, 256, strange[held_out].shape)
    one, other = (found(each, held_out=held_out) for each in (pixels, strange))
    assert np.array_equal(one.centres, other.centres)
    assert one.counts.tolist() == np.bincount(np.delete(TRUTH, held_out)).tolist()
    assert np.array_equal(one.labels, TRUTH)


def test_every_image_has_its_nearest_cluster_and_no_cluster_is_empty():
    pixels = np.random.default_rng(1).integers(0, 256, (60, 2, 2, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    clusters = found(pixels, 30)
    assert clusters.counts.min() >= 1
    assert clusters.counts.sum() == 60
    alone = [ImageClusters(clusters.centres[[k]], mirrored=True) for k in range(30)]
    distances = [each.find_labels(cells(pixels))[1] for each in alone]
    assert np.array_equal(np.argmin(distances, 0), clusters.labels)


def test_typical_images_are_training_images_of_their_cluster_and_the_nearest_first():
    held_out = [0, 40]
    clusters = found(groups(), held_out=held_out)
    rows = clusters.list_typical(cells(groups()), np.setdiff1d(np.arange(len(TRUTH)), held_out), 10)
    assert [len(row) for row in rows] == [10, 10, 10, 9]
    assert [set(TRUTH[row]) for row in rows] == [{0}, {1}, {2}, {3}]
    assert not {*held_out} & {k for row in rows for k in row.tolist()}
    _, far = clusters.find_labels(cells(groups()[rows[0]]))
    assert (np.diff(far) >= 0).all()


def test_clusters_become_the_classes_of_images_and_tensors_keep_them():
    clusters = found(groups())
    again = ImageClusters.from_tensors(clusters.to_tensors())
    images = Images(groups(), None, (), tuple(map(str, range(len(TRUTH)))), "")
    labelled = SplitImages(images, np.arange(50), np.arange(50, len(TRUTH))).with_conditions(again, None)
    assert labelled.clusters is again
    assert labelled.images.classes == clusters.names
    assert np.array_equal(labelled.images.labels, TRUTH)
    assert (again.mirrored, again.counts.tolist()) == (True, list(SIZES))
    assert np.array_equal(again.centres, clusters.centres)


def test_too_few_or_equal_images_and_other_texts_are_refused():
    with pytest.raises(UserError, match="at most clusters:37$"):
        found(groups(), 38)
    with pytest.raises(UserError, match="at most clusters:1$"):
        found(np.zeros((10, 16, 16, 3), np.uint8), 2)
    for text in ("clusters", "clusters:", "clusters:x", "clusters:1.5", "clusters:1"):
        with pytest.raises(UserError, match="clusters"):
            Clusters.parse(text)
