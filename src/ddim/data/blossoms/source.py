"""A synthetic data set: any number of images of flowers, drawn by code, without files or downloads.

Image k depends only on k and the size. The twelve kinds of flowers are the classes of the data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ddim.data.blossoms.kinds import KINDS
from ddim.data.blossoms.scene import Scene
from ddim.data.sources import Member, Source

# Increase this number with every change of the images; it is part of the fingerprint.
VERSION = 3


@dataclass(frozen=True)
class Blossoms(Source):
    """The source of the flowers 0 ... count - 1; they look best with 32 to 128 pixels."""

    count: int = 8192

    def stamp(self) -> str:
        """Return the version and the number of flowers; see `Source`."""
        return f"blossoms {VERSION} {self.count}"

    def members(self, size: tuple[int, int]) -> Iterator[Member]:
        """Yield every flower, drawn at a size (height, width); see `draw_blossom`."""
        for index in range(self.count):
            yield Member(f"{name_kind(index)}/{index:06d}", draw_blossom(index, size))

    def count_files(self) -> int:
        """Return the number of flowers."""
        return self.count


def name_kind(index: int) -> str:
    """Return the class name, which is the kind of flower, of the image with this index."""
    return _draw_kind(index)[0]


def draw_blossom(index: int, size: tuple[int, int]) -> np.ndarray:
    """Return the image (H, W, 3) uint8 of the flower with this index, drawn at a size (height, width)."""
    name, random = _draw_kind(index)
    scene, kind = Scene(size, random), KINDS[name]
    scene.paint_background()
    if random.random() < 0.2:
        # A second flower is farther away, beside the first flower and higher.
        aside = random.choice([-1, 1]) * random.uniform(0.4, 0.6)
        scene.paint_flower(kind, complex(aside, -random.uniform(0.2, 0.5)), random.uniform(0.4, 0.6))
        scene.paint_flower(kind, complex(-aside / 2, 0.15), 0.75)
    else:
        scene.paint_flower(kind)
    return scene.finish()


def _draw_kind(index: int) -> tuple[str, np.random.Generator]:
    random = np.random.Generator(np.random.PCG64([7919, index]))
    names = tuple(KINDS)
    return names[random.integers(len(names))], random
