"""Batches of cached images for a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim.data.images import Images

if TYPE_CHECKING:
    from torch import Tensor


def gather_batch(images: Images, which: np.ndarray, flips: np.ndarray | None = None) -> Tensor:
    """Copy the images at indices `which` into a batch.

    Args:
        images: all images.
        which: indices (B,).
        flips: (B,) bool, whether to mirror each image left to right; if None, no image is mirrored.

    Returns:
        (B, C, H, W) in channels_last memory format, always a copy: uint8, or float32 in [0, 1] if the images
        have more than 8 bits.
    """
    import torch

    # An array of indices makes NumPy copy, so the batch does not share the read-only memory map.
    rows = images.pixels[which]
    if flips is not None:
        rows[flips] = rows[flips, :, ::-1]
    rows = rows if images.values.eight_bits else images.values.to_unit(rows)
    # Pixels are stored as (B, H, W, C): the permutation leads to channels_last without a copy.
    return torch.from_numpy(rows).permute(0, 3, 1, 2)


def to_unit(images: Tensor, grain: Tensor | None = None) -> Tensor:
    """Return uint8 images (B, C, H, W) as float32 in [0, 1]: v / 255, or with `grain` (v + grain) / 256.

    `grain`, uniform noise in [0, 1) of the same shape, dequantises the images (Uria et al. 2013). The density
    of dequantised images then bounds the probability of the integers. Floats are images in [0, 1] already,
    and stay as they are.
    """
    if images.is_floating_point():
        return images
    return images.float() / 255 if grain is None else (images.float() + grain) / 256
