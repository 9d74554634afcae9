"""Non-leaking augmentation: the network is conditioned on the transformation of each training image.

Sampling uses labels of zero, which mean no transformation, so samples are not augmented. This follows Karras
et al. 2022, appendix F.2, with the geometric transformations of Karras et al. 2020, appendix B. The labels of
an image determine its transformation; a label is zero if its transformation was not applied:

    0     1 if mirrored left to right
    1     1 if mirrored top to bottom
    2     a, for scaling by 2^(a / 5)
    3, 4  cos - 1 and sin of the angle of a rotation, counter-clockwise
    5, 6  a (cos 2b, sin 2b), for stretching by 2^(a / 5) in direction b, measured clockwise from the right,
          and shrinking by the same factor in the perpendicular direction
    7, 8  translation to the right and down, in units of an eighth of the width and of the height

The transformations are applied in this order, about the centre of the image. Stretching differs in two ways
from the paper or its code:

- The direction b is uniform for every stretch, as in the paper (appendix F.2). The published code draws b for
  half of the stretches and stretches the others along the axes (`aniso_rotate_prob` 0.5).
- The paper and its code use the labels a (cos b, sin b). They give a stretch and its inverse the same labels:
  the labels of -a in direction b equal the labels of a in direction b + 180 degrees, but both directions are
  the same axis.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ddim.errors import UserError, check_part_values

LABELS = 9
"""Number of labels per image."""

_TRANSFORMATION = [0, 1, 2, 3, 3, 4, 4, 5, 5]
"""The index, 0 ... 5, of the transformation to which each label belongs."""

_SIZE = 0.2
"""Unit of scaling and of stretching, as a logarithm to base 2."""
_SHIFT = 1 / 8
"""Unit of translation, as a fraction of the image."""


@dataclass(frozen=True)
class Augment:
    """Options of augmentation: each transformation is applied with `probability`; 0 turns all of them off.

    Mirroring top to bottom has half of this probability. Mirroring left to right has probability 1/2 if
    `probability` is above 0. The network is conditioned on this mirroring, but not on the mirroring of
    `data.flip`, so turn `data.flip` off.

    Attributes:
        probability: probability of each transformation.
    """

    probability: float = 0.0

    def __post_init__(self) -> None:
        check_part_values("augment", self)
        if not 0 <= self.probability <= 1:
            raise UserError(f"augment.probability must lie in [0, 1], got {self.probability}")

    def draw_labels(self, count: int, draw: torch.Generator) -> Tensor:
        """Return labels (count, 9) float64 of random transformations; `draw` is a generator on the CPU."""
        chance = torch.rand(count, 6, generator=draw, dtype=torch.float64, device="cpu")
        uniform = torch.rand(count, 4, generator=draw, dtype=torch.float64, device="cpu")
        scale, stretch, right, down = torch.randn(4, count, generator=draw, dtype=torch.float64, device="cpu")
        mirrored, upended = (uniform[:, :2] < 0.5).double().unbind(1)
        angle, twice = (2 * math.pi * uniform[:, 2:]).unbind(1)
        rotated, stretched = (angle.cos() - 1, angle.sin()), (stretch * twice.cos(), stretch * twice.sin())
        values = [mirrored, upended, scale, *rotated, *stretched, right, down]
        done = chance < self.probability
        done[:, 0] = self.probability > 0
        return torch.where(done[:, _TRANSFORMATION], torch.stack(values, dim=1), 0.0)


class Transformations(NamedTuple):
    """The transformations of images (B, C, H, W), prepared on the CPU; see `prepare_transformations`.

    Attributes:
        mirrored: whether each image is mirrored left to right, (B,).
        upended: whether each image is mirrored top to bottom, (B,).
        moved: indices (n,) of the images that are resampled.
        inverse: matrices (n, 2, 2) of the images `moved`, from positions in the result to those in the image.
        shift: translations (n, 2) of the images `moved`, to the right and down, in pixels.
    """

    mirrored: Tensor
    upended: Tensor
    moved: Tensor
    inverse: Tensor
    shift: Tensor


def prepare_transformations(labels: Tensor, height: int, width: int) -> Transformations:
    """Return the transformations that labels (B, 9) on the CPU describe, for images of this size."""
    labels = labels.double()
    moved = labels[:, 2:].any(1).nonzero().flatten()
    inverse = torch.linalg.inv(_matrix(labels[moved]))
    shift = labels[moved, 7:] * _SHIFT * torch.tensor([width, height], dtype=torch.float64, device="cpu")
    return Transformations(labels[:, 0] > 0, labels[:, 1] > 0, moved, inverse, shift)


def apply_transformations(x: Tensor, done: Transformations) -> Tensor:
    """Return transformed images (B, C, H, W) of floats.

    Mirroring is exact. All other transformations are done by one bicubic resampling (Keys 1981, a = -3/4);
    beyond its edges, an image continues as its reflection. Unlike in ADA (Karras et al. 2020), images are not
    low-pass filtered before they are shrunk. The aliasing is accepted, because these images are used only for
    training.
    """
    for flipped, axis in ((done.mirrored, 3), (done.upended, 2)):
        x = torch.where(flipped.reshape(-1, 1, 1, 1).to(x.device), x.flip(axis), x)
    if len(done.moved):
        which = done.moved.to(x.device)
        x[which] = _resampled(x[which], done.inverse, done.shift)  # x is a copy, from `torch.where`
    return x


def _resampled(x: Tensor, inverse: Tensor, shift: Tensor) -> Tensor:
    """Return images (n, C, H, W), translated, scaled, rotated and stretched; see `Transformations`."""
    height, width = x.shape[2:]
    down, across = (
        torch.arange(n, dtype=torch.float64, device=shift.device) - (n - 1) / 2 for n in (height, width)
    )
    ends = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)  # (H, W, 2): x, y from the centre
    # `begins` holds the position in the original image of each pixel of the result.
    begins = torch.einsum("bij,bhwj->bhwi", inverse, ends - shift[:, None, None])
    # Positions are fractions of half the image: grid_sample expects them in [-1, 1].
    across, down = (begins * 2).unbind(-1)
    grid = torch.stack([across / width, down / height], dim=-1)
    # torch 2.10 has no bicubic grid_sample on Apple's GPUs.
    source = x.cpu() if x.device.type == "mps" else x
    return F.grid_sample(source, grid.to(source), "bicubic", "reflection", align_corners=False).to(x)


def _matrix(labels: Tensor) -> Tensor:
    """Return the matrices (B, 2, 2) of scaling, rotation and stretching, on vectors (right, down)."""
    scale, cos, sin, c, s = labels[:, 2:7].unbind(1)
    cos = 1 + cos
    turn = torch.stack([cos, sin, -sin, cos], dim=1).reshape(-1, 2, 2)  # y points down
    # The labels 5 and 6 (c and s) give the matrix logarithm of the stretch, a symmetric matrix with trace 0.
    logarithm = math.log(2) * _SIZE * torch.stack([c, s, s, -c], dim=1).reshape(-1, 2, 2)
    return torch.linalg.matrix_exp(logarithm) @ turn * (2 ** (_SIZE * scale)).reshape(-1, 1, 1)
