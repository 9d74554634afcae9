"""Augmentation that does not leak into samples: the network is conditioned on what was done to an image.

Sampling asks for images to which nothing was done. Karras et al. 2022, appendix F.2, with the geometric
transformations of Karras et al. 2020, appendix B. The labels are coordinates of the transformation, zero
where nothing was done, and determine it completely:

    0     1 if mirrored left to right
    1     1 if mirrored top to bottom
    2     a: scaled by 2^(a / 5)
    3, 4  cos - 1 and sin of the angle of a rotation, counter-clockwise
    5, 6  a (cos 2b, sin 2b): stretched by 2^(a / 5) in direction b, clockwise from the right, and shrunk by
          as much across it
    7, 8  moved right and down by these parts of an eighth of the width and of the height

in this order, all about the middle of the image. Stretching differs in two ways from the paper or its code:

- The direction b is uniform in every stretch, as in the paper (appendix F.2). The published code draws b for
  half of the stretches and stretches the others along the axes (`aniso_rotate_prob` 0.5).
- The paper and its code use the labels a (cos b, sin b). They are the same for a stretch and its inverse:
  a < 0 in direction b, and -a in the opposite direction, which is direction b again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ddim.errors import UserError

LABELS = 9
"""Number of labels per image."""

_TRANSFORMATION = [0, 1, 2, 3, 3, 4, 4, 5, 5]
"""The transformation, of six, to which each label belongs."""

_SIZE = 0.2
"""Unit of scaling and of stretching, as a log2."""
_SHIFT = 1 / 8
"""Unit of translation, as a part of the image."""


@dataclass(frozen=True)
class Augment:
    """How often images are transformed: each transformation has this `probability`; 0 turns all off.

    Mirroring top to bottom has half of it. Above 0, half of all images are mirrored left to right. The
    network is conditioned on that, but not on `data.flip`, which should then be off.
    """

    probability: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise UserError(f"augment.probability must lie in [0, 1], got {self.probability}")

    def draw_labels(self, count: int, draw: torch.Generator) -> Tensor:
        """Draw the labels of random transformations: (count, 9) float64, from a generator on the CPU."""
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


def apply_augmentation(x: Tensor, labels: Tensor) -> Tensor:
    """Transform images (B, C, H, W), floats in any units, by labels (B, 9); zeros keep all bits.

    Mirroring moves pixels and rounds nothing. The rest is one bicubic resampling (Keys 1981, a = -3/4) of the
    image continued by reflection; a pixel that falls on another pixel keeps its value. Unlike ADA (Karras et
    al. 2020) nothing is filtered before an image is shrunk: nobody looks at these images, so aliasing is
    harmless.
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
    """Scale, rotate, stretch and move images (B, C, H, W)."""
    height, width = x.shape[2:]
    down, across = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (height, width))
    ends = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)  # (H, W, 2): x, y from the middle
    size = torch.tensor([width, height], dtype=torch.float64)
    shift = labels[:, 7:] * _SHIFT * size
    # The source position of each pixel of the result.
    begins = torch.einsum("bij,bhwj->bhwi", torch.linalg.inv(_matrix(labels)), ends - shift[:, None, None])
    return F.grid_sample(x, (begins * 2 / size).to(x), "bicubic", "reflection", align_corners=False)


def _matrix(labels: Tensor) -> Tensor:
    """Return the matrices (B, 2, 2) of scaling, rotation and stretching, on vectors (right, down)."""
    scale, cos, sin, c, s = labels[:, 2:7].unbind(1)
    cos = 1 + cos
    turn = torch.stack([cos, sin, -sin, cos], dim=1).reshape(-1, 2, 2)  # y points down
    # The labels are the logarithm of the stretch, a symmetric matrix of trace 0.
    stretch = torch.linalg.matrix_exp(
        math.log(2) * _SIZE * torch.stack([c, s, s, -c], dim=1).reshape(-1, 2, 2)
    )
    return stretch @ turn * (2 ** (_SIZE * scale)).reshape(-1, 1, 1)
