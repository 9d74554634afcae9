"""The images that training sees, how they are opened, and how they are split."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.errors import UserError

if TYPE_CHECKING:
    import numpy as np

SMALLEST, LARGEST = 8, 1024
"""Pixels of a side that can be trained on."""


@dataclass(frozen=True)
class Images:
    """N images of one size, decoded once.

    pixels (N, H, W, C) uint8, usually a read-only memory map; labels (N,) int64 indices into classes, or
    None where there are no classes; names (N,) say where each came from; fingerprint is a SHA-256 (hex)
    over content, size and channels; official holds the sorted indices (train, valid) where the source has a
    split of its own; folder is where they are cached, None where they are not.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    names: tuple[str, ...]
    fingerprint: str
    official: tuple[np.ndarray, np.ndarray] | None = None
    folder: Path | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.pixels)


def open_images(
    source: str,
    size: tuple[int, int],
    channels: int | None = None,
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Images:
    """The images of a source at a size (height, width), cropped at the centre to its aspect and resized.

    source is a folder, a .zip, a .tar[.gz|.xz], or one of the names blossoms (or blossoms:COUNT), flowers,
    pets, cifar10 (the last three also with a local copy: "pets:/where/it/lies"); a path that exists wins over
    a name. channels is 1 (gray), 3 (RGB) or 4 (RGBA); None follows the majority of the files. The images are
    decoded once, into the folder cache (None: $DDIM_CACHE, or else the user's cache folder); progress is
    called with (done, total) meanwhile. UserError where there is no such source, or no usable image in it.
    """
    from ddim.data.cache import cached
    from ddim.data.find_source import find

    check_size(size)
    if channels not in (None, 1, 3, 4):
        raise UserError(f"data.channels must be 1 (gray), 3 (RGB) or 4 (RGBA), got {channels}")
    return cached(find(source), source, size, channels, cache=cache, progress=progress)


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "64" (a square) or "64x96" (height x width). UserError where the text is neither."""
    found = re.fullmatch(r"([0-9]{1,9})(?:[xX]([0-9]{1,9}))?", text.strip())
    if not found:
        raise UserError(
            f'data.size must be a number such as "64", or height x width such as "64x96", got {text!r}'
        )
    size = int(found[1]), int(found[2] or found[1])
    check_size(size)
    return size


def check_size(size: tuple[int, int]) -> None:
    """UserError where a size (height, width) is outside what can be trained on."""
    if not all(SMALLEST <= side <= LARGEST for side in size):
        raise UserError(
            f"data.size must lie between {SMALLEST} and {LARGEST} pixels, got {size[0]}x{size[1]}"
        )


def split(images: Images, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, valid): sorted, disjoint int64 indices that together are all images.

    The source's own split wins where it has one; otherwise the fraction (0 <= fraction < 1) of the images,
    chosen by the seed, is kept for validation: at least one where fraction > 0. UserError where no image is
    left to train on.
    """
    from ddim.data.order import halves

    if not 0 <= fraction < 1:
        raise UserError(f"data.valid must be at least 0 and less than 1, got {fraction}")
    if images.official is not None:
        return images.official
    if fraction > 0 and len(images) < 2:
        raise UserError(f"data.valid {fraction} needs at least two images, the source has {len(images)}")
    return halves(len(images), fraction, seed)
