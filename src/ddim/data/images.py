"""Decoded images, their size, and their split into training and validation images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddim.data.order import split_indices
from ddim.errors import UserError

SMALLEST, LARGEST = 8, 1024
"""Side of an image in pixels, at least and at most, for training."""


@dataclass(frozen=True)
class Images:
    """N images of one size, decoded once.

    Attributes:
        pixels: (N, H, W, C) uint8, usually a read-only memory map.
        labels: (N,) int64 indices into `classes`, or None if there are no classes.
        classes: the class names, sorted.
        names: (N,) where each image came from.
        fingerprint: a SHA-256 (hex) over content, size and channels.
        official: sorted indices (train, validation) if the source has a split of its own.
        folder: where the images are cached; None if they are not.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    names: tuple[str, ...]
    fingerprint: str
    official: tuple[np.ndarray, np.ndarray] | None = None
    folder: Path | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)


@dataclass(frozen=True)
class SplitImages:
    """Images and the sorted, disjoint int64 indices of those for training and of those for validation."""

    images: Images
    train: np.ndarray
    validation: np.ndarray


def split_images(images: Images, fraction: float, seed: int) -> SplitImages:
    """Split images into training and validation images; together they are all images.

    Args:
        images: the source's own split is used if there is one.
        fraction: else this share, in [0, 1), is kept for validation: at least one image if it is above 0.
        seed: selects the images.

    Raises:
        UserError: if no image is left to train on.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"data.validation must be at least 0 and less than 1, got {fraction}")
    if images.official is not None:
        return SplitImages(images, *images.official)
    if fraction > 0 and len(images) < 2:
        raise UserError(f"data.validation {fraction} needs at least two images, the source has {len(images)}")
    return SplitImages(images, *split_indices(len(images), fraction, seed))


def draw_subset(indices: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Draw at most `count` of the indices by a seed; they are sorted. The first ones may be of one class."""
    draw = np.random.default_rng(seed)
    return np.sort(draw.permutation(indices)[:count])


def parse_size(text: str) -> tuple[int, int]:
    """Return (height, width) of "64" (a square) or "64x96" (height x width).

    Raises:
        UserError: if the text is neither, or the size is not possible.
    """
    found = re.fullmatch(r"([0-9]{1,9})(?:[xX]([0-9]{1,9}))?", text.strip())
    if not found:
        raise UserError(
            f'data.size must be a number such as "64", or height x width such as "64x96", got {text!r}'
        )
    size = int(found[1]), int(found[2] or found[1])
    check_size(size)
    return size


def check_size(size: tuple[int, int]) -> None:
    """Refuse a size (height, width) that cannot be trained on.

    Raises:
        UserError: if a side is too small or too large.
    """
    if not all(SMALLEST <= side <= LARGEST for side in size):
        raise UserError(
            f"data.size must lie between {SMALLEST} and {LARGEST} pixels, got {size[0]}x{size[1]}"
        )
