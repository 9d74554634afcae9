"""A synthetic data set: any number of images of flowers, drawn by code, without files or downloads.

Image k depends only on k and the size. The twelve kinds of flowers are the classes of the data set. Petals,
leaves and discs are painted with light and shadow, in NumPy. Positions are complex numbers x + iy in units of
half the shorter side; x points right, y down, and 0 is the centre of the image. Images are drawn at twice
their size and averaged, and edges are one pixel wide.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ddim.data.sources import Member, Source

# Increase this number with every change of the images; it is part of the fingerprint.
VERSION = 3


_STEPS = 256
_CENTRE = np.zeros((2, 1), np.float32)


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


# Shapes


class Place(NamedTuple):
    """The position where a flower or petal begins, and the plane in which it lies.

    `along` and `across` are the two axes of the plane, projected into the image. In a tilted plane their
    projections are shorter. The point (u, v) of the plane is at + u along + v across in the image.
    """

    at: complex
    along: complex
    across: complex

    def turned(self, angle: float, scale: float = 1.0) -> Place:
        """Return the place with the axes rotated by an angle, in radians, in the plane, and scaled."""
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        return Place(self.at, cos * self.along + sin * self.across, cos * self.across - sin * self.along)

    def moved(self, u: float, v: float = 0.0) -> Place:
        """Return the place moved to the point (u, v) of its plane."""
        return Place(self.at + u * self.along + v * self.across, self.along, self.across)


@dataclass(frozen=True)
class Blade:
    """The shape of a petal, a leaf or a stem, and its rings around the centre of a flower.

    With u in [0, 1] along its axis, the half width is proportional to u^rise (1 - u)^fall.

    Attributes:
        width: the largest half width, in lengths of the blade.
        rise: exponent of the base.
        fall: exponent of the tip; small values make the tip round, 1 makes it pointed.
        notch: depth of a notch in the tip, as in a heart.
        bend: curvature of the axis; its point u lies at (u, -bend u^2).
        length: the length in the outermost ring.
        rings: number of petals in each ring, from the outermost; or their angles in radians.
        step: by how much each ring is shorter than the one around it.
    """

    width: float
    rise: float = 0.8
    fall: float = 0.3
    notch: float = 0.0
    bend: float = 0.0
    length: float = 1.0
    rings: tuple[int | tuple[float, ...], ...] = ()
    step: float = 0.0


@dataclass(frozen=True)
class Kind:
    """How the flowers of a kind look; each flower varies around these values.

    Palettes are separated by commas, and one of them is drawn for each flower.

    Attributes:
        palettes: colours of a petal from base to tip.
        petal: the shape of the petals and their rings.
        eye: the centre of the flower: its radius in lengths of a petal, and palettes of dome and grains.
        inner: palettes, shape and rings of stamens, or of petals that lie on the others.
        foot: if the flower is seen from the side or has a face, so that it is not turned: how far its petals
            begin below its middle, in lengths of a petal.
        heads: the largest number of flowers on a stem.
    """

    palettes: str
    petal: Blade
    eye: tuple[float, str] | None = None
    inner: tuple[str, Blade] | None = None
    foot: float | None = None
    heads: int = 1


KINDS = {
    "cosmos": Kind(
        "9c1f66 e05aa6 f4a3cf, b85a90 f3c1dc ffffff, 7d0f3f b3195c d4407e, f5a86b ffd9a8 fff0d8",
        Blade(0.3, 0.9, 0.22, notch=0.04, rings=(8,)),
        (0.17, "e8b21e ffe27a, c9821a ffe27a"),
    ),
    "crocus": Kind(
        "3a1a6a 8a5ad0 b898ec, e8e0f0 f4f0fa ffffff, d98a0f f7b81e ffd85a, 6a3a9a d8c8f0 f4ecfc",
        Blade(0.3, 0.75, 0.55, rings=(3, 3), step=0.08),
        inner=("f0a010 ff8a10", Blade(0.1, 1.5, 0.1, rings=(3,), length=0.35)),
    ),
    "dahlia": Kind(
        "7a1428 d8405a, 8e3a10 f9a03a, 6a1f6a c77ad6, a34a74 fbd3e0, b0902a fff0a0, a5948a ffffff",
        Blade(0.2, 0.7, 0.5, rings=(14, 11, 8, 5), step=0.23),
    ),
    "daisy": Kind(
        "c5c0b1 ffffff, d2c6cb fdeaf2, ce9cb0 fdeaf2, cbb541 fff3a8, ab8bbe efe0fa",
        Blade(0.135, 0.35, 0.25, rings=(17,)),
        (0.25, "e0a010 ffdc55, f2c21a ffdc55, d98c0f ffdc55"),
    ),
    "forget-me-not": Kind(
        "dfeaff 5a8ce6, e6e0ff 7a68dc, ffe4ee ee7cb2, fdf6d8 f4f4fa, fff0b0 f6c830",
        Blade(0.42, rings=(5,)),
        (0.2, "f0c020 f8d850"),
        heads=8,
    ),
    "lily": Kind(
        "d0dca0 ffffff, e8b03a e8651a, d9608f fde3ec, e3d04a fff2a0, 8a1030 e05a80",
        Blade(0.26, 0.8, 0.85, bend=0.1, rings=(3, 3), step=0.03),
        inner=("d8e0a0 d8e0a0 7a3410", Blade(0.1, 1.5, 0.1, rings=(6,), length=0.45)),
    ),
    "pansy": Kind(
        "2c1353 5524a0, 480a1d 8c1237, 19265f 3048b0, 866410 ffc11e",
        Blade(0.44, 0.8, 0.42, rings=((0.5, -0.5),)),
        (0.08, "f2d020 f2d020"),
        (
            "1a0a2a 1a0a2a f2c53a ffe98a, 2a0a3a 2a0a3a b58ad8 e3d0f4, 2a0a10 2a0a10 e88a2a f8c06a",
            Blade(0.45, 0.8, 0.43, rings=((1.55, -1.55, 3.14),), length=0.93),
        ),
        foot=0.0,
    ),
    "poppy": Kind(
        "1a0508 d3200f f2502a f2502a, f0a01a f7b733 ffd36b ffd36b, 6e1238 e8799c f9b9c9 f9b9c9",
        Blade(0.55, 0.7, rings=(5, 5), step=0.14),
        (0.12, "7f9a4a a5b06a"),
        ("2a1a2a 2a1a2a 1a1018, 2a1a2a 2a1a2a e2c04a", Blade(0.1, 1.5, 0.1, rings=(14,), length=0.32)),
    ),
    "primrose": Kind(
        "f0b51e f9ee9e, f3c11c 7a3fb0 a879d8, f7d03a d6336c f178a0, ffd84a 3f5fc4 7d98ea, f5cf3a ffffff",
        Blade(0.4, 0.9, notch=0.22, rings=(5,)),
        (0.09, "d9a512 d9a512, 8a9a2c 8a9a2c"),
    ),
    "rose": Kind(
        "8a1222 d83448, c06a86 f8c4d2, d09a58 ffe0b0, dccaa4 fffaf0, a02a5a e65a96, d0a024 ffe870",
        Blade(0.55, 0.6, 0.22, rings=(6, 5, 5, 4, 4), step=0.17, length=0.9),
    ),
    "sunflower": Kind(
        "d97a06 ffd22e ffd22e, e69a0a ffe25a ffe25a, b5460f f3a024 f3a024",
        Blade(0.135, 0.5, 0.6, rings=(18, 18), step=0.1, length=1.1),
        (0.44, "3a210f 7a4a1c, 4a2c12 7a4a1c, 2b1a10 7a4a1c"),
    ),
    "tulip": Kind(
        "e0c04a d21f2a f0503a, f0e0b0 f8b0c8, c9b02a ffe46a, 5a1a6a c080d8, d0d8a0 ffffff, c9301a ffd040",
        Blade(0.3, 0.6, 0.5, rings=((0.22, -0.22, 0.0), (0.35, -0.35), (0.03,)), step=0.06, length=1.12),
        foot=0.45,
    ),
}

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


class Scene:
    """The unfinished image of flowers, with its random numbers.

    Attributes:
        random: the random numbers.
        light: the angle from which the light comes, in radians.
        rgb: (3, 2H, 2W) float32 in [0, 1].
        x: the horizontal positions (2W,) of the pixels.
        y: the vertical positions (2H,) of the pixels.
    """

    def __init__(self, size: tuple[int, int], random: np.random.Generator) -> None:
        """Create a black image of a size (height, width) in pixels."""
        self.random, self.light, self.unit = random, random.uniform(-2.6, -0.5), min(size)
        self.rgb = np.zeros((3, 2 * size[0], 2 * size[1]), np.float32)
        self.y, self.x = ((np.arange(2 * side, dtype=np.float32) + 0.5 - side) / self.unit for side in size)

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

    def paint_blade(self, place: Place, shape: Blade, ramp: np.ndarray, light: float = 1.0) -> None:
        """Paint a petal, leaf or stem, and its shadow.

        Args:
            place: its base and its plane; the first axis of the plane has the length of the blade.
            shape: its shape.
            ramp: its colours (3, 258) from base to tip, see `blend`.
            light: a factor of its brightness.
        """
        patch, u, v = self._view(place, -0.05, 1.1, shape.width + abs(shape.bend) + 0.05)
        v = v + shape.bend * u * u
        flat = np.abs(v)
        u = u * (1 + shape.notch * np.maximum(0, 1 - flat / (0.6 * shape.width)))
        step = (u * _STEPS + 1).astype(np.intp)
        wide = _outline(shape.rise, shape.fall).take(step, mode="clip") * shape.width
        inside = (wide - flat) * (self.unit * math.sqrt(_area(place)))
        patch *= 1 - 0.4 * (inside * (14 / self.unit) + 0.6).clip(0, 1)
        # A blade is brighter if it points to the light, and on the side that does.
        angle = self.light - cmath.phase(place.along)
        light *= 1 + 0.13 * math.cos(angle)
        across = v / np.maximum(wide, 0.02)
        tone = across * (math.sin(angle) - 0.6 * across) * (light * 0.32) + light
        # Veins
        tone -= 0.1 * np.maximum(0, np.cos(across * (math.pi * 3)))
        colour = ramp.take(step, axis=1, mode="clip")
        colour *= tone
        colour -= patch
        colour *= (inside + 0.5).clip(0, 1)
        patch += colour

    def paint_discs(
        self, place: Place, radius: float, colour: np.ndarray, spots: np.ndarray = _CENTRE, soft: float = 0.0
    ) -> None:
        """Paint small domes, or one disc.

        Args:
            place: a place in the plane of the discs.
            radius: the radius of each disc.
            colour: (3,).
            spots: the points (2, N) of the plane that are the centres of the discs.
            soft: the width of the edges; above 0 the discs are flat and let the image below shine through.
        """
        reach = float(np.abs(spots).max()) + radius + soft
        patch, u, v = self._view(place, -reach, reach, reach)
        x, y = spots[:, :, None, None]
        far = ((u - x) ** 2 + (v - y) ** 2).min(0) * (1 / radius**2)
        edge = ((1 - np.sqrt(far)) * (radius / (soft or 1 / self.unit)) + 0.5).clip(0, 1)
        if soft:
            patch += 0.4 * edge * (colour[:, None, None] - patch)
        else:
            ray = cmath.rect(0.35 / reach, -self.light)
            shade = 1.05 + u * (place.along * ray).real + v * (place.across * ray).real
            shade -= 0.3 * np.minimum(far, 1)
            patch += edge * (colour[:, None, None] * shade - patch)

    def finish(self) -> np.ndarray:
        """Return the finished image (H, W, 3) uint8, the means of 2 x 2 pixels."""
        tall = self.rgb[:, ::2] + self.rgb[:, 1::2]
        mean = (tall[:, :, ::2] + tall[:, :, 1::2]) / 4
        return np.ascontiguousarray(np.rint(mean.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))

    def _view(self, place: Place, start: float, stop: float, side: float) -> tuple[np.ndarray, ...]:
        """Return the pixels that cover [start, stop] x [-side, side] of a plane, and their points u, v."""
        at, along, across = place
        area, half = _area(place), (stop - start) / 2
        middle = at + (start + half) * along
        x, columns = self._cut(self.x, middle.real, half * abs(along.real) + side * abs(across.real))
        y, rows = self._cut(self.y, middle.imag, half * abs(along.imag) + side * abs(across.imag))
        x, y = x[None, :] - at.real, y[:, None] - at.imag
        u = x * (across.imag / area) - y * (across.real / area)
        v = y * (along.real / area) - x * (along.imag / area)
        return self.rgb[:, rows, columns], u, v

    def _cut(self, positions: np.ndarray, middle: float, reach: float) -> tuple[np.ndarray, slice]:
        """Return the positions of pixels that are at most `reach` from `middle`, and their indices."""
        first, last = (int((middle + end) * self.unit + len(positions) / 2) for end in (-reach, reach))
        which = slice(max(0, first), max(0, last + 2))
        return positions[which], which


def _area(place: Place) -> float:
    return (place.along.conjugate() * place.across).imag


@lru_cache(maxsize=256)
def _outline(rise: float, fall: float) -> np.ndarray:
    u = (np.arange(_STEPS, dtype=np.float32) + 0.5) / _STEPS
    shape = u**rise * (1 - u) ** fall
    # Beyond both ends the half width is negative, so points there are outside for all exponents.
    return np.concatenate([[-9.0], shape / shape.max(), [-9.0]]).astype(np.float32)


@lru_cache(maxsize=64)
def smoothing(length: int, knots: int) -> np.ndarray:
    """Return weights (length, knots) that interpolate equally spaced values smoothly."""
    at = np.linspace(0, knots - 1, length, dtype=np.float32)[:, None] - np.arange(knots, dtype=np.float32)
    near = (1 - np.abs(at)).clip(0, 1)
    return near * near * (3 - 2 * near)


def blend(colours: np.ndarray) -> np.ndarray:
    """Return a smooth colour gradient (3, 258) float32 through equally spaced colours (n, 3)."""
    return np.ascontiguousarray((smoothing(_STEPS + 2, len(colours)) @ colours).T)
