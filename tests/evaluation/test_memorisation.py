import itertools
from dataclasses import replace

import numpy as np
import pytest

from cases import mark_slow
from counted_pixels import CountedPixels
from ddim.data import Images, SplitImages
from ddim.evaluation import copies, memorisation
from ddim.evaluation.copies import (
    find_copies,
    find_copies_by_features,
    find_copies_by_pixels,
    find_held_out_duplicates,
)
from ddim.evaluation.memorisation import draw_pairs, memorisation_record, memorisation_sentences
from ddim.metrics import neighbours
from ddim.metrics.features import Extractor
from ddim.metrics.neighbours import flatten_features
from smooth_images import blurred, smooth

DRAW = np.random.default_rng


def own(train, valid):
    """Return the training and the held-out images of a run."""
    pixels = np.concatenate([train, valid])
    names = tuple(f"{k}.png" for k in range(len(pixels)))
    n = len(train)
    return SplitImages(Images(pixels, None, (), names, ""), np.arange(n), np.arange(n, len(pixels)))


def noisy(images, size, seed=0):
    return np.clip(images + DRAW(seed).normal(0, size, images.shape), 0, 255).round().astype(np.uint8)


SETS = {"many": (400, 400), "few": (64, 0), "few, many held out": (64, 600)}


@pytest.mark.parametrize("name", SETS)
def test_only_a_sampler_of_copies_is_called_memorised(name):
    train, valid = smooth(SETS[name][0], 0), smooth(SETS[name][1], 1)
    copies = noisy(train[DRAW(2).integers(0, len(train), 200)], 5)
    found = find_copies(copies, train, valid)
    assert found.memorised
    assert found.samples.share.low > 0.9
    assert "repeats training images" in found.sentence
    fresh = find_copies(smooth(200, 3), train, valid)
    assert not fresh.memorised
    assert fresh.samples.share.value <= 0.03
    assert "is not seen to repeat" in fresh.sentence


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


def test_some_copies_among_honest_samples_are_counted():
    train, valid = smooth(400, 0), smooth(400, 1)
    mixed = np.concatenate([noisy(train[:30], 5), smooth(170, 3)])
    found = find_copies(mixed, train, valid)
    assert found.memorised
    assert found.samples.copies[:30].mean() > 0.9
    assert found.samples.share.low < 0.15 < found.samples.share.high


@pytest.mark.parametrize("seed", range(2))
def test_other_real_images_give_no_more_false_alarms_than_promised(seed):
    found = find_copies(smooth(10, 99), smooth(300, 10 + seed), smooth(800, 20 + seed))
    assert found.bound == 0.01
    assert found.learned_from == 300 + 400
    assert len(found.held_out.copies) == 400
    # At most 1 %, and of 400 images chance adds one or two.
    assert found.held_out.share.value <= 0.02


def test_the_bound_holds_in_most_sets_of_independent_training_images():
    """Training images may be each other's nearest neighbour, so their values are not independent."""
    high, sets, count = 0, 30, 300
    for seed in range(sets):
        train, fresh = DRAW(seed).normal(size=(count, 10)), DRAW(sets + seed).normal(size=(1000, 10))
        # Noise in place of pixels, so that no image is a near-duplicate.
        noise = DRAW(seed).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)
        found = find_copies(fresh, train, fresh[:0], embed=flatten_features, images=(noise, noise[:0]))
        high += found.samples.share.value > found.bound
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
    honest = find_copies_by_pixels(own(train, valid), train[:100], flip=True)
    assert (honest.learned_from, honest.left_out) == (600, 0)
    train[-count:] = TWINS[kind](train[100 : 100 + count])
    valid[:count] = TWINS[kind](train[200 : 200 + count])
    found = find_copies_by_pixels(own(train, valid), train[:100], flip=True)
    # Those in training come in pairs.
    assert found.left_out == 3 * count
    assert found.learned_from + found.left_out + len(found.held_out.copies) == 800
    assert found.threshold == pytest.approx(honest.threshold, rel=0.2)
    assert found.memorised
    assert found.samples.copies.all()
    fresh = find_copies_by_pixels(own(train, valid), smooth(400, 3), flip=True)
    assert fresh.samples.share.value <= 0.02
    assert found.held_out.share.value <= 0.02


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


def test_mirror_images_are_copies_only_where_training_saw_them():
    train, valid = smooth(300, 0), smooth(100, 1)
    samples = np.ascontiguousarray(noisy(train[:100], 4)[:, :, ::-1])
    images = own(train, valid)
    assert find_copies_by_pixels(images, samples, flip=True).memorised
    assert not find_copies_by_pixels(images, samples, flip=False).memorised


class Sums:
    """A network whose features are means over an 8 x 8 grid of patches."""

    def __call__(self, images):
        import torch

        return torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(1)


