"""Draw smooth fields of colour, discs, and blades (petals and leaves) with light and shadow, in NumPy.

Positions are in units of half the shorter side; x points right, y down, and (0, 0) is the centre of the
image. Images are drawn at twice their size and averaged, and edges are one pixel wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

_STEPS = 256

Window = tuple[slice, slice]


class Canvas:
    """An unfinished image: rgb (3, 2H, 2W) float32 in [0, 1], and the positions of its pixels."""

    def __init__(self, height: int, width: int) -> None:
        """Create a black image with twice this height and width in pixels."""
        rows, columns = 2 * height, 2 * width
        self.unit = min(rows, columns) / 2
        self.pixel = 1 / self.unit
        self.rgb = np.zeros((3, rows, columns), np.float32)
        self.x = ((np.arange(columns, dtype=np.float32) + 0.5 - columns / 2) / self.unit)[None, :]
        self.y = ((np.arange(rows, dtype=np.float32) + 0.5 - rows / 2) / self.unit)[:, None]

    def window(self, left: float, top: float, right: float, bottom: float) -> Window | None:
        """Return the slices of the image that a box covers, or None if the box lies outside."""
        rows, columns = self.rgb.shape[1:]
        first, last = (max(0, int((side * self.unit) + rows / 2)) for side in (top, bottom + 2 * self.pixel))
        start, stop = (
            max(0, int((side * self.unit) + columns / 2)) for side in (left, right + 2 * self.pixel)
        )
        found = slice(first, min(last, rows)), slice(start, min(stop, columns))
        return found if found[0].start < found[0].stop and found[1].start < found[1].stop else None

    def finish(self) -> np.ndarray:
        """Return the finished image (H, W, 3) uint8, the means of 2 x 2 pixels."""
        tall = self.rgb[:, ::2] + self.rgb[:, 1::2]
        mean = (tall[:, :, ::2] + tall[:, :, 1::2]) / 4
        return np.ascontiguousarray(np.rint(mean.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0))


@dataclass(frozen=True)
class Place:
    """The position where a flower or a leaf begins, and the plane in which it lies.

    `along` and `across` are the two unit vectors of the plane, projected into the image. In a tilted plane
    their projections are shorter.
    """

    x: float
    y: float
    along: tuple[float, float] = (1.0, 0.0)
    across: tuple[float, float] = (0.0, 1.0)

    def turned(self, angle: float) -> Place:
        """Return the place with the axes rotated by an angle, in radians, within the plane."""
        cos, sin = math.cos(angle), math.sin(angle)
        (ax, ay), (bx, by) = self.along, self.across
        return Place(
            self.x,
            self.y,
            (cos * ax + sin * bx, cos * ay + sin * by),
            (cos * bx - sin * ax, cos * by - sin * ay),
        )

    def moved(self, far: float, angle: float) -> Place:
        """Return the place moved by a distance `far`, in the direction of an angle within the plane."""
        ray = self.turned(angle).along
        return replace(self, x=self.x + far * ray[0], y=self.y + far * ray[1])


@dataclass(frozen=True)
class Blade:
    """The shape and colours of a petal or a leaf of length 1.

    With u in [0, 1] along its axis, the half width is proportional to u^rise (1 - u)^fall.

    Attributes:
        ramp: colours (3, 256) from base to tip.
        width: the largest half width.
        rise: exponent of the base.
        fall: exponent of the tip; small values make the tip round, 1 makes it pointed.
        notch: depth of a notch in the tip, as in a heart.
        frill: height of waves along the tip.
        bend: curvature of the axis.
        veins: number of veins.
        rib: depth of the middle rib.
        round: strength of the shading towards the sides.
        shadow: strength of the shadow on the image below.
    """

    ramp: np.ndarray
    width: float = 0.3
    rise: float = 0.8
    fall: float = 0.5
    notch: float = 0.0
    frill: float = 0.0
    bend: float = 0.0
    veins: float = 0.0
    rib: float = 0.0
    round: float = 0.25
    shadow: float = 0.35


@lru_cache(maxsize=256)
def _outline(rise: float, fall: float) -> np.ndarray:
    u = (np.arange(_STEPS, dtype=np.float32) + 0.5) / _STEPS
    shape = u**rise * (1 - u) ** fall
    # Beyond both ends the half width is negative, so points there are outside for all exponents.
    shape = np.concatenate([[-9.0], shape / shape.max(), [-9.0]])
    return shape.astype(np.float32)


def paint_blade(canvas: Canvas, place: Place, length: float, look: Blade, light: float, side: float) -> None:
    """Paint a petal or leaf.

    Args:
        canvas: the image.
        place: its base and its plane.
        length: the length of the axis.
        look: its shape and colours.
        light: the brightness, a factor of the colours.
        side: the side from which the light comes, in [-1, 1].
    """
    (ax, ay), (bx, by) = place.along, place.across
    bow = look.width + abs(look.bend)
    reach = [
        length * (u * a + v * b) for a, b in ((ax, bx), (ay, by)) for u in (0.0, 1.05) for v in (-bow, bow)
    ]
    margin = 0.05 * length
    box = canvas.window(
        place.x + min(reach[:4]) - margin,
        place.y + min(reach[4:]) - margin,
        place.x + max(reach[:4]) + margin,
        place.y + max(reach[4:]) + margin,
    )
    area = ax * by - ay * bx
    if box is None or abs(area) < 0.05:
        return
    dx, dy = (canvas.x[:, box[1]] - place.x) / (length * area), (canvas.y[box[0]] - place.y) / (length * area)
    u, v = by * dx - bx * dy, ax * dy - ay * dx
    if look.bend:
        v = v + look.bend * u * u
    flat = np.abs(v)
    if look.notch:
        u = u * (1 + look.notch * np.maximum(0, 1 - flat / (0.6 * look.width)))
    if look.frill:
        u = u * (1 + look.frill * np.sin(v * (9 / look.width)))
    step = (u * _STEPS + 1).astype(np.intp)
    wide = _outline(look.rise, look.fall).take(step, mode="clip") * look.width
    inside = (wide - flat) * (length * math.sqrt(abs(area)) / canvas.pixel)
    patch = canvas.rgb[:, box[0], box[1]]
    if look.shadow:
        patch *= 1 - look.shadow * _unit(inside * (canvas.pixel / 0.07) + 0.6)
    across = v / np.maximum(wide, 0.02)
    tone = across * (side * light * look.round - (0.6 * light * look.round) * across) + light
    if look.veins:
        tone -= 0.10 * np.maximum(0, np.cos(across * (math.pi * look.veins)))
    if look.rib:
        tone -= look.rib * np.maximum(0, 1 - np.abs(across) * 5)
    colour = look.ramp.take(step - 1, axis=1, mode="clip")
    colour *= tone
    colour -= patch
    colour *= _unit(inside + 0.5)
    patch += colour


def _unit(values: np.ndarray) -> np.ndarray:
    """Clip values to [0, 1] in place and return them; on small arrays this is faster than numpy's clip."""
    return np.minimum(np.maximum(values, 0, out=values), 1, out=values)


