"""Networks that the user wrote: classes and vectors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import ddim
import mine
import tiny
from ddim.recipe.recipe import Data
from ddim.training.budget import time_image
from ddim.training.memory import estimate_memory

PIXELS = torch.from_numpy(tiny.images().pixels).permute(0, 3, 1, 2)
PAIRS = TensorDataset(PIXELS, torch.arange(40) % 4)
RECIPE = replace(tiny.BASE, data=Data(size=(32, 32), validation=0.2))


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


class NeverWithoutClass(mine.Net):
    """A network that takes a class for each image, and fails without."""

    classes = 4

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 1)

    def forward(self, x, noise_level, label):
        return super().forward(x, noise_level) + self.embed(label).view(-1, 1, 1, 1)


def test_an_own_network_is_trained_on_vectors_and_sampled(tmp_path):
    np.savetxt(tmp_path / "v.csv", np.random.default_rng(0).normal(size=(40, 2)), delimiter=",")
    data = replace(RECIPE.data, vectors=str(tmp_path / "v.csv"))
    run = tiny.train(replace(RECIPE, net=OfVectors, data=data), tmp_path / "run", PIXELS)
    assert ddim.sample(run, n=2, steps=2, progress=False).shape == (2, 3, 32, 32)
    vector = [[0.5, 1.0], [0.0, 2.0]]
    assert ddim.sample(run, n=2, steps=2, vector=vector, guidance=2, progress=False).isfinite().all()


@pytest.mark.parametrize("net", [OfVectors, OfClasses])
def test_time_and_memory_of_an_own_network_are_estimated(net):
    recipe = replace(RECIPE, net=net)
    assert time_image(recipe, 3) > 0
    assert estimate_memory(tiny.training(recipe)) > 0


def test_a_network_that_always_needs_a_class_is_trained_on_images_that_all_have_one(tmp_path):
    data = replace(RECIPE.data, labels=True, unlabelled=0)
    run = tiny.train(replace(RECIPE, net=NeverWithoutClass, data=data), tmp_path / "run", PAIRS)
    assert ddim.sample(run, n=2, steps=2, label=3, progress=False).shape == (2, 3, 32, 32)
