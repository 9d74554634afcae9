"""Paint blades (petals, leaves, stems) and discs with light and shadow on a canvas, in NumPy.

Positions are complex numbers x + iy in units of half the shorter side; x points right, y down, and 0 is the
centre of the image. Images are drawn at twice their size and averaged, and edges are one pixel wide.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

_STEPS = 256
_CENTRE = np.zeros((2, 1), np.float32)


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


class Canvas:
    """An unfinished image with its random numbers.

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
        patch *= 1 - 0.4 * _clip(inside * (14 / self.unit) + 0.6)
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
        colour *= _clip(inside + 0.5)
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
        edge = (1 - np.sqrt(far)) * (radius / (soft or 1 / self.unit)) + 0.5
        if soft:
            patch += 0.4 * _clip(edge) * (colour[:, None, None] - patch)
        else:
            ray = cmath.rect(0.35 / reach, -self.light)
            shade = 1.05 + u * (place.along * ray).real + v * (place.across * ray).real
            shade -= 0.3 * np.minimum(far, 1)
            patch += _clip(edge) * (colour[:, None, None] * shade - patch)

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


def _clip(values: np.ndarray) -> np.ndarray:
    """Clip values to [0, 1] in place and return them; on small arrays this is faster than numpy's clip."""
    return np.minimum(np.maximum(values, 0, out=values), 1, out=values)


@lru_cache(maxsize=64)
def smoothing(length: int, knots: int) -> np.ndarray:
    """Return weights (length, knots) that interpolate equally spaced values smoothly."""
    at = np.linspace(0, knots - 1, length, dtype=np.float32)[:, None] - np.arange(knots, dtype=np.float32)
    near = (1 - np.abs(at)).clip(0, 1)
    return near * near * (3 - 2 * near)


def blend(colours: np.ndarray) -> np.ndarray:
    """Return a smooth colour gradient (3, 258) float32 through equally spaced colours (n, 3)."""
    return np.ascontiguousarray((smoothing(_STEPS + 2, len(colours)) @ colours).T)