def test_features_find_copies_too_and_are_computed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path))
    train, valid = smooth(300, 0), smooth(100, 1)
    extractor, seen = Extractor("sums", "0" * 64, "none", 192, Sums()), {}
    images = own(train, valid)
    copies = noisy(train[:60], 4)
    found = find_copies_by_features(
        images, copies, True, extractor, lambda what, *done: seen.update({what: done})
    )
    assert found.memorised
    assert found.space == "sums features"
    sizes = {"samples": 60, "training images": 300, "held out images": 100, "mirrored images": 300}
    every = {f"features of {name}": (size, size) for name, size in sizes.items()}
    kinds = ("training images", "held-out images", "samples")
    compared = {f"neighbours of {kind}": (300, 300) for kind in kinds}
    assert seen == every | compared
    seen.clear()
    mirrored = np.ascontiguousarray(copies[:, :, ::-1])
    again = find_copies_by_features(
        images, mirrored, True, extractor, lambda what, *done: seen.update({what: done})
    )
    assert again.memorised
    assert seen == {"features of samples": (60, 60)} | compared
    assert not find_copies_by_features(images, mirrored, False, extractor).memorised
    assert not find_copies_by_features(images, smooth(60, 5), True, extractor).memorised


def test_duplicates_are_left_out_of_features_by_their_pixels(tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path))
    train, valid = smooth(300, 0), smooth(40, 1)
    train[-20:-10], train[-10:] = train[100:110], noisy(train[110:120, :, ::-1], 4)
    extractor = Extractor("sums", "0" * 64, "none", 192, Sums())
    found = find_copies_by_features(own(train, valid), train[:60], True, extractor)
    assert found.left_out == 40
    assert found.samples.copies.all()
    assert not find_copies_by_features(own(train, valid), smooth(100, 5), True, extractor).memorised


def test_duplicates_between_the_halves_are_found_also_mirrored():
    train, valid = smooth(50, 0), smooth(20, 1)
    valid[3], valid[7], valid[9] = train[11], noisy(train[12:13], 2)[0], train[13, :, ::-1]
    images = own(train, valid)
    found = find_held_out_duplicates(images, flip=True)
    assert found.same == [(53, 11), (59, 13)]
    assert found.alike == [(57, 12)]
    assert find_held_out_duplicates(images, flip=False).same == [(53, 11)]
    assert find_held_out_duplicates(own(train, valid[:0]), flip=True).same == []


@pytest.mark.parametrize("by", ["pixels", "features"])
def test_of_many_images_a_part_is_compared_and_few_are_read_at_once(by, tmp_path, monkeypatch):
    monkeypatch.setenv("DDIM_CACHE", str(tmp_path))
    monkeypatch.setattr(copies, "QUERIES", 60)
    monkeypatch.setattr(neighbours, "_BLOCK", 32)
    train, valid, seen = smooth(400, 0), smooth(300, 1), []
    valid[250:] = train[250:300]
    images = own(train, valid)
    counted = CountedPixels(images.images.pixels)
    images = replace(images, images=replace(images.images, pixels=counted))
    progress = lambda *report: seen.append(report)
    if by == "pixels":
        found = find_copies_by_pixels(images, smooth(20, 3), True, progress)
    else:
        extractor = Extractor("sums", "0" * 64, "none", 192, Sums())
        found = find_copies_by_features(images, smooth(20, 3), True, extractor, progress)
    assert found.learned_from + found.left_out + len(found.held_out.copies) == 60 + 60
    assert ("neighbours of samples", 32, 400) in seen
    pairs = find_held_out_duplicates(images, True, progress)
    assert counted.largest <= 60
    assert seen[-1] == ("duplicates of held-out images", 400, 400)
    assert (pairs.compared, pairs.held_out) == (60, 300)
    assert 0 < len(pairs.same) < 50
    assert all(valid - train == 400 for valid, train in pairs.same)
    said = f"Among 60 of 300 held-out images, {len(pairs.same)} equal a training image, and 0 nearly do."
    assert memorisation_sentences(found, None, pairs)[-1] == said
    record = memorisation_record(found, list(range(20)), images, None, pairs)
    assert (record["duplicates"]["compared"], record["duplicates"]["of"]) == (60, 300)


def test_pairs_start_with_the_closest_and_the_record_names_them(monkeypatch):
    train, valid = smooth(64, 0), smooth(40, 1)
    samples = np.concatenate([smooth(9, 3), noisy(train[20:21], 4)])
    images = own(train, valid)
    found = find_copies_by_pixels(images, samples, flip=False)
    figure = draw_pairs(found, samples, images)
    words = [text.get_text() for text in figure.texts]
    assert any("20.png" in word for word in words)
    assert any("distance" in word and "a copy" in word for word in words)
    said = memorisation_record(found, list(range(10)), images, None, find_held_out_duplicates(images, False))
    assert said["samples"][9] == {**said["samples"][9], "seed": 9, "copy": True, "nearest": "20.png"}
    assert said["copies"]["count"] == 1
    assert said["false_alarms"]["of"] == 20
    assert (said["learned_from"], said["left_out"]) == (84, 0)
    lines = memorisation_sentences(found, None, find_held_out_duplicates(images, False))
    assert lines[0] == found.sentence
    assert not any("left out" in line for line in lines)
    assert lines[-1] == "0 held-out images equal a training image, and 0 nearly do."
    monkeypatch.setattr(memorisation, "PAIRS", 1)
    assert draw_pairs(found, samples, images).texts
