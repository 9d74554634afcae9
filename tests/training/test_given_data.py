"""Runs on images that are given from Python."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

import ddim
import mine
import tiny
from ddim.errors import UserError
from ddim.recipe.recipe import Data
from ddim.sampling.images import open_run_images
from ddim.training import resume
from ddim.training.request import check_resumed_recipe, choose_recipe

PIXELS = torch.from_numpy(tiny.images().pixels).permute(0, 3, 1, 2)
LABELS = torch.arange(40) % 4
RECIPE = replace(tiny.BASE, data=Data(size=(64, 64), validation=0.2))


def test_a_run_on_a_tensor_has_its_size_and_resumes_exactly_when_it_is_given_again(tmp_path):
    whole = tiny.train(RECIPE, tmp_path / "whole", PIXELS)
    assert ddim.load(whole).recipe.data.size == (32, 32)
    assert not ddim.load(whole).recipe.data.labels
    often = replace(RECIPE, report=replace(RECIPE.report, checkpoint=0.0))
    folder = tiny.train_until_crash(
        often, tmp_path / "run", tiny.At(7, tiny.crash), data=PIXELS.numpy() / 255
    )
    with pytest.raises(UserError, match="does not hold the images on which"):
        resume(folder, data=PIXELS.flip(3))
    resume(folder, data=PIXELS.numpy() / 255)
    assert tiny.metrics(folder) == tiny.metrics(whole)
    assert tiny.digests(folder) == tiny.digests(whole)


def test_floats_of_any_range_are_kept_if_the_recipe_says_so(tmp_path):
    array = PIXELS.numpy() / np.float32(50)
    run = tiny.train(replace(RECIPE, data=replace(RECIPE.data, values="float32")), tmp_path / "run", array)
    images = open_run_images(ddim.load(run)).images.pixels
    assert images.dtype == np.float32
    assert np.array_equal(images, array.transpose(0, 2, 3, 1))
    # `ddim.plan` takes them too.
    assert choose_recipe(ddim.load(run).recipe, array, {}).data.source == ddim.load(run).recipe.data.source


def test_a_run_on_pairs_is_conditioned_on_their_labels(tmp_path):
    pairs = TensorDataset(PIXELS, LABELS)
    run = tiny.train(RECIPE, tmp_path / "run", pairs, size=16)
    pipeline = ddim.load(run)
    assert (pipeline.recipe.net.classes, pipeline.classes) == (4, ("0", "1", "2", "3"))
    assert pipeline.recipe.data.size == (16, 16)
    assert ddim.sample(pipeline, n=2, steps=2, label="3").shape == (2, 3, 16, 16)
    plain = ddim.load(tiny.train(RECIPE, tmp_path / "plain", pairs, labels=False))
    assert not plain.recipe.data.labels


def test_an_own_network_takes_the_labels_that_it_has_classes_for(tmp_path):
    class Labelled(mine.Net):
        classes = 4

        def forward(self, x, noise_level, label):
            seen = -1 if label is None else label
            return super().forward(x, noise_level) + 0.01 * torch.as_tensor(seen).view(-1, 1, 1, 1)

    pairs = TensorDataset(PIXELS, LABELS)
    run = tiny.train(replace(RECIPE, net=Labelled), tmp_path / "run", pairs)
    assert ddim.sample(run, n=2, steps=2, label=3).shape == (2, 3, 32, 32)
    assert not ddim.load(
        tiny.train(replace(RECIPE, net=mine.Net), tmp_path / "two", pairs)
    ).recipe.data.labels


def test_floats_that_are_kept_are_given_again_with_the_values_of_the_run(tmp_path):
    images = PIXELS.numpy() / np.float32(255)
    recipe = replace(RECIPE, data=replace(RECIPE.data, values="float32"))
    whole = tiny.train(recipe, tmp_path / "whole", images)
    often = replace(recipe, report=replace(recipe.report, checkpoint=0.0))
    cut = tiny.train_until_crash(often, tmp_path / "cut", tiny.At(7, tiny.crash), data=images)
    check_resumed_recipe(cut, None, {"data.values": "float32"})
    resume(cut, data=images)
    assert tiny.digests(cut) == tiny.digests(whole)


def test_a_run_on_a_random_data_set_cannot_be_resumed_exactly(tmp_path):
    class Noisy(Dataset):
        def __init__(self):
            self.random = np.random.default_rng(0)

        def __len__(self):
            return 8

        def __getitem__(self, k):
            return self.random.integers(0, 256, (16, 16, 3), dtype=np.uint8)

    noisy = Noisy()
    run = tiny.train(replace(RECIPE, images=16), tmp_path / "run", noisy)
    with pytest.raises(UserError, match="does not hold the images on which"):
        resume(run, data=noisy)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (
            PIXELS,
            {"labels": True},
            "a label for each image",
        ),
        ((PIXELS, LABELS), {}, "image 0 must have the shape"),
    ],
)
def test_invalid_images_are_refused_before_a_folder_is_made(data, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        tiny.train(RECIPE, tmp_path / "run", data, **options)
    assert not list(tmp_path.iterdir())