def paint_disc(
    canvas: Canvas, place: Place, radius: float, colour: np.ndarray, soft: float = 0.0, alpha: float = 1.0
) -> None:
    """Paint a disc in the plane of a place, lit from the upper left.

    Args:
        canvas: the image.
        place: the centre and the plane.
        radius: the radius of the disc.
        colour: (3,).
        soft: the width of the edge; above 0 the disc has no shading.
        alpha: the opacity, in [0, 1].
    """
    found = _round_window(canvas, place, radius + soft)
    if found is None:
        return
    patch, u, v = found
    far = np.sqrt(u * u + v * v)
    mask = _unit((radius - far) / max(soft, canvas.pixel) + 0.5) * alpha
    shade = np.float32(1)
    if not soft:
        slant = u * (place.along[0] + place.along[1]) + v * (place.across[0] + place.across[1])
        shade = 1.05 - (0.35 / radius) * slant - (0.25 / radius**2) * far * far
    patch += mask * (colour[:, None, None] * shade - patch)


def paint_grains(canvas: Canvas, place: Place, radius: float, spots: np.ndarray, colour: np.ndarray) -> None:
    """Paint small discs with a radius and colour (3,) at positions `spots` (N, 2) in the plane of a place."""
    found = _round_window(canvas, place, float(np.abs(spots).max()) + 2 * radius)
    if found is None:
        return
    patch, u, v = found
    far = ((u - spots[:, 0, None, None]) ** 2 + (v - spots[:, 1, None, None]) ** 2).min(0) / radius**2
    mask = _unit((1 - far) * (0.5 * radius / canvas.pixel) + 0.5)
    patch += mask * (colour[:, None, None] * (1.1 - 0.4 * np.minimum(far, 1)) - patch)


