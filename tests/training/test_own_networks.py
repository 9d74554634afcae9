"""Networks that the user wrote: classes, vectors, a fixed size, and mistakes that are found early."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ddim.training.alternatives import list_alternatives
from torch import nn
from torch.utils.data import TensorDataset

import ddim
import mine
import tiny
from ddim.data.augment import Augment
from ddim.errors import UserError
from ddim.machine.runtime import Runtime
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


class Augmented(mine.Net):
    """A network that takes augmentation labels, but fails without."""

    augment = 9

    def forward(self, x, noise_level, augment):
        return super().forward(x, noise_level) + 0.01 * augment.sum(1).view(-1, 1, 1, 1)


class OfTensors(OfClasses):
    """A network that asks for a tensor of labels, which may be -1."""

    def forward(self, x, noise_level, label):
        return super().forward(x, noise_level, label.long())


class Fixed(mine.Net):
    """A network for images of 40 x 40 pixels alone."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(40, 40))

    def forward(self, x, noise_level):
        return super().forward(x, noise_level) + self.place


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
    assert estimate_memory(recipe, 3, Runtime()) > 0


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (NeverWithoutClass, r"label \(2,\) of -1, which means none, fails: IndexError"),
        (OfTensors, r"and label None, which means that no image has one, fails: AttributeError"),
    ],
)
def test_a_network_that_fails_without_a_class_is_refused_before_the_training(net, said, tmp_path):
    with pytest.raises(UserError, match=said):
        tiny.train(replace(RECIPE, net=net), tmp_path / "run", PAIRS)


def test_a_network_that_fails_without_augmentation_labels_is_refused_before_the_training(tmp_path):
    recipe = replace(RECIPE, net=Augmented, augment=Augment(0.5))
    with pytest.raises(UserError, match=r"noise_level \(2,\), without augment, fails: TypeError"):
        tiny.train(recipe, tmp_path / "run", PIXELS)


def test_a_network_that_always_needs_a_class_is_trained_on_images_that_all_have_one(tmp_path):
    data = replace(RECIPE.data, labels=True, unlabelled=0)
    run = tiny.train(replace(RECIPE, net=NeverWithoutClass, data=data), tmp_path / "run", PAIRS)
    assert ddim.sample(run, n=2, steps=2, label=3, progress=False).shape == (2, 3, 32, 32)


def test_another_size_is_never_proposed_for_an_own_network():
    recipe = replace(RECIPE, net=Fixed, data=replace(RECIPE.data, size=(40, 40)))
    assert list_alternatives(recipe, 1000, 3, "fp32") == []
