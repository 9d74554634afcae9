"""Copies of training images are found, and honest samples are not called copies."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from cases import mark_slow
from counted_pixels import CountedPixels
from ddim.data import Images, SplitImages
from ddim.evaluation import memorisation
from ddim.evaluation.memorisation import (
    compare_with_training,
    draw_pairs,
    find_copies,
    find_held_out_duplicates,
)
from ddim.files import read_sealed
from ddim.metrics import neighbours
from ddim.metrics.features import Extractor
from ddim.metrics.neighbours import flatten_features, nearest_neighbours, standardise
from ddim.sampling.images import open_run_images
from ddim.sampling.pipeline import load
from ddim.sampling.samples import sample_to_folder
from ddim.sampling.sampling_setup import Guidance, save_guidance
from smooth_images import blurred, smooth

DRAW = np.random.default_rng


def own(train, valid):
    """Return the training and the held-out images of a run."""
    pixels = np.concatenate([train, valid])
    names = tuple(f"{k}.png" for k in range(len(pixels)))
    n = len(train)
    return SplitImages(Images(pixels, None, (), names, ""), np.arange(n), np.arange(n, len(pixels)))


def share(found, images=None):
    """Return the share of copies among the samples, or among other images."""
    return found.count(found.samples if images is None else images)


def noisy(images, size, seed=0):
    return np.clip(images + DRAW(seed).normal(0, size, images.shape), 0, 255).round().astype(np.uint8)


SETS = {"many": (400, 400), "few": (64, 0), "few, many held out": (64, 600)}


@pytest.mark.parametrize("name", SETS)
def test_only_a_sampler_of_copies_is_called_memorised(name):
    train, valid = smooth(SETS[name][0], 0), smooth(SETS[name][1], 1)
    copies = noisy(train[DRAW(2).integers(0, len(train), 200)], 5)
    found = find_copies(copies, train, valid)
    assert found.memorised
    assert share(found)["low"] > 0.9
    fresh = find_copies(smooth(200, 3), train, valid)
    assert not fresh.memorised
    assert share(fresh)["value"] <= 0.03


@pytest.mark.parametrize("name", ["many", "few"])
@pytest.mark.parametrize("kind", ["grey", "noise", "blur", "mean"])
def test_images_near_to_everything_or_nothing_are_not_called_memorised(name, kind):
    train, valid = smooth(SETS[name][0], 0), smooth(SETS[name][1], 1)
    samples = {
        "grey": np.full((100, 16, 16, 3), 127, np.uint8),
        "noise": DRAW(0).integers(0, 256, (100, 16, 16, 3), dtype=np.uint8),
        "blur": blurred(smooth(100, 3), 4),
        "mean": noisy(train.mean(0, keepdims=True).repeat(100, 0), 3),
    }[kind]
    assert not find_copies(samples, train, valid).memorised


def test_samples_in_a_dense_part_of_the_data_are_not_called_copies():
    wide = lambda n, seed: DRAW(seed).normal(size=(n, 8))
    dense = lambda n, seed: 5 + wide(n, seed) / 10
    train = np.concatenate([wide(1350, 0), dense(150, 1)])
    valid = np.concatenate([wide(450, 2), dense(50, 3)])
    known = {"embed": flatten_features, "images": (smooth(1500, 6), smooth(500, 7))}
    assert not find_copies(dense(2000, 4), train, valid, **known).memorised
    assert find_copies(train[1350:] + 1e-3 * wide(150, 5), train, valid, **known).memorised


@pytest.mark.parametrize("seed", range(2))
def test_other_real_images_give_no_more_false_alarms_than_promised(seed):
    found = find_copies(smooth(10, 99), smooth(300, 10 + seed), smooth(800, 20 + seed))
    assert found.bound == 0.01
    assert found.learned_from == 300 + 400
    assert len(found.held_out.indices) == 400
    # At most 1 %, and of 400 images chance adds one or two.
    assert share(found, found.held_out)["value"] <= 0.02


def test_the_bound_holds_in_most_sets_of_independent_training_images():
    """Training images may be each other's nearest neighbour, so their values are not independent."""
    high, sets, count = 0, 30, 300
    for seed in range(sets):
        train, fresh = DRAW(seed).normal(size=(count, 10)), DRAW(sets + seed).normal(size=(1000, 10))
        # Noise in place of pixels, so that no image is a near-duplicate.
        noise = DRAW(seed).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)
        found = find_copies(fresh, train, fresh[:0], embed=flatten_features, images=(noise, noise[:0]))
        high += share(found)["value"] > found.bound
    assert high <= 0.1 * sets


