"""Copies of training images are found, and honest samples are not called copies."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from cases import mark_slow
from ddim.data import Images
from ddim.evaluation import memorisation
from ddim.evaluation.memorisation import find_copies, find_duplicates
from ddim.files import read_sealed
from ddim.metrics.features import Extractor
from ddim.sampling.image_features import ImageSet
from ddim.sampling.samples import sample_to_folder
from smooth_images import blurred, smooth

DRAW = np.random.default_rng


def sets(train, valid):
    """Return the sets of training images, with their mirror images, and of held-out images."""
    pixels = np.concatenate([train, valid])
    images = Images(pixels, None, (), tuple(f"{k}.png" for k in range(len(pixels))), "")
    part = ImageSet(images, np.arange(len(train)), "", "training")
    held_out = ImageSet(images, np.arange(len(train), len(pixels)), "", "held-out")
    return [part, replace(part, part="mirrored", mirrored=True)], held_out


def noisy(images, size, seed=0):
    noise = DRAW(seed).normal(0, size, images.shape)
    return np.clip(images + noise, 0, 255).round().astype(np.uint8)


SETS = {"many": (400, 400), "few": (64, 0), "few, many held out": (64, 600)}


@pytest.mark.parametrize("name", SETS)
def test_only_a_sampler_of_copies_is_called_memorised(name):
    train, valid = smooth(SETS[name][0], 0), smooth(SETS[name][1], 1)
    copies = noisy(train[DRAW(2).integers(0, len(train), 200)], 5)
    found = find_copies(copies, [train], valid)
    assert found["memorised"]
    assert found["copies"]["low"] > 0.9
    assert find_copies(copies[:, :, ::-1], [train, train[:, :, ::-1]], valid)["memorised"]
    fresh = find_copies(smooth(200, 3), [train], valid)
    assert not fresh["memorised"]
    assert fresh["copies"]["value"] <= 0.03
    # Images that are near to all others, or to none.
    for odd in (
        np.full((100, 16, 16, 3), 127, np.uint8),
        DRAW(0).integers(0, 256, (100, 16, 16, 3), dtype=np.uint8),
        *(blurred(smooth(100, 3), radius) for radius in (1, 2, 4)),
        noisy(train.mean(0, keepdims=True).repeat(100, 0), 3),
    ):
        assert not find_copies(odd, [train], valid)["memorised"]


def as_images(vectors):
    """Return the bytes of vectors (N, d) as images (N, d, 4, 1)."""
    return vectors.astype(np.float32).view(np.uint8).reshape(*vectors.shape, 4, 1)


def read_vectors(images):
    """Return the vectors (N, d) whose bytes are the values of images (N, 3, d, 4)."""
    return torch.from_numpy(images[:, 0].byte().numpy().view(np.float32)[..., 0])


def test_samples_in_a_dense_part_of_the_data_are_not_called_copies():
    wide = lambda n, seed: DRAW(seed).normal(size=(n, 8))
    dense = lambda n, seed: 5 + wide(n, seed) / 10
    train = np.concatenate([wide(1350, 0), dense(150, 1)])
    valid = np.concatenate([wide(450, 2), dense(50, 3)])
    real = [as_images(train)], as_images(valid), Extractor("bytes", "0" * 64, "none", 8, read_vectors)
    assert not find_copies(as_images(dense(2000, 4)), *real)["memorised"]
    assert find_copies(as_images(train[1350:] + 1e-3 * wide(150, 5)), *real)["memorised"]


@pytest.mark.parametrize("seed", range(2))
def test_other_real_images_give_no_more_false_alarms_than_promised(seed):
    found = find_copies(smooth(10, 99), [smooth(300, 10 + seed)], smooth(800, 20 + seed))
    assert found["bound"] == 0.01
    assert found["learned_from"] == 300 + 400
    assert found["false_alarms"]["of"] == 400
    # At most 1 %, and of 400 images chance adds one or two.
    assert found["false_alarms"]["value"] <= 0.02


def test_the_bound_holds_in_most_sets_of_independent_training_images():
    """Training images may be each other's nearest neighbour, so their values are not independent."""
    high, count, extractor = 0, 30, Extractor("bytes", "0" * 64, "none", 10, read_vectors)
    for seed in range(count):
        train, fresh = DRAW(seed).normal(size=(300, 10)), DRAW(count + seed).normal(size=(1000, 10))
        found = find_copies(as_images(fresh), [as_images(train)], as_images(fresh[:0]), extractor)
        assert found["left_out"] == 0
        high += found["copies"]["value"] > found["bound"]
    assert high <= 0.1 * count


TWINS = {
    "the same": lambda images: images,
    "alike": lambda images: noisy(images, 4),
    "dimmed": lambda images: images // 2 + 40,
    "mirrored": lambda images: images[:, :, ::-1],
}


