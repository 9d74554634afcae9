"""Decoded images, their size, their split into training and validation images, and batches of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddim.data.order import split_indices
from ddim.data.sources import Reject
from ddim.data.values import EIGHT_BITS, Values
from ddim.errors import UserError, format_count

if TYPE_CHECKING:
    from torch import Tensor

    from ddim.data.clusters import ImageClusters
    from ddim.data.vectors import ImageVectors

SMALLEST, LARGEST = 8, 1024
"""Smallest and largest height and width of images, in pixels."""


@dataclass(frozen=True, repr=False)
class Images:
    """N images of one size, decoded once.

    Attributes:
        pixels: (N, H, W, C) of the type of `values`, usually read from the cache as needed.
        labels: (N,) int64 indices into `classes`, or None if there are no classes.
        classes: the class names, in the order of their indices.
        names: (N,) the name of each image's file in the source.
        fingerprint: a SHA-256 (hex) of contents, names, labels, size, channels and type.
        official: sorted indices (train, validation) if the source defines a split, else None.
        folder: the folder of these images in the cache; None if they are not cached.
        values: the type of the pixels, and how they map to [0, 1].
        vectors: (N, d) float32, the standardised vectors of the images, see `ImageVectors`; None if there are
            none.
        rejects: the files of the source that could not be used, with the reasons, sorted by name.
        skipped: number of files of the source that are not images.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    names: tuple[str, ...]
    fingerprint: str
    official: tuple[np.ndarray, np.ndarray] | None = None
    folder: Path | None = None
    values: Values = EIGHT_BITS
    vectors: np.ndarray | None = None
    rejects: tuple[Reject, ...] = ()
    skipped: int = 0

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def describe_rejects(self) -> list[str]:
        """Return a sentence about the files that could not be used, if there are any."""
        if not self.rejects:
            return []
        count, first = format_count(len(self.rejects), "file"), self.rejects[0]
        return [f"{count} left out, such as {first.name!r}: {first.reason}"]

    def __repr__(self) -> str:
        """Return one line: number, size, channels and classes."""
        height, width, channels = self.pixels.shape[1:]
        classes = f", {len(self.classes):,} class{'es' * (len(self.classes) > 1)}" if self.classes else ""
        return f"Images({len(self):,} of {height} x {width} x {channels}{classes})"


@dataclass(frozen=True, repr=False)
class SplitImages:
    """Images, and the sorted, disjoint int64 indices of the training images and of the validation images.

    `clusters` is set if the classes are clusters found in these images, and `vectors` if the images have
    vectors. `clusters` can assign other images to the same clusters, and `vectors` can standardise other
    vectors in the same way.
    """

    images: Images
    train: np.ndarray
    validation: np.ndarray
    clusters: ImageClusters | None = None
    vectors: ImageVectors | None = None

    def with_conditions(self, clusters: ImageClusters | None, vectors: ImageVectors | None) -> SplitImages:
        """Return these images with their clusters as classes, and with their standardised vectors."""
        images = self.images
        if clusters:
            images = replace(images, labels=clusters.labels, classes=clusters.names)
        if vectors:
            images = replace(images, vectors=vectors.standardise(vectors.rows))
        return replace(self, images=images, clusters=clusters, vectors=vectors)

    def __repr__(self) -> str:
        """Return one line: the images and the numbers of training and validation images."""
        return f"SplitImages({self.images}, {len(self.train):,} train, {len(self.validation):,} validation)"


def split_images(images: Images, fraction: float, seed: int) -> SplitImages:
    """Split images into training and validation images, without leaving any out.

    If the source defines a split, this split is used, and `fraction` and `seed` are ignored.

    Args:
        images: the images.
        fraction: the share of validation images, in [0, 1); a share above 0 holds out at least one image.
        seed: the seed with which validation images are drawn.

    Raises:
        UserError: if `fraction` is not in [0, 1), or leaves no training image.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"data.validation must be at least 0 and less than 1, got {fraction}")
    if images.official is not None:
        return SplitImages(images, *images.official)
    train, validation = split_indices(len(images), fraction, seed)
    if not len(train):
        share = f"data.validation {fraction:g} of {len(images)} images"
        raise UserError(f"{share} leaves no training image: use a smaller share (0 holds out none)")
    return SplitImages(images, train, validation)


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) for a text: "64" (a square) or "64x96" (height x width).

    Raises:
        UserError: if the text has another form, or the size is too small or too large.
    """
    found = re.fullmatch(r"([0-9]{1,9})(?:[xX]([0-9]{1,9}))?", text.strip())
    if not found:
        raise UserError(f'data.size (--size) must be a number, or height x width as in "64x96", got {text!r}')
    return check_size((int(found[1]), int(found[2] or found[1])))


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return a size (height, width), after checking it.

    Raises:
        UserError: if height or width is below `SMALLEST` or above `LARGEST`.
    """
    if not all(SMALLEST <= side <= LARGEST for side in size):
        raise UserError(f"data.size (--size) must be {SMALLEST} to {LARGEST} pixels, got {size[0]}x{size[1]}")
    return size


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
