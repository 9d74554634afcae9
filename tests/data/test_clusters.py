"""Clusters of images: the groups that are there, whatever the order, the mirroring and the other images."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ddim.data import Images, SplitImages
from ddim.data.clusters import Clusters, ImageClusters, apply_centres, group_images, list_typical
from ddim.data.kmeans import _iterate
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


def opened(pixels):
    return Images(pixels, None, (), tuple(map(str, range(len(pixels)))), "")


def split(pixels, validation=()):
    train = np.setdiff1d(np.arange(len(pixels)), validation)
    return SplitImages(opened(pixels), train, np.array(validation, np.int64))


def found(pixels, count=4, mirrored=True, seed=0):
    return group_images(split(pixels), count, mirrored, seed)


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_groups_of_images_are_found_and_numbered_by_size(mirrored, seed):
    clusters = found(groups(), mirrored=mirrored, seed=seed)
    assert np.array_equal(clusters.labels, TRUTH)
    assert clusters.counts.tolist() == list(SIZES)
    assert clusters.names == ("cluster-00", "cluster-01", "cluster-02", "cluster-03")


def test_names_are_sorted_like_the_clusters():
    clusters = ImageClusters(np.zeros((120, 1)), True, np.zeros(0), np.zeros(120))
    assert clusters.names[7] == "cluster-007"
    assert sorted(clusters.names) == list(clusters.names)


def test_the_order_of_the_images_does_not_matter():
    pixels = np.random.default_rng(1).integers(0, 256, (60, 16, 16, 3), np.uint8)
    order = np.random.default_rng(2).permutation(60)
    one, other = found(pixels, 6), found(pixels[order], 6)
    assert np.array_equal(one.labels[order], other.labels)
    assert np.array_equal(one.centres, other.centres)


def test_mirrored_images_have_the_same_clusters_if_training_mirrors_images():
    pixels = np.random.default_rng(1).integers(0, 256, (60, 4, 4, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    some = np.random.default_rng(2).random(60) < 0.5
    mirrored = pixels.copy()
    mirrored[some] = mirrored[some, :, ::-1]
    one, other = found(pixels, 6), found(mirrored, 6)
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(one.centres, other.centres)


def test_images_and_their_mirror_images_are_apart_if_training_does_not_mirror_images():
    half = groups()[TRUTH == 3]
    pixels = np.concatenate([half, half[:5, :, ::-1]])
    assert found(pixels, 2, mirrored=False).counts.tolist() == [9, 5]
    one_look = apply_centres(split(pixels), found(groups()).centres, mirrored=True)
    assert set(one_look.labels) == {3}


def test_only_training_images_decide_about_the_centres():
    pixels = groups()
    held_out = np.flatnonzero(np.arange(len(pixels)) % 5 == 0)
    strange = pixels.copy()
    strange[held_out] = np.random.default_rng(3).integers(0, 256, strange[held_out].shape)
    one, other = (group_images(split(p, held_out), 4, True, 0) for p in (pixels, strange))
    assert np.array_equal(one.centres, other.centres)
    assert one.counts.tolist() == np.bincount(TRUTH[np.setdiff1d(np.arange(75), held_out)]).tolist()
    assert np.array_equal(one.labels, TRUTH)


def test_every_image_has_its_nearest_cluster_and_no_cluster_is_empty():
    pixels = np.random.default_rng(1).integers(0, 256, (60, 2, 2, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    clusters = found(pixels, 30)
    assert clusters.counts.min() >= 1
    assert clusters.counts.sum() == 60
    labels, distances = clusters.find_labels(opened(pixels), np.arange(60))
    assert np.array_equal(labels, clusters.labels)
    for k in range(30):
        alone = replace(clusters, centres=clusters.centres[[k]])
        assert (alone.find_labels(opened(pixels), np.arange(60))[1] >= distances - 1e-9).all()


def test_centres_are_means_of_images_that_are_turned_alike():
    """One look has its corner, red on one side and blue on the other, at the left or right of the bottom."""
    grain = np.random.default_rng(0).integers(-9, 10, (40, 16, 16, 3))
    pixels = np.full((40, 16, 16, 3), (120, 60, 120)) + grain
    pixels[:20, 8:, :8], pixels[:20, 8:, 8:] = (190, 40, 40), (40, 40, 190)
    pixels = pixels.astype(np.uint8)
    clusters = found(pixels, 2)
    labels, distances = clusters.find_labels(opened(pixels), np.arange(40))
    assert len(set(labels[:20].tolist())) == len(set(labels[20:].tolist())) == 1
    assert distances.max() < 0.05 * ((clusters.centres[0] - clusters.centres[1]) ** 2).sum()


def test_an_empty_cluster_starts_again_at_an_image_that_is_far_from_its_centre():
    features = np.concatenate([np.zeros((5, 2)), np.ones((5, 2)), [[9.0, 9.0]]])
    cost, centres = _iterate(features, np.array([[0.0, 0.0], [50.0, 50.0], [60.0, 60.0]]), 2)
    assert cost == 0
    assert sorted(centres.tolist()) == [[0, 0], [1, 1], [9, 9]]


def test_images_of_another_size_have_the_clusters_of_their_looks():
    clusters = found(groups())
    large = opened(groups(noise=20).repeat(3, 1).repeat(2, 2))
    labels, _ = clusters.find_labels(large, np.arange(len(TRUTH))[::-1])
    assert np.array_equal(labels, TRUTH[::-1])


def test_typical_images_are_training_images_of_their_cluster_and_the_nearest_first():
    pixels, held_out = groups(), [0, 40]
    images = split(pixels, held_out)
    clusters = group_images(images, 4, True, 0)
    rows = list_typical(clusters, images, 10)
    assert [len(row) for row in rows] == [10, 10, 10, 9]
    assert [set(TRUTH[row]) for row in rows] == [{0}, {1}, {2}, {3}]
    assert not {*held_out} & {k for row in rows for k in row.tolist()}
    _, far = clusters.find_labels(images.images, rows[0])
    assert (np.diff(far) >= 0).all()


def test_clusters_become_the_classes_of_images_and_tensors_keep_them():
    images = split(groups())
    clusters = found(groups())
    again = ImageClusters.from_tensors(clusters.to_tensors())
    labelled = again.label(images)
    assert labelled.clusters is again
    assert labelled.images.classes == clusters.names
    assert np.array_equal(labelled.images.labels, TRUTH)
    assert (again.mirrored, again.counts.tolist()) == (True, list(SIZES))
    assert np.array_equal(again.centres, clusters.centres)


_PROGRAM = """
import hashlib, sys
import numpy as np
sys.path.insert(0, {folder!r})
from test_clusters import found
pixels = np.random.default_rng(1).integers(0, 256, (2000, 8, 8, 3), np.uint8)
clusters = found(pixels, 20)
print(hashlib.sha256(clusters.centres.tobytes() + clusters.labels.tobytes()).hexdigest())
"""


def test_the_number_of_threads_does_not_matter():
    program = _PROGRAM.format(folder=os.path.dirname(__file__))
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "OMP_NUM_THREADS": str(n), "OPENBLAS_NUM_THREADS": str(n)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for n in (1, 2)
    }
    assert len(digests) == 1


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match=r"got 75 training images: give at most clusters:37$"):
        found(groups(), 38)
    with pytest.raises(UserError, match=r"as many different images, got 1: give fewer clusters$"):
        found(np.zeros((10, 16, 16, 3), np.uint8), 2)


@pytest.mark.parametrize("text", ["clusters", "clusters:", "clusters:x", "clusters:1.5", "clusters:-3"])
def test_other_texts_are_refused(text):
    with pytest.raises(UserError, match="needs the number of clusters, such as clusters:16"):
        Clusters.parse(text)


def test_one_cluster_is_refused():
    with pytest.raises(UserError, match="clusters:1 has too few clusters: give at least clusters:2"):
        Clusters.parse("clusters:1")
