"""Augmentation that does not leak: the network is told what was done to an image, and asked for none of it.

Karras et al. 2022, appendix F.2, whose geometric transformations are those of Karras et al. 2020, appendix B.
The labels are coordinates of the transformation, zero where nothing was done, so that they say all of it:

    0     1 if mirrored left to right
    1     1 if mirrored top to bottom
    2     a: scaled by 2^(a / 5)
    3, 4  cos - 1 and sin of the angle of a rotation, counter-clockwise
    5, 6  a (cos 2b, sin 2b): stretched by 2^(a / 5) in direction b, clockwise from the right, and shrunk by
          as much across it
    7, 8  moved right and down by these parts of an eighth of the width and of the height

in this order, all about the middle of the image. The paper tells b and not 2b, and so the same labels for a
stretch and its inverse: a < 0 in direction b against -a in the opposite one, which is direction b again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ddim.errors import UserError

LABELS = 9
"""How many numbers say what was done to an image."""

_TRANSFORMATION = [0, 1, 2, 3, 3, 4, 4, 5, 5]
"""Which of the six each label belongs to."""

_SIZE = 0.2
"""log2 of one unit of scaling and of stretching."""
_SHIFT = 1 / 8
"""One unit of translation, as a part of the image."""


@dataclass(frozen=True)
class Augment:
    """How often images are transformed: each transformation with this `probability`; 0 never.

    Of those, half are mirrored top to bottom. Left to right half of all images are: a mirrored image is
    another one, of which the network is told. Then `data.flip`, of which it is not, should be off.
    """

    probability: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UserError(f"augment.probability must lie in [0, 1], got {self.probability}")

    def labels(self, count: int, draw: torch.Generator) -> Tensor:
        """(count, 9) float64 of random transformations, of a generator on the CPU."""
        chance = torch.rand(count, 6, generator=draw, dtype=torch.float64)
        uniform = torch.rand(count, 4, generator=draw, dtype=torch.float64)
        scale, stretch, right, down = torch.randn(4, count, generator=draw, dtype=torch.float64)
        mirrored, upended = (uniform[:, :2] < 0.5).double().unbind(1)
        angle, twice = (2 * math.pi * uniform[:, 2:]).unbind(1)
        values = [
            mirrored,
            upended,
            scale,
            angle.cos() - 1,
            angle.sin(),
            stretch * twice.cos(),
            stretch * twice.sin(),
            right,
            down,
        ]
        done = chance < self.probability
        done[:, 0] = self.probability > 0
        return torch.where(done[:, _TRANSFORMATION], torch.stack(values, dim=1), 0.0)


def augmented(x: Tensor, labels: Tensor) -> Tensor:
    """x (B, C, H, W), floats in any units, transformed as labels (B, 9) say; where all are 0, the same bits.

    Mirroring moves pixels and rounds nothing. The rest is one bicubic resampling (Keys 1981, a = -3/4) of the
    image continued by reflection, which gives the pixel itself where one falls on another. ADA filters before
    it shrinks an image; here nobody makes a picture of a transformed one, and aliasing does not matter.
    """
    labels = labels.double().cpu()
    for column, axis in ((0, 3), (1, 2)):
        flipped = (labels[:, column] > 0).reshape(-1, 1, 1, 1).to(x.device)
        x = torch.where(flipped, x.flip(axis), x)
    moved = labels[:, 2:].any(1)
    if moved.any():
        which = moved.nonzero().flatten().to(x.device)
        x[which] = _resampled(x[which], labels[moved])  # `where` has made a copy
    return x


def _resampled(x: Tensor, labels: Tensor) -> Tensor:
    """Images x (B, C, H, W) scaled, rotated, stretched and moved."""
    height, width = x.shape[2:]
    down, across = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (height, width))
    ends = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)  # (H, W, 2): x, y from the middle
    size = torch.tensor([width, height], dtype=torch.float64)
    shift = labels[:, 7:] * _SHIFT * size
    # Where each pixel of the result comes from.
    begins = torch.einsum("bij,bhwj->bhwi", torch.linalg.inv(_matrix(labels)), ends - shift[:, None, None])
    return F.grid_sample(x, (begins * 2 / size).to(x), "bicubic", "reflection", align_corners=False)


def _matrix(labels: Tensor) -> Tensor:
    """(B, 9) -> (B, 2, 2): what scaling, rotation and stretching make of (right, down)."""
    scale, cos, sin, c, s = labels[:, 2:7].unbind(1)
    cos = 1 + cos
    turn = torch.stack([cos, sin, -sin, cos], dim=1).reshape(-1, 2, 2)  # y points down
    # The labels are the logarithm of the stretch, a symmetric matrix of trace 0.
    stretch = torch.linalg.matrix_exp(
        math.log(2) * _SIZE * torch.stack([c, s, s, -c], dim=1).reshape(-1, 2, 2)
    )
    return stretch @ turn * (2 ** (_SIZE * scale)).reshape(-1, 1, 1)