TWINS = {
    "the same": lambda images: images,
    "alike": lambda images: noisy(images, 4),
    "dimmed": lambda images: images // 2 + 40,
    "mirrored": lambda images: images[:, :, ::-1],
}


QUICK = [("mirrored", 40)]


@pytest.mark.parametrize(
    "kind, count", mark_slow(itertools.product(TWINS, [1, 40]), lambda case: case in QUICK)
)
def test_duplicates_among_real_images_do_not_hide_copies_nor_raise_alarms(kind, count):
    train, valid = smooth(400, 0), smooth(400, 1)
    honest = compare_with_training(own(train, valid), train[:100], flip=True)
    assert (honest.learned_from, honest.left_out) == (600, 0)
    train[-count:] = TWINS[kind](train[100 : 100 + count])
    valid[:count] = TWINS[kind](train[200 : 200 + count])
    found = compare_with_training(own(train, valid), train[:100], flip=True)
    # Those in training come in pairs.
    assert found.left_out == 3 * count
    assert found.learned_from + found.left_out + len(found.held_out.indices) == 800
    assert found.threshold == pytest.approx(honest.threshold, rel=0.2)
    assert found.memorised
    assert share(found)["value"] == 1
    fresh = compare_with_training(own(train, valid), smooth(400, 3), flip=True)
    assert share(fresh)["value"] <= 0.02
    assert share(found, found.held_out)["value"] <= 0.02


def test_only_equal_images_are_duplicates_if_all_images_look_similar():
    """In sets such as X-ray images or digits, any two images have a correlation above 0.95."""
    close = lambda n, seed: (0.92 * smooth(1, 9) + 0.08 * smooth(n, seed)).round().astype(np.uint8)
    train, valid = close(400, 0), close(100, 1)
    found = find_copies(close(200, 2), train, valid)
    assert (found.learned_from, found.left_out) == (450, 0)
    assert not found.memorised
    train[:5] = train[5:10]
    found = find_copies(train[100:200], train, valid)
    assert found.left_out == 10
    assert found.memorised


def test_a_plain_image_in_the_data_is_near_to_no_sample():
    """A row of zeros would be at distance 1 from each image, nearer than images that are less alike."""
    train, samples = smooth(300, 0), smooth(50, 3)
    alone = nearest_neighbours(samples, train, embed=standardise)
    red = np.broadcast_to(np.array([255, 0, 0], np.uint8), (1, 16, 16, 3))
    found = nearest_neighbours(samples, np.concatenate([train, red]), embed=standardise)
    assert (found.indices == alone.indices).all()
    assert (found.distances == alone.distances).all()
    # A plain sample is as far from each image, and equal to another plain image.
    apart = nearest_neighbours(red, np.concatenate([train, red]), 301, embed=standardise).distances[0]
    assert apart == pytest.approx([0, *[2**0.5] * 300])
    assert not find_copies(samples, np.concatenate([train, red]), smooth(100, 1)).memorised


class Sums:
    """A network whose features are means over an 8 x 8 grid of patches."""

    def __call__(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(1)


def test_features_find_copies_too_and_are_computed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path))
    train, valid = smooth(300, 0), smooth(100, 1)
    extractor, seen = Extractor("sums", "0" * 64, "none", 192, Sums()), {}
    images = own(train, valid)
    copies = noisy(train[:60], 4)
    watch = lambda what, *done: seen.update({what: done})
    found = compare_with_training(images, copies, True, extractor, watch)
    assert found.memorised
    assert found.space == "sums features"
    sizes = {"samples": 60, "training images": 300, "held out images": 100, "mirrored images": 300}
    assert seen.items() >= {f"features of {name}": (size, size) for name, size in sizes.items()}.items()
    seen.clear()
    mirrored = np.ascontiguousarray(copies[:, :, ::-1])
    assert compare_with_training(images, mirrored, True, extractor, watch).memorised
    assert {name for name in seen if name.startswith("features")} == {"features of samples"}
    assert not compare_with_training(images, mirrored, False, extractor).memorised
    assert not compare_with_training(images, smooth(60, 5), True, extractor).memorised


