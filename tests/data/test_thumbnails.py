"""Thumbnails: the colours of Oklab, and what mirroring and resizing do to them."""

import numpy as np
import pytest

from ddim.data import Images
from ddim.data.thumbnails import SIDE, compute_thumbnails


def thumbnails(pixels):
    pixels = np.asarray(pixels, np.uint8)
    return compute_thumbnails(
        Images(pixels, None, (), tuple(map(str, range(len(pixels)))), ""), np.arange(len(pixels))
    )


def plain(colour, height=16, width=16):
    return np.broadcast_to(np.array(colour, np.uint8), (1, height, width, len(colour)))


@pytest.mark.parametrize(
    ("colour", "oklab"),
    [
        # The values of CSS Color 4, section 9 and its sample code, for these sRGB colours.
        ((0, 0, 0), (0, 0, 0)),
        ((255, 255, 255), (1, 0, 0)),
        ((255, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 255, 0), (0.86644, -0.23389, 0.17950)),
        ((0, 0, 255), (0.45201, -0.03246, -0.31153)),
    ],
)
@pytest.mark.parametrize("size", [(16, 16), (9, 13), (8, 100)])
def test_plain_images_have_the_colours_of_oklab(colour, oklab, size):
    found = thumbnails(plain(colour, *size))
    assert found.shape == (1, SIDE, SIDE, 3)
    np.testing.assert_allclose(found[0], np.broadcast_to(oklab, (SIDE, SIDE, 3)), atol=5e-5)


def test_gray_images_are_the_same_colours_without_chroma():
    (gray,), (rgb,) = thumbnails(plain((100,))), thumbnails(plain((100, 100, 100)))
    assert np.array_equal(gray, rgb)
    assert np.abs(gray[..., 1:]).max() < 1e-4


def test_transparent_images_are_laid_on_white():
    (clear,), (white,) = thumbnails(plain((0, 0, 0, 0))), thumbnails(plain((255, 255, 255)))
    assert np.array_equal(clear, white)
    assert np.array_equal(thumbnails(plain((9, 80, 7, 255))), thumbnails(plain((9, 80, 7))))


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (9, 13)])
def test_mirrored_images_have_exactly_the_mirrored_thumbnails(size):
    pixels = np.random.default_rng(0).integers(0, 256, (50, *size, 3), np.uint8)
    assert np.array_equal(thumbnails(pixels[:, :, ::-1]), thumbnails(pixels)[:, :, ::-1])
    assert np.array_equal(thumbnails(pixels[:, ::-1]), thumbnails(pixels)[:, ::-1])


def test_a_cell_has_the_mean_light_of_its_pixels():
    """Black and white in turn have half the light, of lightness 0.5 ** (1 / 3), as any gray in Oklab."""
    board = np.indices((16, 16)).sum(0) % 2 * 255
    (found,) = thumbnails(board[None, :, :, None].repeat(3, 3))
    np.testing.assert_allclose(found[..., 0], 0.5 ** (1 / 3), atol=5e-5)


def test_images_of_several_sizes_have_the_thumbnails_of_their_enlarged_pixels():
    small = np.random.default_rng(0).integers(0, 256, (3, 12, 20, 3), np.uint8)
    np.testing.assert_allclose(thumbnails(small.repeat(3, 1).repeat(2, 2)), thumbnails(small), atol=1e-4)