def _round_window(
    canvas: Canvas, place: Place, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the part of the image around a place, and the coordinates u and v of its pixels in the plane.

    Return None if the part is outside the image, or the plane is seen from its edge.
    """
    box = canvas.window(place.x - reach, place.y - reach, place.x + reach, place.y + reach)
    (ax, ay), (bx, by) = place.along, place.across
    area = ax * by - ay * bx
    if box is None or abs(area) < 0.05:
        return None
    dx, dy = (canvas.x[:, box[1]] - place.x) / area, (canvas.y[box[0]] - place.y) / area
    return canvas.rgb[:, box[0], box[1]], by * dx - bx * dy, ax * dy - ay * dx


def paint_stalk(
    canvas: Canvas,
    start: tuple[float, float],
    end: tuple[float, float],
    bow: float,
    width: float,
    colour: np.ndarray,
) -> None:
    """Paint a stalk from `start` down to `end`.

    Args:
        canvas: the image.
        start: the upper end (x, y).
        end: the lower end (x, y).
        bow: how far the middle of the stalk is curved sideways.
        width: half of the width of the stalk.
        colour: the colour (3,); the stalk is lit from the left.
    """
    top, bottom = start[1], end[1]
    box = canvas.window(
        min(start[0], end[0]) - abs(bow) - width, top, max(start[0], end[0]) + abs(bow) + width, bottom
    )
    if box is None or bottom - top < canvas.pixel:
        return
    t = (canvas.y[box[0]] - top) / (bottom - top)
    middle = start[0] + (end[0] - start[0]) * t + 4 * bow * t * (1 - t)
    across = (canvas.x[:, box[1]] - middle) / width
    mask = _unit((1 - np.abs(across)) * (width / canvas.pixel) + 0.5)
    patch = canvas.rgb[:, box[0], box[1]]
    patch += mask * (colour[:, None, None] * (0.9 - 0.3 * across) - patch)


@lru_cache(maxsize=64)
def _smoothing(length: int, knots: int) -> np.ndarray:
    """Return weights (length, knots) that interpolate equally spaced values smoothly."""
    at = np.linspace(0, knots - 1, length, dtype=np.float32)[:, None] - np.arange(knots, dtype=np.float32)
    near = (1 - np.abs(at)).clip(0, 1)
    return near * near * (3 - 2 * near)


def paint_field(canvas: Canvas, values: np.ndarray) -> np.ndarray:
    """Return a small grid of values (knots, knots), interpolated smoothly to all pixels of the canvas."""
    _, rows, columns = canvas.rgb.shape
    return _smoothing(rows, values.shape[0]) @ values @ _smoothing(columns, values.shape[1]).T


def blend(*colours: np.ndarray) -> np.ndarray:
    """Return a smooth colour gradient (3, 256) float32 through equally spaced colours (3,)."""
    return np.ascontiguousarray((_smoothing(_STEPS, len(colours)) @ np.stack(colours)).T, dtype=np.float32)


def parse_rgb(text: str) -> np.ndarray:
    """Return a colour such as "f5c842" as (3,) float32 in [0, 1]."""
    return np.array([int(text[at : at + 2], 16) for at in (0, 2, 4)], np.float32) / 255
