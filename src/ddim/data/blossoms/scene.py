"""Compose the image of a flower: background, stem, leaves, petals and centre."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ddim.data.blossoms.kinds import Kind
from ddim.data.blossoms.paint import Blade, Canvas, Place, blend, smoothing

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


class Scene(Canvas):
    """The unfinished image of flowers."""

    def paint_background(self) -> None:
        """Paint a blurred background, with discs of light out of focus."""
        random = self.random
        kind = random.choice(len(_BACKGROUNDS), p=[odds for *_, odds in _BACKGROUNDS])
        palettes, grain, lights, _ = _BACKGROUNDS[kind]
        low, high = self._draw_colours(palettes)
        mix = 0.6 * self._draw_field(4) + 0.2 * (self.y[:, None] + 1) + grain * (self._draw_field(18) - 0.5)
        self.rgb[:] = high[:, None, None] + mix * (low - high)[:, None, None]
        for _ in range(random.integers(lights + 1)):
            place = Place(complex(*random.uniform(-1.2, 1.2, 2)), 1, 1j)
            glow = (high + 0.2 * random.random(3, np.float32)).clip(0, 1)
            self.paint_discs(place, random.uniform(0.1, 0.32), glow, soft=0.06)

    def paint_flower(self, kind: Kind, at: complex = 0, scale: float = 1.0) -> None:
        """Paint a flower of a kind, with its stem and leaves.

        Args:
            kind: the kind.
            at: the position of the flower, see `paint`.
            scale: a factor of the size of the flower.
        """
        random = self.random
        size = 0.8 * scale * random.uniform(0.8, 1.2) * (1 if kind.heads == 1 else 0.42)
        middle = at + complex(*random.uniform(-0.16, 0.16, 2))
        place = Place(middle, -1j, 1).turned(random.uniform(-0.3, 0.3), size)
        if kind.foot is not None:
            place = place.moved(-kind.foot)
        else:
            # The flower is tilted, so that it is shortened in one direction of the image.
            short = 1 - 0.5 * random.random() ** 1.5
            place = place._replace(along=short * place.along).turned(random.uniform(0, math.tau))
        self._paint_stem(place.at, scale)
        ramp = blend(self._draw_colours(kind.palettes))
        for head in range(random.integers((kind.heads + 1) // 2, kind.heads + 1)):
            far = 0.85 * math.sqrt(head) * random.uniform(0.8, 1.2)
            at_head = place.turned(2.4 * head).moved(far)
            self._paint_rings(at_head, ramp, kind.petal)
            if kind.inner:
                palettes, petal = kind.inner
                self._paint_rings(at_head, blend(self._draw_colours(palettes)), petal)
            if kind.eye:
                self._paint_eye(at_head, *kind.eye)

    def _paint_rings(self, place: Place, ramp: np.ndarray, petal: Blade) -> None:
        """Paint rings of petals around a place whose unit is the length of a petal."""
        random = self.random
        width, notch = petal.width * random.uniform(0.85, 1.15), petal.notch * random.uniform(0.6, 1.4)
        petal = replace(petal, width=width, notch=notch, bend=petal.bend * random.uniform(-1, 1))
        for n, ring in enumerate(petal.rings):
            # Outer rings are darker.
            length, light = petal.length - n * petal.step, 0.8 ** (1 - (n + 1) / len(petal.rings))
            even = [(k + n / 2) * math.tau / ring for k in range(ring)] if isinstance(ring, int) else ring
            for angle in even:
                at = place.turned(angle + random.normal(0, 0.05), length * random.normal(1, 0.05))
                self.paint_blade(at, petal, ramp, light * random.normal(1, 0.03))

    def _paint_eye(self, place: Place, radius: float, palettes: str) -> None:
        """Paint a dome with grains in a spiral, as in a sunflower."""
        dome, grain = self._draw_colours(palettes)
        self.paint_discs(place, radius * 1.18, dome * 0.45, soft=radius * 0.5)
        self.paint_discs(place, radius, dome)
        number = np.arange(int(90 * radius), dtype=np.float32)
        angle, far = 2.39996 * number, 0.92 * radius * np.sqrt((number + 0.5) / len(number))
        spots = far * np.stack([np.cos(angle), np.sin(angle)])
        self.paint_discs(place, 0.012 + radius * 0.1, grain, spots)

    def _paint_stem(self, top: complex, scale: float) -> None:
        """Paint a stem from `top` down to the lower edge of the image, with leaves."""
        random = self.random
        green = self._draw_colours(_GREENS)
        along = complex(random.uniform(-0.5, 0.5), float(self.y[-1]) + 0.1 - top.imag)
        place, bend = Place(top, along, along * 1j), random.uniform(-0.15, 0.15)
        for number in range(random.integers(5)):
            down = random.uniform(0.25, 0.95)
            aside = (1 if number % 2 else -1) * random.uniform(0.5, 1.2)
            at = Place(place.moved(down, -bend * down * down).at, -1j, 1)
            leaf = Blade(random.uniform(0.12, 0.25), 0.9, 0.9, bend=random.uniform(-0.2, 0.2))
            at = at.turned(aside, 0.8 * scale * random.uniform(0.8, 1.4))
            self.paint_blade(at, leaf, blend(green), random.uniform(0.75, 1.1))
        stem = Blade(random.uniform(0.025, 0.05) / abs(along), 0.05, 0.05, bend=bend)
        self.paint_blade(place, stem, blend(green[[0, 1, 0]]), 0.9)

    def _draw_field(self, knots: int) -> np.ndarray:
        """Return smooth random numbers in [0, 1] for all pixels, from knots x knots random numbers."""
        _, rows, columns = self.rgb.shape
        values = self.random.random((knots, knots), dtype=np.float32)
        return smoothing(rows, knots) @ values @ smoothing(columns, knots).T

    def _draw_colours(self, palettes: str) -> np.ndarray:
        """Return the colours (n, 3) of one palette, float32 in [0, 1], chosen and varied at random."""
        rows = palettes.split(", ")
        palette = rows[self.random.integers(len(rows))]
        colours = np.array([tuple(bytes.fromhex(colour)) for colour in palette.split()], np.float32) / 255
        shift = self.random.normal(0, 0.03, 3).astype(np.float32)
        return (colours + shift * (0.4 + colours)).clip(0, 1)
