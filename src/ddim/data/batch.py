"""Cached images -> batches for a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim.data.images import Images

if TYPE_CHECKING:
    from torch import Tensor


def batch(images: Images, which: np.ndarray, flips: np.ndarray | None = None) -> Tensor:
    """(B, C, H, W) uint8 of the images at the indices which (B,), in channels_last memory format.

    flips (B,) bool mirrors those images left to right; None mirrors none. The batch is a copy, never a view.
    """
    import torch

    rows = np.array(images.pixels[which])
    if flips is not None:
        rows[flips] = rows[flips, :, ::-1]
    # Pixels lie height, width, channel: permuting is channels_last without moving a byte.
    return torch.from_numpy(rows).permute(0, 3, 1, 2)


def unit(images: Tensor, grain: Tensor | None = None) -> Tensor:
    """(B, C, H, W) uint8 -> float32 in [0, 1]: v / 255, or (v + grain) / 256 with grain in [0, 1), alike
    shaped.

    The second is uniform dequantisation (Uria et al. 2013): its density bounds the probability of the
    integers.
    """
    return images.float() / 255 if grain is None else (images.float() + grain) / 256
