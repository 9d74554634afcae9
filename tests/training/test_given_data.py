"""Runs on images that are given from Python, and of networks that the user wrote."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import ddim
import mine
import tiny
from ddim.errors import UserError
from ddim.recipe.recipe import Data
from ddim.sampling.images import open_run_images
from ddim.training import resume

PIXELS = torch.from_numpy(tiny.images(size=(16, 16)).pixels).permute(0, 3, 1, 2)
PAIRS = TensorDataset(PIXELS, torch.arange(40) % 4)
RECIPE = replace(tiny.BASE, data=Data(size=(16, 16), validation=0.2), images=32)
OFTEN = replace(RECIPE, report=replace(RECIPE.report, checkpoint=0.0))


@pytest.mark.parametrize("values", ["uint8", "float32"])
def test_a_run_on_given_images_resumes_exactly_when_they_are_given_again(values, tmp_path):
    recipe, often = (replace(r, data=replace(r.data, values=values)) for r in (RECIPE, OFTEN))
    given = again = PIXELS.numpy() / np.float32(50)
    if values == "uint8":
        given, again = PIXELS, PIXELS.numpy() / 255
    whole = tiny.train(replace(recipe, data=replace(recipe.data, size=(64, 64))), tmp_path / "whole", given)
    assert ddim.load(whole).recipe.data.size == (16, 16)
    assert not ddim.load(whole).recipe.data.labels
    images = open_run_images(ddim.load(whole)).images.pixels
    assert images.dtype == values
    assert np.array_equal(images, np.asarray(given).transpose(0, 2, 3, 1))
    folder = tiny.train_until_crash(often, tmp_path / "run", tiny.At(3, tiny.crash), data=again)
    with pytest.raises(UserError, match="does not hold the images"):
        resume(folder, data=PIXELS.flip(3))
    resume(folder, data=again)
    tiny.check_same_run(folder, whole)


def test_a_run_on_pairs_is_conditioned_on_their_labels(tmp_path):
    run = tiny.train(RECIPE, tmp_path / "run", PAIRS, size=8)
    pipeline = ddim.load(run)
    assert (pipeline.recipe.net.classes, pipeline.classes) == (4, ("0", "1", "2", "3"))
    assert ddim.sample(pipeline, n=2, steps=2, label="3").shape == (2, 3, 8, 8)
    plain = ddim.load(tiny.train(RECIPE, tmp_path / "plain", PAIRS, labels=False))
    assert not plain.recipe.data.labels


class OfVectors(mine.Net):
    """A network for vectors of two numbers."""

    vector = 2

    def forward(self, x, noise_level, vector):
        given = torch.zeros(len(x), 2) if vector is None else vector.nan_to_num()
        return super().forward(x, noise_level) + 0.01 * given.sum(1).view(-1, 1, 1, 1)


class OfClasses(mine.Net):
    """A network for four classes; -1 is no class, and None means that no image has one."""

    classes = 4

    def forward(self, x, noise_level, label):
        label = torch.full((len(x),), -1) if label is None else label
        return super().forward(x, noise_level) + 0.01 * label.view(-1, 1, 1, 1)


def test_an_own_network_is_trained_on_vectors_and_sampled(tmp_path):
    np.savetxt(tmp_path / "v.csv", np.random.default_rng(0).normal(size=(40, 2)), delimiter=",")
    data = replace(RECIPE.data, vectors=str(tmp_path / "v.csv"))
    run = tiny.train(replace(RECIPE, net=OfVectors, data=data), tmp_path / "run", PIXELS)
    vector = [[0.5, 1.0], [0.0, 2.0]]
    samples = ddim.sample(run, n=2, steps=2, vector=vector, guidance=2, progress=False)
    assert not torch.equal(samples, ddim.sample(run, n=2, steps=2, label="none", progress=False))


def test_an_own_network_takes_the_labels_that_it_has_classes_for(tmp_path):
    run = tiny.train(replace(RECIPE, net=OfClasses), tmp_path / "run", PAIRS)
    one, other = (ddim.sample(run, n=2, steps=2, label=label, progress=False) for label in (0, 3))
    assert not torch.equal(one, other)
    plain = tiny.train(replace(RECIPE, net=mine.Net, images=8), tmp_path / "plain", PAIRS)
    assert not ddim.load(plain).recipe.data.labels
