"""Compose the image of a flower: background, stem, leaves, petals, centre and sunlight."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ddim.data.blossoms.kinds import Eye, Kind, Rings
from ddim.data.blossoms.paint import Blade, Canvas, Place, blend, parse_colours, smoothing

# Palettes of two colours, strength of the grain, largest number of lights out of focus, and probability.
_BACKGROUNDS = (
    # Leaves out of focus.
    ("1d3a1c 6f9a4a, 24421f 9db86a, 163025 4f8058, 30481e b9c46e", 0.15, 7, 0.5),
    # Sky.
    ("cfe4f2 5a9bd5, e9eef2 86b7e0, f3dfd0 7fa3d1", 0.0, 2, 0.16),
    # Night, or deep shade.
    ("050a08 1c2a22, 08070d 2a2036, 04070a 16263a", 0.05, 4, 0.14),
    # Soil and dry leaves.
    ("2a1c13 6d4f36, 3a2a1c 8a6d4c", 0.6, 0, 0.1),
    # A wall, a cloth.
    ("d9cdb8 f4ecdc, b9c4c4 e3e9e6, cbb3b0 f1dfdb", 0.04, 0, 0.1),
)
_GREENS = "2c4a1e 7fa650 273f1b, 35562a 93b45c 2f4d25, 21432c 5f9a62 1e3c28, 3d4f22 a5ad5a 37471f"


@dataclass(frozen=True)
class Scene:
    """An image with its random numbers, and the position and scale of the next flower.

    Attributes:
        canvas: the image.
        random: the random numbers of the image.
        at: the position of the flower, see `paint`.
        scale: a factor of the size of the flower.
    """

    canvas: Canvas
    random: np.random.Generator
    at: complex = 0
    scale: float = 1.0

    def paint_background(self) -> None:
        """Paint a blurred background, with discs of light out of focus."""
        random, canvas = self.random, self.canvas
        kind = random.choice(len(_BACKGROUNDS), p=[odds for *_, odds in _BACKGROUNDS])
        palettes, grain, lights, _ = _BACKGROUNDS[kind]
        low, high = self._draw_colours(palettes)
        mix = 0.6 * self._draw_field(4) + 0.2 * (canvas.y[:, None] + 1) + grain * (self._draw_field(18) - 0.5)
        canvas.rgb[:] = high[:, None, None] + mix * (low - high)[:, None, None]
        for _ in range(random.integers(lights + 1)):
            place = Place(complex(*random.uniform(-1.2, 1.2, 2)), 1, 1j)
            glow = (high + 0.2 * random.random(3, np.float32)).clip(0, 1)
            canvas.paint_discs(place, random.uniform(0.1, 0.32), glow, soft=0.06)

    def paint_flower(self, kind: Kind) -> None:
        """Paint a flower of a kind, with its stem and leaves."""
        random = self.random
        size = 0.8 * self.scale * random.uniform(0.8, 1.2) * (1 if kind.heads == 1 else 0.42)
        middle = self.at + complex(*random.uniform(-0.16, 0.16, 2))
        place = Place(middle, -1j, 1).turned(random.uniform(-0.3, 0.3)).scaled(size)
        if kind.upright:
            place = place.moved(-kind.foot)
        else:
            # The flower is tilted, so that it is shortened in one direction of the image.
            short = 1 - 0.5 * random.random() ** 1.5
            place = place._replace(along=short * place.along).turned(random.uniform(0, math.tau))
        self._paint_stem(place.at, kind.leaf)
        ramp = blend(self._draw_colours(kind.palettes))
        for head in range(random.integers((kind.heads + 1) // 2, kind.heads + 1)):
            far = 0.85 * math.sqrt(head) * random.uniform(0.8, 1.2)
            at = place.turned(2.4 * head).moved(far)
            self._paint_rings(at, ramp, kind.petal, kind.rings)
            if kind.inner:
                palettes, petal, rings = kind.inner
                self._paint_rings(at, blend(self._draw_colours(palettes)), petal, rings)
            if kind.eye:
                self._paint_eye(at, kind.eye)

    def _paint_rings(self, place: Place, ramp: np.ndarray, petal: Blade, rings: Rings) -> None:
        """Paint rings of petals around a place whose unit is the length of a petal."""
        random = self.random
        width, notch = petal.width * random.uniform(0.85, 1.15), petal.notch * random.uniform(0.6, 1.4)
        bend, more = petal.bend * random.uniform(-1, 1), int(random.integers(rings.more + 1))
        petal = replace(petal, width=width, notch=notch, bend=bend)
        length, light = rings.length, rings.dim ** (len(rings.petals) - 1)
        for number, ring in enumerate(rings.petals):
            for angle in ring if isinstance(ring, tuple) else _spread(ring + more, number / 2):
                at = place.turned(angle + random.normal(0, 0.05)).scaled(length * random.normal(1, 0.05))
                shape = replace(petal, bend=rings.curl * angle) if rings.curl else petal
                self.canvas.paint_blade(at, shape, ramp, light * random.normal(1, 0.03))
            length, light = length - rings.step, light / rings.dim

    def _paint_eye(self, place: Place, eye: Eye) -> None:
        dome, *grain = self._draw_colours(eye.palettes)
        self.canvas.paint_discs(place, eye.radius * 1.18, dome * 0.45, soft=eye.radius * 0.5)
        self.canvas.paint_discs(place, eye.radius, dome)
        if grain:
            number = np.arange(eye.grains, dtype=np.float32)
            angle, far = 2.39996 * number, 0.92 * eye.radius * np.sqrt((number + 0.5) / eye.grains)
            spots = far * np.stack([np.cos(angle), np.sin(angle)])
            self.canvas.paint_discs(place, 0.012 + eye.radius * 0.1, grain[0], spots)

    def _paint_stem(self, top: complex, leaf: Blade) -> None:
        """Paint a stem from `top` down to the lower edge of the image, with leaves."""
        random, canvas = self.random, self.canvas
        green = self._draw_colours(_GREENS)
        along = complex(random.uniform(-0.5, 0.5), float(canvas.y[-1]) + 0.1 - top.imag)
        place, bend = Place(top, along, along * 1j), random.uniform(-0.15, 0.15)
        for number in range(random.integers(5)):
            down = random.uniform(0.25, 0.95)
            aside = (1 if number % 2 else -1) * random.uniform(0.5, 1.2)
            at = Place(place.moved(down, -bend * down * down).at, -1j, 1).turned(aside)
            shape = replace(leaf, width=leaf.width * random.uniform(0.7, 1.4), bend=random.uniform(-0.2, 0.2))
            length = 0.8 * self.scale * random.uniform(0.8, 1.4)
            canvas.paint_blade(at.scaled(length), shape, blend(green), random.uniform(0.75, 1.1))
        stem = Blade(random.uniform(0.025, 0.05) / abs(along), rise=0.05, fall=0.05, bend=bend)
        canvas.paint_blade(place, stem, blend(green[[0, 1, 0]]), 0.9)

    def paint_sunlight(self) -> None:
        """Brighten the side of the image that is towards the light, and darken its corners."""
        canvas, random = self.canvas, self.random
        x, y = canvas.x[None, :], canvas.y[:, None]
        toward = x * math.cos(canvas.light) + y * math.sin(canvas.light)
        vignette = random.uniform(0.0, 0.12) * (x**2 + y**2)
        canvas.rgb *= 1 + random.uniform(0.0, 0.14) * toward - vignette

    def _draw_field(self, knots: int) -> np.ndarray:
        """Return smooth random numbers in [0, 1] for all pixels, from knots x knots random numbers."""
        _, rows, columns = self.canvas.rgb.shape
        values = self.random.random((knots, knots), dtype=np.float32)
        return smoothing(rows, knots) @ values @ smoothing(columns, knots).T

    def _draw_colours(self, palettes: str) -> np.ndarray:
        """Return the colours (n, 3) of one palette, chosen and varied at random."""
        rows = palettes.split(", ")
        colours = parse_colours(rows[self.random.integers(len(rows))])
        shift = self.random.normal(0, 0.03, 3).astype(np.float32)
        return (colours + shift * (0.4 + colours)).clip(0, 1)


def _spread(count: int, start: float) -> list[float]:
    """Return `count` angles at equal distances; the first is `start` distances from the vertical."""
    return [(number + start) * math.tau / count for number in range(count)]
