"""From cached images to batches for a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim.data.images import Images

if TYPE_CHECKING:
    from torch import Tensor


def gather_batch(images: Images, which: np.ndarray, flips: np.ndarray | None = None) -> Tensor:
    """Copy the images at the indices which (B,) into a batch.

    Args:
        images: all images.
        which: indices (B,).
        flips: (B,) bool, the images to mirror left to right; None mirrors none.

    Returns:
        (B, C, H, W) uint8 in channels_last memory format; a copy, never a view.
    """
    import torch

    rows = np.array(images.pixels[which])
    if flips is not None:
        rows[flips] = rows[flips, :, ::-1]
    # Pixels lie in the order height, width, channel: permuting gives channels_last without moving a byte.
    return torch.from_numpy(rows).permute(0, 3, 1, 2)


def to_unit(images: Tensor, grain: Tensor | None = None) -> Tensor:
    """Scale uint8 images (B, C, H, W) to float32 in [0, 1]: v / 255, or (v + grain) / 256.

    A grain in [0, 1) of the same shape is uniform dequantisation (Uria et al. 2013): its density bounds the
    probability of the integers.
    """
    return images.float() / 255 if grain is None else (images.float() + grain) / 256
