"""Labels: those of training images, and those on which samples are conditioned."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

import tiny
from ddim.data import Images
from ddim.data.vectors import ImageVectors
from ddim.diffusion.loss import Objective
from ddim.errors import UserError
from ddim.evaluation.likelihood import label_any_images
from ddim.machine.runtime import Runtime
from ddim.recipe.codec import override
from ddim.sampling.generate import generate
from ddim.sampling.labels import (
    NULL,
    VectorLabel,
    choose_label,
    count_classes,
    draw_class,
    draw_vectors,
    drop_labels,
    find_label,
    find_vectors,
    label_images,
)
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.sampling_setup import Guidance, SamplingSetup
from ddim.training.validation import validate
from oracles import shaken

SIZE = 4
"""Images in a micro-batch of these tests, so that few images fill several."""

LABELLED = override(tiny.BASE, {"data.labels": True, "data.size": 8, "data.unlabelled": 0.25})


def coloured(n=40):
    """Blue and red squares in turn, each of its own brightness."""
    pixels, labels = np.full((n, 8, 8, 3), 40, np.uint8), np.arange(n) % 2
    for k, label in enumerate(labels):
        pixels[k, :, :, 0 if label else 2] = 150 + 2 * (k % 40)
    names = tuple(f"{('blue', 'red')[label]}/{k}.png" for k, label in enumerate(labels))
    return Images(pixels, labels, ("blue", "red"), names, hashlib.sha256(pixels.tobytes()).hexdigest())


def training(recipe=LABELLED, **changes):
    recipe = override(recipe, {name.replace("__", "."): value for name, value in changes.items()})
    return tiny.training(count_classes(recipe, coloured()), coloured())


def opened(run):
    """A training as a pipeline."""
    model = run.model.eval().requires_grad_(False)
    return Pipeline(model, run.pixels, run.recipe, Runtime(micro_batch=SIZE))


@pytest.fixture(scope="module")
def trained():
    """A labelled model with weights that are not those at the start."""
    run = training()
    shaken(run.model.net)
    return opened(run)


def redness(x):
    """(B,) how much more red than blue images (B, C, H, W) are."""
    return x[:, 0].mean((1, 2)) - x[:, 2].mean((1, 2))


# --- training -----------------------------------------------------------------------------------------------


def test_a_network_learns_to_sample_each_class():
    run = training(images=3200, optim__batch=16, optim__lr=3e-3)
    for _ in range(200):
        run.advance()
    with run.averaged() as pipeline:
        whole = replace(opened(run), model=pipeline.model)
        setups = [SamplingSetup(whole, 10, k) for k in (0, 1)]
        setups += [replace(setups[1], guidance=Guidance(1.5))]
        blue, red, further = (redness(generate(setup, range(8))[0]) for setup in setups)
    assert blue.max() < -0.2
    assert red.min() > 0.2
    assert further.min() > 0.2


@pytest.mark.parametrize(
    "changes", [{}, {"optim__accumulate": 4}, {"augment__probability": 0.5, "net__augment": 9}]
)
def test_each_training_image_has_its_class_label_or_none(changes, monkeypatch):
    run, rows, loss = training(optim__batch=32, **changes), [], Objective.__call__

    def spy(self, denoise, x0, *rest):
        rows.append((denoise.label, redness(x0)))
        return loss(self, denoise, x0, *rest)

    monkeypatch.setattr(Objective, "__call__", spy)
    tiny.gradients(run)
    labels, red = (torch.cat(part) for part in zip(*rows, strict=True))
    known = labels != NULL
    assert 4 <= known.sum() < 32
    assert torch.equal(labels[known] == 1, red[known] > 0)
    assert {0, 1} <= set(labels.tolist())


def test_validation_conditions_on_the_class_of_each_image():
    run, seen = training(data__validation=0.5, report__validation_images=20), []
    run.model.net.register_forward_pre_hook(lambda _, args: seen.append((args[0], args[2])))
    validate(run)
    x, labels = (torch.cat(part) for part in zip(*seen, strict=True))
    # Times grow: the first images are hardly noisy.
    assert torch.equal(labels[:8] == 1, redness(x[:8]) > 0)
    assert sorted(labels.tolist()) == sorted(coloured().labels[run.split.validation].tolist())


def test_labels_are_dropped_as_often_as_the_recipe_says():
    n, part = 40_000, 0.1
    labels, draw = torch.arange(n) % 3, torch.Generator().manual_seed(0)
    dropped = drop_labels(labels, part, draw)
    hidden, deviation = dropped == NULL, (part * (1 - part) / n) ** 0.5
    for kind in range(3):
        assert abs(hidden[labels == kind].double().mean() - part) < 4 * deviation * 3**0.5
    assert torch.equal(dropped[~hidden], labels[~hidden])
    assert torch.equal(drop_labels(labels, 0.0, draw), labels)


def test_the_recipe_of_a_run_has_its_number_of_classes():
    counted = count_classes(LABELLED, coloured())
    assert counted.net.classes == 2
    assert count_classes(counted, coloured()) == counted
    plain = override(LABELLED, {"data.labels": False})
    assert count_classes(plain, coloured()) is plain
    assert label_images(plain, coloured(), np.arange(3)) is None
    for recipe, images in ((LABELLED, tiny.images(8)), (override(counted, {"net.classes": 5}), coloured())):
        with pytest.raises(UserError, match=r"data\.labels|net\.classes"):
            count_classes(recipe, images)


def test_other_images_get_the_class_of_their_folder_name_or_none():
    recipe, other = count_classes(LABELLED, coloured()), replace(coloured(), classes=("green", "blue"))
    run = SimpleNamespace(recipe=recipe, classes=("blue", "red"), clusters=None)
    assert label_any_images(run, other, np.arange(4)).tolist() == [NULL, 0, NULL, 0]
    unsorted = replace(other, labels=None, classes=())
    assert label_any_images(run, unsorted, np.arange(3)) is None
    run.recipe = tiny.BASE
    assert label_any_images(run, other, np.arange(3)) is None


# --- samples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [Guidance(), Guidance(2.0)], ids=["plain", "guided"])
def test_label_all_gives_each_seed_its_class_in_any_batch(trained, guidance):
    def sampled(label, seeds=range(8)):
        return generate(SamplingSetup(trained, 3, label, guidance), seeds)[0]

    alone, every = [sampled(k) for k in (0, 1)], sampled("all")
    assert not torch.equal(*alone)
    assert all(torch.equal(every[seed], alone[seed % 2][seed]) for seed in range(8))
    for seeds in ([7], [3, 6], [6, 5, 4, 3, 2], [1, 3, 5, 7, 0]):
        assert torch.equal(sampled("all", seeds), every[seeds])


def recipe_of(**data):
    return override(tiny.BASE, {f"data.{name}": value for name, value in data.items()})


def test_a_class_is_found_by_name_before_index():
    recipe, classes = recipe_of(labels=True), ("1", "0", "frog")
    wanted = {"1": 0, "0": 1, "2": 2, "frog": 2, "all": "all", "none": None, None: None, 1: 1}
    assert {text: find_label(text, recipe, classes) for text in wanted} == wanted
    # A class folder may have the name of a word.
    assert find_label("none", recipe, ("natural", "none")) == 1
    with pytest.raises(UserError, match="perhaps you meant frog"):
        find_label("frgo", recipe, classes)


@pytest.mark.parametrize("label", ["3", "-1", "", "9" * 5000, 3, -1, "natural"])
def test_a_label_that_the_run_does_not_have_is_refused(label):
    with pytest.raises(UserError, match="label must be one of the run's 3 classes"):
        find_label(label, recipe_of(labels=True), ("a", "b", "c"))


# --- clusters -----------------------------------------------------------------------------------------------

CLUSTERED = recipe_of(labels="clusters:5")
COUNTS = (500, 260, 120, 61, 9)
"""Training images of each class."""


@pytest.mark.parametrize("first", [0, 1000, 2**31, None])
def test_classes_of_samples_are_as_frequent_as_in_training(first):
    n = 2000
    drawn = np.random.default_rng(0).integers(0, 2**32, n).tolist()
    seeds = drawn if first is None else range(first, first + n)
    seen = np.bincount([draw_class(seed, COUNTS) for seed in seeds], minlength=5)
    expected = n * np.array(COUNTS) / sum(COUNTS)
    assert ((seen - expected) ** 2 / expected).sum() < stats.chi2.ppf(0.99, 4)
    # Seeds in a row are spread evenly: by chance, the largest class would be off by 22 of 1,053.
    assert first is None or np.abs(seen - expected).max() < 8


def test_samples_of_a_run_with_clusters_have_the_frequencies_of_training_by_default():
    names = tuple(f"cluster-0{k}" for k in range(5))
    wanted = {None: "natural", "natural": "natural", "none": None, "all": "all", "cluster-03": 3, "2": 2}
    assert {word: find_label(word, CLUSTERED, names) for word in wanted} == wanted
    recipes = (CLUSTERED, recipe_of(labels=True), recipe_of(vectors="a.csv"), tiny.BASE)
    assert [choose_label(recipe) for recipe in recipes] == ["natural", "all", "natural", None]


# --- vectors ------------------------------------------------------------------------------------------------

ROWS = np.arange(12.0).reshape(4, 3)
VECTORS = ImageVectors(("a", "b", "c"), ROWS, np.array([0, 2]), np.array([1.0, 2, 3]), np.array([2.0, 2, 4]))


@pytest.mark.parametrize("kind", [np.array, torch.tensor, np.ndarray.tolist])
def test_vectors_are_standardised_and_belong_to_their_seeds(kind, tmp_path):
    one, rows = (find_vectors(kind(given), [5, 9], VECTORS) for given in (ROWS[0], ROWS[:2]))
    wanted = torch.from_numpy(((ROWS - VECTORS.mean) / VECTORS.deviation).astype(np.float32))
    assert torch.equal(one.assign([9, 3], VECTORS), wanted[[0, 0]])
    assert torch.equal(rows.assign([9, 5, 9], VECTORS), wanted[[1, 0, 1]])
    (tmp_path / "rows.csv").write_text("c,a,b\n2,0,1\n5,3,4\n")
    assert find_vectors(tmp_path / "rows.csv", [5, 9], VECTORS) == rows
    drawn = draw_vectors(range(50), VECTORS)
    assert {tuple(row) for row in drawn.tolist()} == {tuple(row) for row in wanted[[0, 2]].tolist()}
    assert isinstance(one, VectorLabel)
