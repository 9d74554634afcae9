"""Runs whose classes are clusters of their training images."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import ddim
import tiny
from ddim.data import open_images, split_images
from ddim.data.clusters import average_cells, group_images
from ddim.diffusion.editing import sample_from_image
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import DDIM, last_state
from ddim.errors import UserError
from ddim.sampling.images import open_run_images
from ddim.sampling.labels import draw_class
from ddim.training import resume
from oracles import shaken

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
    facts = json.loads((run / "run.json").read_text())
    assert facts["data"]["class_counts"] == wanted.counts.tolist()


@pytest.mark.parametrize("step", [2, 7])
def test_a_run_that_crashed_keeps_its_labels_and_ends_like_an_uninterrupted_one(
    step, run, tmp_path, monkeypatch
):
    folder = tiny.train_until_crash(RECIPE, tmp_path / "run", tiny.At(step, tiny.crash))
    # On another machine, k-means could give other labels, so a resumed run must not use it.
    monkeypatch.setattr("ddim.training.run.group_images", None)
    resume(folder)
    tiny.check_same_run(folder, run, 4)


def test_a_copy_of_the_folder_samples_the_frequencies_of_training_without_the_images(
    run, tmp_path, monkeypatch
):
    copy = shutil.copytree(run, tmp_path / "elsewhere")
    monkeypatch.setattr("ddim.sampling.images.open_images", None)
    pipeline, seeds = ddim.load(copy), [5, 2, 11, 8]
    natural = ddim.sample(pipeline, seeds=seeds, steps=2, guidance=2.0)
    for seed, image in zip(seeds, natural, strict=True):
        label = draw_class(seed, pipeline.class_counts)
        assert torch.equal(ddim.sample(pipeline, seeds=[seed], steps=2, label=label, guidance=2.0)[0], image)
    without = ddim.sample(pipeline, seeds=seeds, steps=2, label="none")
    assert not torch.equal(without, ddim.sample(pipeline, seeds=seeds, steps=2))


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


def test_a_guide_knows_the_clusters_of_its_run_and_one_with_other_clusters_is_refused(run, tmp_path):
    pipeline = ddim.load(run)
    guided = ddim.sample(pipeline, n=2, steps=2, guidance=2.0, guide_with="@guide")
    assert not torch.equal(guided, ddim.sample(pipeline, n=2, steps=2))
    other = tiny.train(tiny.recipe(**CHANGES, pixels="fixed", images=16, seed=1), tmp_path / "other")
    changed = replace(ddim.load(other), pixels=pipeline.pixels)
    with pytest.raises(UserError, match="classes, clusters or vectors of the model"):
        ddim.sample(pipeline, n=2, steps=2, guidance=2.0, guide_with=changed)


def test_a_variation_has_the_class_of_its_seed(run):
    pipeline = ddim.load(run).with_recipe(sampler=DDIM())
    # So that the output depends much on the class.
    shaken(pipeline.model.net)
    seeds, image = [5, 1, 2**31], torch.full((1, 3, 16, 16), 0.4)
    found = ddim.vary(pipeline, image, 0.7, seeds, 4)
    classes = [draw_class(seed, pipeline.class_counts) for seed in seeds]
    assert len({*classes}) > 1
    x0 = pipeline.pixels.enter(image)
    for seed, label, varied in zip(seeds, classes, found.images, strict=True):
        denoise = pipeline.denoiser(pipeline.model.with_labels(label), consistent=True)
        states = sample_from_image(denoise, x0, 0.7, found.setup.times, DDIM(), Noise([seed]))
        with torch.no_grad():
            wanted = pipeline.pixels.leave(last_state(states).x0.float())
        torch.testing.assert_close(varied, wanted[0], atol=1e-4, rtol=0)
