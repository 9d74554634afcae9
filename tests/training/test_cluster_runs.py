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
from ddim.diffusion.editing import vary
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import DDIM, last_state
from ddim.errors import UserError
from ddim.evaluation.discretisation_error import sample_in_model_units
from ddim.evaluation.likelihood import bits_per_dim
from ddim.machine.runtime import Runtime
from ddim.metrics.features import Extractor
from ddim.runs import checkpoint
from ddim.sampling.generate import generate
from ddim.sampling.images import open_run_images
from ddim.sampling.labels import draw_class
from ddim.sampling.pipeline import read_clusters
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training import resume
from ddim.training.start import open_split, start_training
from ddim.training.validation import prepare_kid
from oracles import shaken

SOURCE = "blossoms:80"
CHANGES = {
    "data__source": SOURCE,
    "data__labels": "clusters:3",
    "data__unlabelled": 0.25,
    # Clean enough to distinguish 8-bit values, for likelihoods.
    "schedule__max_signal": 0.9999,
}
RECIPE = tiny.recipe(**CHANGES)


def clusters_of_source(data):
    """The clusters that the images of these data fields have."""
    images = open_images(data.source, data.size)
    train = split_images(images, data.validation, 0).train
    return group_images(thumbnails(images), train, 3, data.flip, 0)


