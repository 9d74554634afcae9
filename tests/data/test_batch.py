"""Batches for a network."""

import tracemalloc

import numpy as np
import pytest
import torch

from ddim.data import Images
from ddim.data.images import gather_batch, to_unit


@pytest.fixture
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    pixels.setflags(write=False)
    return Images(pixels, None, (), tuple("abcde"), "")


def test_a_batch_contains_the_selected_images_channels_first(images):
    found = gather_batch(images, np.array([3, 0, 3]))
    assert found.dtype == torch.uint8
    assert found.shape == (3, 3, 4, 6)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for row, place in enumerate((3, 0, 3)):
        for channel in range(3):
            np.testing.assert_array_equal(found[row, channel].numpy(), images.pixels[place, :, :, channel])


def test_only_selected_images_are_mirrored_left_to_right(images):
    which = np.array([1, 2, 4])
    plain, flipped = gather_batch(images, which), gather_batch(images, which, np.array([True, False, True]))
    assert torch.equal(flipped[0], torch.flip(plain[0], [-1]))
    assert torch.equal(flipped[1], plain[1])
    assert torch.equal(flipped[2], torch.flip(plain[2], [-1]))
    assert not torch.equal(flipped[0], plain[0])


def test_a_batch_is_a_copy(images):
    before = images.pixels.copy()
    gather_batch(images, np.arange(5)).zero_()
    np.testing.assert_array_equal(images.pixels, before)


def test_a_batch_is_copied_once():
    images = Images(np.zeros((64, 32, 32, 3), np.uint8), None, (), ("",) * 64, "")
    gather_batch(images, np.arange(2))
    tracemalloc.start()
    gather_batch(images, np.arange(64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * images.pixels.nbytes


def test_black_is_0_and_white_is_1():
    values = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    assert torch.allclose(to_unit(values).flatten(), torch.tensor([0.0, 0.2, 1.0]))


def test_dequantised_images_are_uniform_and_round_down_to_the_original():
    values = torch.arange(256, dtype=torch.uint8).repeat(400).reshape(1, 1, 320, 320)
    grain = torch.rand(values.shape, generator=torch.Generator().manual_seed(0))
    found = to_unit(values, grain)
    assert torch.equal((found * 256).floor().to(torch.uint8), values)
    counts = torch.histc(found, bins=1000, min=0, max=1)
    # 102.4 to a bin, whose deviation is below its square root.
    assert (counts - counts.mean()).abs().max() < 6 * counts.mean() ** 0.5
    assert 0 <= found.min() <= found.max() < 1