def test_duplicates_between_the_halves_are_found_also_mirrored():
    train, valid = smooth(50, 0), smooth(20, 1)
    valid[3], valid[7], valid[9] = train[11], noisy(train[12:13], 2)[0], train[13, :, ::-1]
    images = own(train, valid)
    found = find_held_out_duplicates(images, flip=True)
    pair = lambda valid, train: {"valid": f"{valid}.png", "train": f"{train}.png"}
    assert found == {"same": [pair(53, 11), pair(59, 13)], "alike": [pair(57, 12)], "compared": 20, "of": 20}
    assert find_held_out_duplicates(images, flip=False)["same"] == [pair(53, 11)]
    assert find_held_out_duplicates(own(train, valid[:0]), flip=True)["same"] == []


def test_of_many_images_a_part_is_compared_and_few_are_read_at_once(monkeypatch):
    monkeypatch.setattr(memorisation, "QUERIES", 60)
    monkeypatch.setattr(neighbours, "_BLOCK", 32)
    train, valid = smooth(400, 0), smooth(300, 1)
    valid[250:] = train[250:300]
    images = own(train, valid)
    counted = CountedPixels(images.images.pixels)
    images = replace(images, images=replace(images.images, pixels=counted))
    found = compare_with_training(images, smooth(20, 3), True)
    assert found.learned_from + found.left_out + len(found.held_out.indices) == 60 + 60
    pairs = find_held_out_duplicates(images, True)
    assert counted.largest <= 60
    assert (pairs["compared"], pairs["of"]) == (60, 300)
    assert 0 < len(pairs["same"]) < 50


def test_pairs_start_with_the_closest():
    train, valid = smooth(64, 0), smooth(40, 1)
    samples = np.concatenate([smooth(19, 3), noisy(train[20:21], 4)])
    figure = draw_pairs(find_copies(samples, train, valid), samples, own(train, valid))
    words = [text.get_text() for text in figure.texts]
    assert words[words.index("1") + 1].endswith(" copy")
    assert any("20.png" in word for word in words)


# --- runs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run that was trained for a few updates, with an early checkpoint as a guide."""
    return tiny.train(tiny.recipe(report__guide=0.5), tmp_path_factory.mktemp("run") / "one")


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to which a test may write."""
    return shutil.copytree(finished, tmp_path / "one")


def test_a_run_that_has_hardly_learnt_copies_nothing(copied):
    found = memorisation.memorisation(copied, 12, 2, progress=False)
    assert found.verdict == "no sample copies a training image (12 samples were compared)"
    assert str(found).split("\n") == [found.verdict, "the closest pairs:", f"{found.folder}/pairs.png"]
    assert "0.0 % [0.0, 26.5] of 12 samples" in found.details
    assert "times the noise MSE on training images" in found.details
    record = read_sealed(found.folder / "record.json")
    assert json.loads(json.dumps(found.record)) == record
    assert (record["schema"], record["kind"], record["memorised"]) == (1, "memorisation", False)
    assert [sample["seed"] for sample in found.to_records()] == list(range(12))
    assert (record["sampling"]["seeds"], record["sampling"]["nfe"]) == (list(range(12)), 2)
    assert record["false_alarms"]["of"] == 4
    assert record["gap"].keys() == {"value", "low", "high", "images", "levels"}


def test_copies_are_counted_in_the_verdict(copied, monkeypatch):
    parts = open_run_images(load(copied))
    train = torch.from_numpy(parts.images.pixels[parts.train]).permute(0, 3, 1, 2)
    monkeypatch.setattr(memorisation.SampledParts, "samples", lambda self: [train[:20]])
    found = memorisation.memorisation(copied, 20, 2, progress=False)
    assert found.verdict == "20 of 20 samples copy training images"
    assert found.record["memorised"]
    assert [row["nearest"] for row in found.to_records()] == [parts.images.names[k] for k in parts.train[:20]]


def test_samples_are_those_of_sample_with_searched_times_and_guidance(copied, tmp_path):
    options = {"guidance": 2.0, "guide_with": "@guide", "fields": {"sampler.eta": "0.5"}}
    sample_to_folder(copied, 4, 3, **options, out=tmp_path / "out")
    sampled = read_sealed(tmp_path / "out" / "record.json")
    found = memorisation.memorisation(copied, 4, 3, **options).record["sampling"]
    same = "sampler", "times", "nfe", "seeds", "label", "guidance", "guide"
    assert [found[name] for name in same] == [sampled[name] for name in same]
    searched = Guidance(3.0, (-2.0, None), "@guide")
    save_guidance(copied, tiny.recipe().sampler, 2, "ema", searched, labelled=False)
    said = [str(memorisation.memorisation(copied, 4, 2, guidance=scale)) for scale in (None, 1.0)]
    named = "samples with guidance 3, log-SNR above -2, guide @guide"
    assert [named in text for text in said] == [True, False]
