"""What all kinds of drawn flowers share: the scene, stems, rings of petals, eyes and stamens."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ddim.data.blossoms.paint import (
    Blade,
    Canvas,
    Place,
    blend,
    paint_blade,
    paint_disc,
    paint_grains,
    paint_stalk,
    parse_rgb,
)


@dataclass(frozen=True)
class Scene:
    """What every kind of flower is drawn with.

    Attributes:
        canvas: the image.
        random: the random stream of the image.
        light: the angle of the light.
        scale: the size of the flower.
        x: its position to the right.
        y: its position downwards.
    """

    canvas: Canvas
    random: np.random.Generator
    light: float
    scale: float = 1.0
    x: float = 0.0
    y: float = 0.0

    def pick(self, *palettes: str) -> list[np.ndarray]:
        """Draw one of the palettes ("f5c842 ffffff"); its colours (3,) vary in brightness and hue."""
        colours = [parse_rgb(text) for text in palettes[self.random.integers(len(palettes))].split()]
        shift = self.random.normal(0, 0.03, 3).astype(np.float32)
        return [(colour + shift * (0.4 + colour)).clip(0, 1) for colour in colours]

    def between(self, low: float, high: float) -> float:
        """Draw a number from a range."""
        return float(self.random.uniform(low, high))

    def whole(self, low: int, high: int) -> int:
        """Draw one of low ... high - 1."""
        return int(self.random.integers(low, high))


def place_flower(scene: Scene, spread: float = 0.16, tilt: float = 0.5) -> Place:
    """Draw the position and orientation of a flower; `tilt` is the most by which its plane is shortened."""
    x, y = scene.random.uniform(-spread, spread, 2) + (scene.x, scene.y)
    short, turn = 1 - tilt * scene.random.random() ** 1.5, scene.between(0, math.tau)
    # Shortened along a direction of the image, turned within the plane.
    lean = scene.between(-0.5, 0.5)
    cos, sin = math.cos(lean), math.sin(lean)
    return Place(float(x), float(y), (cos, sin), (-sin * short, cos * short)).turned(turn)


def paint_stem(scene: Scene, place: Place, size: float, leaves: int) -> None:
    """Paint a stalk to the lower edge and leaves along it, behind the flower."""
    canvas, bottom = scene.canvas, float(scene.canvas.y[-1, 0]) + 0.1
    foot, bow = place.x + scene.between(-0.5, 0.5), scene.between(-0.15, 0.15)
    dark, fresh = scene.pick("2c4a1e 7fa650", "35562a 93b45c", "21432c 5f9a62", "3d4f22 a5ad5a")
    look = Blade(
        blend(dark, fresh, dark * 0.9), veins=4, rib=-0.25, rise=0.9, fall=0.9, round=0.3, shadow=0.3
    )
    for number in range(leaves):
        down = scene.between(0.25, 0.95)
        x = place.x + (foot - place.x) * down + 4 * bow * down * (1 - down)
        y = place.y + (bottom - place.y) * down
        aside = (1 if number % 2 else -1) * scene.between(0.5, 1.2) - math.pi / 2
        leaf = replace(look, width=scene.between(0.12, 0.25), bend=scene.between(-0.2, 0.2))
        at = Place(x, y).turned(aside)
        paint_blade(
            canvas,
            at,
            size * scene.between(0.8, 1.4),
            leaf,
            scene.between(0.75, 1.1),
            light_side(scene, aside),
        )
    paint_stalk(
        canvas, (place.x, place.y), (foot, bottom), bow, scene.between(0.025, 0.05), (dark + fresh) / 2
    )


def light_side(scene: Scene, angle: float) -> float:
    """Return the side, in [-1, 1], from which the light falls on a petal at this angle."""
    return math.sin(scene.light - angle)


def paint_whorl(
    scene: Scene, place: Place, count: int, length: float, look: Blade, uneven: float = 0.06
) -> None:
    """Paint a ring of petals, each a little different, brighter where it faces the light."""
    turn, random = math.tau / count, scene.random
    for number in random.permutation(count) if random.random() < 0.5 else range(count):
        angle = (number + random.normal(0, uneven)) * turn
        petal = place.turned(angle)
        seen = math.atan2(petal.along[1], petal.along[0])
        light = 1 + 0.13 * math.cos(seen - scene.light) + random.normal(0, 0.03)
        paint_blade(
            scene.canvas, petal, length * (1 + random.normal(0, uneven)), look, light, light_side(scene, seen)
        )


def paint_eye(
    scene: Scene, place: Place, radius: float, colour: np.ndarray, count: int = 0, grain: str = ""
) -> None:
    """Paint the middle of a flower: a domed disc, with grains in the spiral of a sunflower."""
    paint_disc(scene.canvas, place, radius * 1.18, colour * 0.45, soft=radius * 0.5, alpha=0.5)
    paint_disc(scene.canvas, place, radius, colour)
    if count:
        number = np.arange(count, dtype=np.float32)
        far, angle = radius * 0.92 * np.sqrt((number + 0.5) / count), number * 2.39996
        spots = np.stack([far * np.cos(angle), far * np.sin(angle)], axis=1)
        paint_grains(scene.canvas, place, max(0.024, radius * 0.13), spots, parse_rgb(grain))


def move_place(place: Place, far: float, angle: float) -> Place:
    """Move a place by a distance in a direction of its plane."""
    ray = place.turned(angle).along
    return replace(place, x=place.x + far * ray[0], y=place.y + far * ray[1])


def paint_stamens(scene: Scene, place: Place, count: int, reach: float, thread: str, tip: str) -> None:
    """Paint threads from the middle outwards, each with a dot at its end."""
    look = Blade(blend(parse_rgb(thread), parse_rgb(thread)), width=0.05, rise=0.2, fall=0.2, shadow=0.1)
    for number in range(count):
        angle = (number + scene.between(-0.3, 0.3)) * math.tau / count
        far = reach * scene.between(0.75, 1.05)
        paint_blade(scene.canvas, place.turned(angle), far, look, 1.0, 0.0)
        paint_disc(
            scene.canvas, move_place(place, far, angle), 0.03, parse_rgb(tip) * scene.between(0.85, 1.1)
        )
