"""A synthetic data set: any number of images of flowers, drawn by code, without files or downloads.

Image k depends only on k and the size. The twelve kinds of flowers are the classes of the data set.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ddim.data.blossoms.kinds import KINDS
from ddim.data.blossoms.paint import Canvas, Place, paint_disc, paint_field, parse_rgb
from ddim.data.blossoms.scene import Scene
from ddim.data.sources import Member, Reject, Source, Survey
from ddim.errors import UserError

# Increase this number with every change of the images; it is part of the fingerprint.
VERSION = 1
_SMALLEST, _LARGEST = 32, 128
_SEED = 7919


@dataclass(frozen=True)
class Blossoms(Source):
    """The source of the flowers 0 ... count - 1, with heights and widths of 32 to 128 pixels."""

    count: int = 8192

    def stamp(self) -> str:
        """Return "": a stamp is not needed, because `survey` always returns the survey; see `Source`."""
        return ""

    def survey(self) -> Survey | None:
        """Return the survey, without drawing an image; see `Source`."""
        content = hashlib.sha256(f"blossoms {VERSION} {self.count}".encode()).hexdigest()
        return Survey(content, channels=3, count=self.count, others=0)

    def members(self, size: tuple[int, int]) -> Iterator[Member | Reject]:
        """Yield every flower, drawn at a size (height, width), as a PPM file; see `draw_blossom`."""
        for index in range(self.count):
            header = b"P6 %d %d 255\n" % (size[1], size[0])
            yield Member(f"{name_kind(index)}/{index:06d}.ppm", header + draw_blossom(index, size).tobytes())


def name_kind(index: int) -> str:
    """Return the class name, which is the kind of flower, of the image with this index."""
    return _draw_kind(index)[0]


def draw_blossom(index: int, size: tuple[int, int]) -> np.ndarray:
    """Return the image (H, W, 3) uint8 of the flower with this index, drawn at a size (height, width).

    Raises:
        UserError: if height or width is not between 32 and 128 pixels.
    """
    if not all(_SMALLEST <= side <= _LARGEST for side in size):
        raise UserError(
            f"data.size (--size) of blossoms must lie between {_SMALLEST} and {_LARGEST} pixels, "
            f"got {size[0]}x{size[1]}"
        )
    name, random = _draw_kind(index)
    canvas = Canvas(*size)
    light = random.uniform(-2.6, -0.5)
    _background(canvas, random)
    scene = Scene(canvas, random, light)
    if random.random() < 0.2:
        # A second flower is drawn farther away, beside the first flower and higher.
        aside = random.choice([-1, 1]) * random.uniform(0.4, 0.6)
        KINDS[name](replace(scene, scale=random.uniform(0.4, 0.6), x=aside, y=-random.uniform(0.2, 0.5)))
        scene = replace(scene, scale=0.75, x=-aside / 2, y=0.15)
    KINDS[name](scene)
    _sunlight(canvas, random, light)
    return canvas.finish()


def _draw_kind(index: int) -> tuple[str, np.random.Generator]:
    random = np.random.Generator(np.random.PCG64([_SEED, index]))
    names = tuple(KINDS)
    return names[random.integers(len(names))], random


def _background(canvas: Canvas, random: np.random.Generator) -> None:
    palettes, grain, bokeh = _BACKGROUNDS[random.choice(len(_BACKGROUNDS), p=_BACKGROUND_ODDS)]
    low, high = (parse_rgb(text) for text in palettes[random.integers(len(palettes))].split())
    blend = paint_field(canvas, random.random((4, 4), dtype=np.float32)) * 0.6
    blend = blend + 0.4 * (canvas.y + 1) / 2
    if grain:
        blend = blend + grain * (paint_field(canvas, random.random((18, 18), dtype=np.float32)) - 0.5)
    canvas.rgb[:] = high[:, None, None] + blend * (low - high)[:, None, None]
    for _ in range(random.integers(bokeh + 1)):
        x, y = random.uniform(-1.2, 1.2, 2)
        glow = (high + 0.25 * random.random(3)).clip(0, 1).astype(np.float32)
        paint_disc(
            canvas, Place(x, y), random.uniform(0.1, 0.32), glow, soft=0.06, alpha=random.uniform(0.1, 0.4)
        )


_BACKGROUNDS: tuple[tuple[tuple[str, ...], float, int], ...] = (
    # Leaves in the background, out of focus.
    (("1d3a1c 6f9a4a", "24421f 9db86a", "163025 4f8058", "30481e b9c46e"), 0.15, 7),
    # Sky.
    (("cfe4f2 5a9bd5", "e9eef2 86b7e0", "f3dfd0 7fa3d1"), 0.0, 2),
    # Night, or deep shade.
    (("050a08 1c2a22", "08070d 2a2036", "04070a 16263a"), 0.05, 4),
    # Soil and dry leaves.
    (("2a1c13 6d4f36", "3a2a1c 8a6d4c"), 0.6, 0),
    # A wall, a cloth.
    (("d9cdb8 f4ecdc", "b9c4c4 e3e9e6", "cbb3b0 f1dfdb"), 0.04, 0),
)
_BACKGROUND_ODDS = (0.5, 0.16, 0.14, 0.1, 0.1)


def _sunlight(canvas: Canvas, random: np.random.Generator, light: float) -> None:
    """Brighten the side of the image that is towards the light, and darken the corners of the image."""
    slope = random.uniform(0.0, 0.14)
    toward = canvas.x * math.cos(light) + canvas.y * math.sin(light)
    vignette = random.uniform(0.0, 0.12) * (canvas.x**2 + canvas.y**2)
    canvas.rgb *= 1 + slope * toward - vignette
