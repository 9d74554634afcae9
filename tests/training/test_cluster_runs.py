"""Runs whose classes are clusters of their training images."""

import numpy as np
import pytest

import ddim
import tiny
from ddim.data import open_images, split_images
from ddim.data.clusters import average_cells, group_images
from ddim.sampling.images import open_run_images
from ddim.training import resume

CHANGES = {
    "data__source": "blossoms:80",
    "data__size": 16,
    "data__labels": "clusters:3",
    "data__unlabelled": 0.25,
}
RECIPE = tiny.recipe(**CHANGES)


def thumbnails(images):
    return average_cells(images.pixels, images.values, np.arange(len(images)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.train(RECIPE, tmp_path_factory.mktemp("home") / "run")


def test_the_classes_of_a_run_are_the_clusters_of_its_training_images(run):
    pipeline, data = ddim.load(run), RECIPE.data
    images = open_images(data.source, data.size)
    train = split_images(images, data.validation, 0).train
    wanted = group_images(thumbnails(images), train, 3, data.flip, 0)
    assert pipeline.classes == ("cluster-00", "cluster-01", "cluster-02")
    assert pipeline.class_counts == tuple(wanted.counts.tolist())
    assert sum(pipeline.class_counts) == 64
    assert np.array_equal(open_run_images(pipeline).images.labels, wanted.labels)


@pytest.mark.parametrize("step", [2, 7])
def test_a_run_that_crashed_keeps_its_labels_and_ends_like_an_uninterrupted_one(
    step, run, tmp_path, monkeypatch
):
    folder = tiny.train_until_crash(RECIPE, tmp_path / "run", tiny.At(step, tiny.crash))
    # On another machine, k-means could give other labels, so a resumed run must not use it.
    monkeypatch.setattr("ddim.training.run.group_images", None)
    resume(folder)
    tiny.check_same_run(folder, run)


def test_a_run_from_the_weights_of_another_takes_over_its_clusters(run, tmp_path):
    parent = ddim.load(run)
    recipe = tiny.recipe(**CHANGES | {"data__source": "blossoms:50", "images": 16})
    child = ddim.load(tiny.train(recipe, tmp_path / "child", source=run))
    assert np.array_equal(child.clusters.centres, parent.clusters.centres)
    mine, parents = (
        dict(zip(images.names, images.labels.tolist(), strict=True))
        for images in (open_run_images(each).images for each in (child, parent))
    )
    # Both have the first images of blossoms.
    assert len(mine.keys() & parents.keys()) == 50
    assert mine.items() <= parents.items()
