"""Images that can be found again in a sheet."""

import numpy as np
import torch
from PIL import Image


def random_images(count, height=16, width=16, channels=3, seed=0):
    """Return images (B, H, W, C) uint8 of random pixels."""
    shape = (count, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def draw_photos(folder, count):
    """Write so many photos of random pixels."""
    for k, pixels in enumerate(random_images(count, 48, 48)):
        Image.fromarray(pixels).save(folder / f"{k}.png")


def to_tensor(pixels):
    """Convert (B, H, W, C) to (B, C, H, W)."""
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)


def find_places(sheet, image, scale=1):
    """Return the (row, column) of each place in a sheet where an image stands, enlarged by `scale`."""
    large = np.kron(image, np.ones((scale, scale, 1), np.uint8))
    height, width = large.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (1, 1, 3))[..., 0, 0, :]
    corners = np.argwhere((windows[:, :, 0] == large[0, 0]).all(-1))
    return [
        (int(y), int(x)) for y, x in corners if np.array_equal(sheet[y : y + height, x : x + width], large)
    ]
