"""Find images whose pixels are equal."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddim.data.images import Images


def group_equal_images(images: Images) -> list[list[int]]:
    """Group the images whose pixels are equal after crop and resize.

    Returns:
        The indices of the images in each group of two or more; groups with several classes come first.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, pixels in enumerate(images.pixels):
        groups[hashlib.sha256(pixels.tobytes()).digest()].append(index)
    copies = [indices for indices in groups.values() if len(indices) > 1]
    return sorted(copies, key=lambda indices: crosses_classes(images, indices), reverse=True)


def crosses_classes(images: Images, indices: list[int]) -> bool:
    """Return whether the images at these indices have different classes."""
    return images.labels is not None and len(set(images.labels[indices].tolist())) > 1
