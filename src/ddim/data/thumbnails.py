"""Compute small thumbnails in a perceptual colour space, by which images are compared and clustered.

All values are rounded to multiples of `STEP`, so that they do not depend on the machine or on the number of
threads. Sums of millions of such values are exact in float64.
"""

from __future__ import annotations

import numpy as np

from ddim.data.images import Images
from ddim.data.values import PICTURE_CHANNELS
from ddim.errors import UserError

SIDE = 8
"""Height and width of a thumbnail."""

STEP = 2.0**-16
"""The values in thumbnails are multiples of this number; black has the lightness 0, and white 1."""

# `_CONES` maps linear RGB to the responses of the eye's cones. `_OKLAB` maps the cube roots of the responses
# to Oklab (Ottosson 2020, "A perceptual color space for image processing"): lightness, green to red, and blue
# to yellow.
_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
_WHITE = 2**16 - 1
_CHUNK = 2**23


def compute_thumbnails(images: Images, which: np.ndarray) -> np.ndarray:
    """Return thumbnails (B, SIDE, SIDE, 3) float64 in Oklab of the images at indices `which`.

    Each cell is the mean of its pixels in linear light. Transparent pixels are composited on white. The
    thumbnail of a mirrored image is exactly the mirrored thumbnail.

    Raises:
        UserError: if the images do not have 8 bits and 1, 3 or 4 channels.
    """
    height, width, channels = images.pixels.shape[1:]
    if not images.values.eight_bits or channels not in PICTURE_CHANNELS:
        raise UserError(f"clusters need 8-bit images with 1, 3 or 4 channels, got {images.kind}")
    rows, columns = _cell_weights(height), _cell_weights(width)
    table = np.rint(_linear_light(np.arange(256) / 255) * _WHITE)
    size = max(1, _CHUNK // (height * width * channels))
    parts = [np.zeros((0, SIDE, SIDE, 3))]
    for first in range(0, len(which), size):
        pixels = images.pixels[which[first : first + size]]
        colours = table[pixels[..., :3] if channels > 1 else pixels.repeat(3, axis=-1)]
        if channels == 4:
            cover = pixels[..., 3:] / 255
            colours = np.rint(cover * colours + (1 - cover) * _WHITE)
        # These sums of integers are exact, so the order of the pixels does not matter.
        cells = np.matmul(rows, colours.reshape(len(pixels), height, width * 3))
        cells = np.matmul(columns, cells.reshape(-1, width, 3)).reshape(-1, SIDE, SIDE, 3)
        parts.append(_to_oklab(cells / (_WHITE * height * width)))
    return np.concatenate(parts)


def _cell_weights(length: int) -> np.ndarray:
    """Return the weight of each pixel in each cell of a thumbnail, along one side of the image.

    Args:
        length: number of pixels along this side of the image.

    Returns:
        Weights (SIDE, length). The weights of each cell sum to `length`.
    """
    cells, pixels = np.arange(SIDE)[:, None] * length, np.arange(length) * SIDE
    overlap = np.minimum(cells + length, pixels + SIDE) - np.maximum(cells, pixels)
    return np.maximum(overlap, 0).astype(np.float64)


def _linear_light(values: np.ndarray) -> np.ndarray:
    """Return the linear light of sRGB values in [0, 1] (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _to_oklab(linear: np.ndarray) -> np.ndarray:
    cones = np.cbrt(_mix(linear, _CONES))
    return np.rint(_mix(cones, _OKLAB) / STEP) * STEP


def _mix(values: np.ndarray, weights: tuple[tuple[float, float, float], ...]) -> np.ndarray:
    r, g, b = values[..., 0], values[..., 1], values[..., 2]
    return np.stack([wr * r + wg * g + wb * b for wr, wg, wb in weights], axis=-1)
