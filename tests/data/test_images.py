"""Sizes, splits, the words that name a source, and batches for a network."""

import tracemalloc

import numpy as np
import pytest
import torch

from bad_images import encoded, picture
from ddim.data import Images, open_images, parse_size, split_images
from ddim.data.images import gather_batch, to_unit
from ddim.errors import UserError


def of(n, official=None):
    return Images(np.zeros((n, 8, 8, 1), np.uint8), None, (), tuple(map(str, range(n))), "", official)


def test_a_size_is_a_side_or_height_by_width():
    assert parse_size("64") == (64, 64)
    assert parse_size("64x96") == (64, 96)
    assert parse_size(" 96X64 ") == (96, 64)


@pytest.mark.parametrize("text", ["", "64x", "64x64x3", "-64", "6.4", "64 x 64", "7", "1025", "1" * 30, "٦٤"])
def test_any_other_size_is_refused(text):
    with pytest.raises(UserError, match=r"data\.size"):
        parse_size(text)


def test_a_split_is_the_official_one_or_has_the_share_that_is_asked_for():
    official = np.array([0, 3]), np.array([1, 2])
    parts = split_images(of(4, official), 0.5, 7)
    assert (parts.train is official[0], parts.validation is official[1]) == (True, True)
    parts = split_images(of(3), 0.0, 0)
    assert (parts.train.tolist(), parts.validation.tolist()) == ([0, 1, 2], [])
    parts = split_images(of(2), 0.1, 0)
    assert (len(parts.train), len(parts.validation)) == (1, 1)


@pytest.mark.parametrize(("n", "fraction"), [(10, 1.0), (10, -0.1), (10, float("nan")), (1, 0.2), (5, 0.9)])
def test_a_share_outside_0_to_1_or_without_training_images_is_refused(n, fraction):
    with pytest.raises(UserError, match=r"data\.validation"):
        split_images(of(n), fraction, 0)


@pytest.mark.parametrize("text", ["", "no/such/folder", "~nobody-of-this-name/x", "blossoms:0", "pets:"])
def test_a_missing_source_is_refused(text):
    with pytest.raises(UserError, match="is (missing|neither).* no data set"):
        open_images(text, (32, 32))


def test_a_file_that_is_not_an_archive_and_two_channels_are_refused(tmp_path):
    path = tmp_path / "one.png"
    path.write_bytes(encoded(picture(), "PNG"))
    with pytest.raises(UserError, match="is neither a folder nor a .zip"):
        open_images(str(path), (32, 32))
    with pytest.raises(UserError, match=r"data\.channels"):
        open_images("blossoms", (32, 32), 2)


def test_a_folder_wins_over_a_name(here):
    (here / "flowers").mkdir()
    (here / "flowers" / "mine.png").write_bytes(encoded(picture(), "PNG"))
    assert open_images("flowers", (8, 8), cache=here / "cache").names == ("mine.png",)


@pytest.mark.parametrize(
    ("text", "meant"), [("photos/", "my photos"), ("flower:copy", "flowers"), ("cifar", "cifar10")]
)
def test_a_mistyped_name_gets_a_folder_or_a_data_set_as_a_suggestion(text, meant, here):
    (here / "my photos").mkdir()
    with pytest.raises(UserError, match=f"perhaps you meant {meant}$"):
        open_images(text, (32, 32))


# Batches


@pytest.fixture
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    pixels.setflags(write=False)
    return Images(pixels, None, (), tuple("abcde"), "")


def test_a_batch_contains_the_selected_images_channels_first(images):
    found = gather_batch(images, np.array([3, 0, 3]))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(found.numpy(), images.pixels[[3, 0, 3]].transpose(0, 3, 1, 2))


def test_only_selected_images_are_mirrored_left_to_right(images):
    which = np.array([1, 2, 4])
    plain, flipped = gather_batch(images, which), gather_batch(images, which, np.array([True, False, True]))
    assert torch.equal(flipped[[0, 2]], plain[[0, 2]].flip(-1))
    assert torch.equal(flipped[1], plain[1])


def test_a_batch_is_a_copy_and_copied_once():
    images = Images(np.ones((64, 32, 32, 3), np.uint8), None, (), ("",) * 64, "")
    gather_batch(images, np.arange(2))
    tracemalloc.start()
    gather_batch(images, np.arange(64)).zero_()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * images.pixels.nbytes
    assert images.pixels.all()


def test_black_is_0_and_white_is_1_and_dequantised_images_round_down_to_the_original():
    values = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert torch.allclose(to_unit(values).flatten(), torch.tensor([0.0, 0.2, 1.0]))
    values = torch.arange(256, dtype=torch.uint8).repeat(400).reshape(1, 1, 320, 320)
    grain = torch.rand(values.shape, generator=torch.Generator().manual_seed(0))
    found = to_unit(values, grain)
    assert torch.equal((found * 256).floor().to(torch.uint8), values)
    counts = torch.histc(found, bins=1000, min=0, max=1)
    # 102.4 to a bin, whose deviation is below its square root.
    assert (counts - counts.mean()).abs().max() < 6 * counts.mean() ** 0.5
    assert 0 <= found.min() <= found.max() < 1