def thumbnails(images):
    return average_cells(images.pixels, images.values, np.arange(len(images)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.train(RECIPE, tmp_path_factory.mktemp("home") / "run")


def test_the_classes_of_a_run_are_the_clusters_of_its_training_images(run):
    pipeline, wanted = ddim.load(run), clusters_of_source(RECIPE.data)
    assert pipeline.classes == ("cluster-00", "cluster-01", "cluster-02")
    assert pipeline.model.classes == 3
    assert pipeline.class_counts == tuple(wanted.counts.tolist())
    assert sum(pipeline.class_counts) == 64
    own = open_run_images(pipeline)
    assert np.array_equal(own.images.labels, wanted.labels)
    facts = json.loads((run / "run.json").read_text())
    assert facts["data"]["class_counts"] == wanted.counts.tolist()
    assert facts["recipe"]["data"]["labels"] == "clusters:3"


def test_a_run_that_crashed_keeps_its_labels_and_ends_like_an_uninterrupted_one(run, tmp_path, monkeypatch):
    recipe = tiny.recipe(**CHANGES, report__checkpoint=0.0)
    folder = tiny.train_until_crash(recipe, tmp_path / "run", tiny.At(7, tiny.crash))
    # On another machine, k-means could give other labels, so a resumed run must not use it.
    monkeypatch.setattr("ddim.training.parent.group_images", None)
    resume(folder)
    assert tiny.metrics(folder) == tiny.metrics(run)
    assert tiny.digests(folder, 4) == tiny.digests(run, 4)


def test_a_run_that_crashed_after_its_first_checkpoint_has_the_same_clusters(run, tmp_path):
    folder = tiny.train_until_crash(RECIPE, tmp_path / "run", tiny.At(2, tiny.crash))
    resume(folder)
    tiny.check_same_run(folder, run, 4)


def test_each_image_of_a_batch_has_the_label_of_its_cluster_or_none():
    recipe, truth = tiny.recipe(**CHANGES, optim__batch=64), clusters_of_source(RECIPE.data).labels
    training = start_training(recipe, open_split(recipe), Runtime(), None)
    hidden = 0
    for step in range(20):
        batch = training.batches[step]
        labels, known = batch.class_labels, batch.class_labels >= 0
        assert torch.equal(
            labels[known], torch.from_numpy(truth[training.batches._draw_images(step)[0]])[known]
        )
        hidden += int((~known).sum())
    # 1,280 labels, each dropped with probability 1/4: the standard deviation is 15.5.
    assert abs(hidden - 320) < 4 * 15.5


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
    assert torch.equal(without, generate(SamplingSetup(pipeline, 2), seeds)[0])
    assert not torch.equal(without, ddim.sample(pipeline, seeds=seeds, steps=2))


def test_kid_in_training_is_of_samples_with_the_frequencies_of_training(monkeypatch):
    recipe = tiny.recipe(
        data__source=SOURCE, data__labels="clusters:3", data__validation="0.5", report__kid="24"
    )
    seen = []

    def network(images):
        seen.append(images.clone())
        return images.float().flatten(1)[:, :12]

    monkeypatch.setattr(
        "ddim.training.validation.load_extractor", lambda: Extractor("x", "w" * 64, "x", 12, network)
    )
    training = start_training(recipe, open_split(recipe), Runtime(), None)
    unequal = replace(training.split.clusters, counts=np.array((30, 8, 2)))
    training.split = replace(training.split, clusters=unequal)
    # At the start, the output does not depend on the class.
    shaken(training.model.net)
    training.start_from(training.model.state_dict())
    measure = prepare_kid(training)
    seen.clear()
    measure()
    with training.averaged() as averaged:
        pipeline = ddim.Pipeline(
            averaged.model, training.pixels, training.recipe, training.runtime, clusters=unequal
        )
        wanted, _ = generate(SamplingSetup(pipeline, 2, "natural"), range(24))
    assert torch.equal(torch.cat(seen), (wanted * 255).round().byte())


def test_likelihoods_of_other_images_use_their_nearest_clusters(run):
    found = bits_per_dim(run, "blossoms:12", n=12, steps=2)
    data, clusters = RECIPE.data, read_clusters(checkpoint.find_newest(run / "checkpoints"), RECIPE)
    nearest, _ = clusters.find_labels(thumbnails(open_images("blossoms:12", data.size)))
    assert found.record["reference"]["labels"] == nearest[found.record["reference"]["images"]].tolist()


def test_a_run_from_the_weights_of_another_takes_over_its_clusters(run, tmp_path):
    parent = ddim.load(run)
    recipe = tiny.recipe(**CHANGES | {"data__source": "blossoms:50", "images": 16})
    child = ddim.load(tiny.train(recipe, tmp_path / "child", source=run))
    assert np.array_equal(child.clusters.centres, parent.clusters.centres)
    mine, parents = (
        dict(zip(own.images.names, own.images.labels.tolist(), strict=True))
        for own in map(open_run_images, (child, parent))
    )
    # Both have the first images of blossoms.
    assert len(mine.keys() & parents.keys()) == 50
    assert mine.items() <= parents.items()


def test_a_guide_knows_the_clusters_of_its_run_and_one_with_other_clusters_is_refused(run, tmp_path):
    pipeline = ddim.load(run)
    own = ddim.sample(pipeline, n=2, steps=2, guidance=2.0, guide_with="@guide")
    assert not torch.equal(own, ddim.sample(pipeline, n=2, steps=2))
    other = tiny.train(tiny.recipe(**CHANGES, pixels="fixed", images=16, seed=1), tmp_path / "other")
    changed = replace(ddim.load(other), pixels=pipeline.pixels)
    with pytest.raises(UserError, match="classes, clusters or vectors of the model"):
        ddim.sample(pipeline, n=2, steps=2, guidance=2.0, guide_with=changed)


@pytest.mark.parametrize("labels", ["clusters:4", "yes"])
def test_a_run_from_weights_of_other_classes_is_refused(labels, run, tmp_path):
    with pytest.raises(UserError, match="the classes of --from"):
        tiny.train(tiny.recipe(data__labels=labels), tmp_path / "child", source=run)
    assert not (tmp_path / "child").exists()


def test_more_clusters_than_half_the_training_images_are_refused(tmp_path):
    with pytest.raises(UserError, match="give at most clusters:16"):
        tiny.train(tiny.recipe(data__labels="clusters:17"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_without_folders_are_refused_with_advice_on_clusters(tmp_path):
    tiny.write_grays(tmp_path / "photos", range(0, 200, 20))
    with pytest.raises(UserError, match="--data.labels clusters:16 finds 16 classes of similar images"):
        tiny.train(tiny.recipe(data__labels=True), tmp_path / "run", tmp_path / "photos")


@pytest.fixture
def pipeline(run):
    """The run with a network whose output depends much on the class, in float32."""
    found = ddim.load(run)
    shaken(found.model.net)
    return found.with_recipe(sampler=DDIM())


def test_searches_and_comparisons_of_samplers_sample_the_classes_of_the_seeds(pipeline):
    seeds, recipe = range(3, 7), pipeline.recipe
    times = recipe.grid(4, recipe.sampling_schedule)
    found = pipeline.pixels.leave(sample_in_model_units(pipeline, DDIM(), times, seeds))
    named, none = (
        ddim.sample(pipeline, None, 4, seeds=seeds, label=label, progress=False)
        for label in ("natural", "none")
    )
    torch.testing.assert_close(found, named, atol=1e-4, rtol=0)
    assert (found - none).abs().max() > 0.01


def test_a_variation_has_the_class_of_its_seed(pipeline):
    seeds, image = [5, 1, 2**31], torch.full((1, 3, 32, 32), 0.4)
    found = ddim.vary(pipeline, image, 0.7, seeds, 4)
    assert found.facts["label"] == "natural"
    classes = [draw_class(seed, pipeline.class_counts) for seed in seeds]
    assert len({*classes}) > 1
    x0 = pipeline.pixels.enter(image)
    for seed, label, varied in zip(seeds, classes, found.images, strict=True):
        denoise = pipeline.denoiser(pipeline.model.with_labels(label), consistent=True)
        states = vary(denoise, x0, 0.7, found.setup.times, DDIM(), Noise([seed]))
        with torch.no_grad():
            wanted = pipeline.pixels.leave(last_state(states).x0.float())
        torch.testing.assert_close(varied, wanted[0], atol=1e-4, rtol=0)


def test_edits_with_seeds_can_be_guided_by_the_model_without_its_class(pipeline):
    image, hole = torch.full((1, 3, 32, 32), 0.4), torch.zeros(32, 32)
    hole[8:24, 8:24] = 1
    plain, guided = (
        ddim.inpaint(pipeline, image, hole, [3], 2, resample=1, guidance=scale) for scale in (None, 3.0)
    )
    assert guided.calls == 2 * plain.calls
    assert (plain.images - guided.images).abs().max() > 0.01
    with pytest.raises(UserError, match="guidance needs a label"):
        ddim.interpolate(pipeline, None, 3, 2, seeds=[3, 7], guidance=2.0)
    assert "label" not in ddim.interpolate(pipeline, None, 3, 2, seeds=[3, 7]).facts