@pytest.mark.parametrize(
    "kind, count", mark_slow(itertools.product(TWINS, [1, 40]), lambda case: case == ("mirrored", 40))
)
def test_duplicates_among_real_images_do_not_hide_copies_nor_raise_alarms(kind, count):
    train, valid = smooth(400, 0), smooth(400, 1)
    honest = find_copies(train[:100], *sets(train, valid))
    assert (honest["learned_from"], honest["left_out"]) == (600, 0)
    train[-count:] = TWINS[kind](train[100 : 100 + count])
    valid[:count] = TWINS[kind](train[200 : 200 + count])
    found = find_copies(train[:100], *sets(train, valid))
    # Those in training come in pairs.
    assert found["left_out"] == 3 * count
    assert found["learned_from"] + found["left_out"] + found["false_alarms"]["of"] == 800
    assert found["threshold"] == pytest.approx(honest["threshold"], rel=0.2)
    assert found["memorised"]
    assert found["copies"]["value"] == 1
    fresh = find_copies(smooth(400, 3), *sets(train, valid))
    assert max(fresh["copies"]["value"], found["false_alarms"]["value"]) <= 0.02


def test_only_equal_images_are_duplicates_if_all_images_look_similar():
    """In sets such as X-ray images or digits, any two images have a correlation above 0.95."""
    close = lambda n, seed: (0.92 * smooth(1, 9) + 0.08 * smooth(n, seed)).round().astype(np.uint8)
    train, valid = close(400, 0), close(100, 1)
    found = find_copies(close(200, 2), [train], valid)
    assert (found["learned_from"], found["left_out"], found["memorised"]) == (450, 0, False)
    train[:5] = train[5:10]
    found = find_copies(train[100:200], [train], valid)
    assert (found["left_out"], found["memorised"]) == (10, True)


def test_a_plain_image_in_the_data_is_near_to_no_sample():
    """A row of zeros would be at distance 1 from each image, nearer than images that are less alike."""
    train, samples, valid = smooth(300, 0), smooth(50, 3), smooth(100, 1)
    red = np.broadcast_to(np.array([255, 0, 0], np.uint8), (1, 16, 16, 3))
    found = find_copies(samples, [np.concatenate([train, red])], valid)
    assert found["samples"] == find_copies(samples, [train], valid)["samples"]
    assert not found["memorised"]


@pytest.mark.usefixtures("empty_cache")
def test_features_find_copies_too_and_are_computed_once():
    patches = lambda images: torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(1)
    extractor, seen = Extractor("patches", "0" * 64, "none", 192, patches), {}
    views, valid = sets(smooth(300, 0), smooth(100, 1))
    copies = noisy(views[0][:60], 4)
    watch = lambda what, *done: seen.update({what: done})
    found = find_copies(copies, views, valid, extractor, watch)
    assert found["memorised"]
    assert found["space"] == "patches features"
    sizes = {"samples": 60, "training images": 300, "held-out images": 100, "mirrored images": 300}
    assert seen.items() >= {f"features of {name}": (size, size) for name, size in sizes.items()}.items()
    seen.clear()
    flipped = np.ascontiguousarray(copies[:, :, ::-1])
    assert find_copies(flipped, views, valid, extractor, watch)["memorised"]
    assert {name for name in seen if name.startswith("features")} == {"features of samples"}
    assert not find_copies(flipped, views[:1], valid, extractor)["memorised"]
    assert not find_copies(smooth(60, 5), views, replace(valid, which=np.arange(0)), extractor)["memorised"]


def test_duplicates_between_the_halves_are_found_also_mirrored():
    train, valid = smooth(50, 0), smooth(20, 1)
    valid[3] = train[11]
    valid[7:8] = noisy(train[12:13], 2)
    valid[9] = train[13, :, ::-1]
    parts = sets(train, valid)
    pair = lambda valid, train: {"valid": f"{valid}.png", "train": f"{train}.png"}
    assert find_duplicates(*parts) == {
        "same": [pair(53, 11), pair(59, 13)],
        "alike": [pair(57, 12)],
        "compared": 20,
    }
    assert find_duplicates(parts[0][:1], parts[1])["same"] == [pair(53, 11)]
    assert find_duplicates(*sets(train, valid[:0]))["same"] == []


# --- runs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run that was trained for a few updates, with an early checkpoint as a guide."""
    return tiny.train(tiny.recipe(report__guide=0.5), tmp_path_factory.mktemp("run") / "one")


def test_a_run_that_has_hardly_learnt_copies_nothing(finished):
    found = memorisation.memorisation(finished, 12, 2, progress=False)
    assert found.verdict == "no sample copies a training image (12 samples were compared)"
    prose, table = str(found).split(f"\nthe closest pairs:\n{found.folder}/pairs.png\nseed")
    assert prose == found.verdict
    assert all(row["nearest"] in table for row in found.to_records())
    assert "0.0 % [0.0, 26.5] of 12 samples" in found.details
    record = read_sealed(found.folder / "record.json")
    assert json.loads(json.dumps(found.record)) == record
    assert not record["memorised"]
    assert [sample["seed"] for sample in found.to_records()] == record["sampling"]["seeds"]
    assert record["false_alarms"]["of"] == 4


def test_samples_are_those_of_sample(finished, tmp_path):
    options = {"guidance": 2.0, "guide_with": "@guide", "fields": {"sampler.eta": "0.5"}}
    sample_to_folder(finished, 4, 3, **options, out=tmp_path / "out")
    sampled = read_sealed(tmp_path / "out" / "record.json")
    found = memorisation.memorisation(finished, 4, 3, **options)
    same = "sampler", "times", "nfe", "seeds", "label", "guidance", "guide"
    assert [found.record["sampling"][name] for name in same] == [sampled[name] for name in same]
    assert "samples with guidance 2, guide @guide" in str(found)
