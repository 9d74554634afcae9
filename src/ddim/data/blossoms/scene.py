"""The parts that all kinds of flowers share: position, stem, rings of petals, centre and stamens."""

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
    """An image with one flower's random stream, light and position; its methods paint parts of the flower.

    Attributes:
        canvas: the image.
        random: the random stream of the image.
        light: the angle of the light, in radians.
        scale: factor of the size of the flower.
        x: the horizontal position of the flower, in units of half the shorter side, to the right.
        y: the vertical position of the flower, in the same units, downwards.
    """

    canvas: Canvas
    random: np.random.Generator
    light: float
    scale: float = 1.0
    x: float = 0.0
    y: float = 0.0

    def pick(self, *palettes: str) -> list[np.ndarray]:
        """Return the colours (3,) of one palette, such as "f5c842 ffffff", chosen and varied at random."""
        colours = [parse_rgb(text) for text in palettes[self.random.integers(len(palettes))].split()]
        shift = self.random.normal(0, 0.03, 3).astype(np.float32)
        return [(colour + shift * (0.4 + colour)).clip(0, 1) for colour in colours]

    def between(self, low: float, high: float) -> float:
        """Return a random number, uniform in [low, high)."""
        return float(self.random.uniform(low, high))

    def whole(self, low: int, high: int) -> int:
        """Return a random whole number from `low` to `high` - 1."""
        return int(self.random.integers(low, high))

    def place_flower(self, spread: float = 0.16, tilt: float = 0.5) -> Place:
        """Return a random position and orientation of a flower.

        `spread` is the largest offset along x and y, in units of half the shorter side. `tilt` is the largest
        relative shortening of the tilted plane.
        """
        x, y = self.random.uniform(-spread, spread, 2) + (self.x, self.y)
        short, turn = 1 - tilt * self.random.random() ** 1.5, self.between(0, math.tau)
        # `short` and `lean` tilt the plane of the flower: the image shows it shortened in one direction.
        # `turn` rotates the flower within this plane.
        lean = self.between(-0.5, 0.5)
        cos, sin = math.cos(lean), math.sin(lean)
        return Place(float(x), float(y), (cos, sin), (-sin * short, cos * short)).turned(turn)

    def paint_stem(self, place: Place, size: float, leaves: int) -> None:
        """Paint a stalk down to the lower edge of the image, with leaves, behind the flower."""
        canvas, bottom = self.canvas, float(self.canvas.y[-1, 0]) + 0.1
        foot, bow = place.x + self.between(-0.5, 0.5), self.between(-0.15, 0.15)
        dark, fresh = self.pick("2c4a1e 7fa650", "35562a 93b45c", "21432c 5f9a62", "3d4f22 a5ad5a")
        look = Blade(
            blend(dark, fresh, dark * 0.9), veins=4, rib=-0.25, rise=0.9, fall=0.9, round=0.3, shadow=0.3
        )
        for number in range(leaves):
            down = self.between(0.25, 0.95)
            x = place.x + (foot - place.x) * down + 4 * bow * down * (1 - down)
            y = place.y + (bottom - place.y) * down
            aside = (1 if number % 2 else -1) * self.between(0.5, 1.2) - math.pi / 2
            leaf = replace(look, width=self.between(0.12, 0.25), bend=self.between(-0.2, 0.2))
            at = Place(x, y).turned(aside)
            paint_blade(
                canvas,
                at,
                size * self.between(0.8, 1.4),
                leaf,
                self.between(0.75, 1.1),
                self.light_side(aside),
            )
        paint_stalk(
            canvas, (place.x, place.y), (foot, bottom), bow, self.between(0.025, 0.05), (dark + fresh) / 2
        )

    def light_side(self, angle: float) -> float:
        """Return from which side light falls on a petal at this angle in radians, as a number in [-1, 1].

        -1 and 1 are the two sides of the petal. At 0, the light falls along its axis.
        """
        return math.sin(self.light - angle)

    def paint_whorl(self, place: Place, count: int, length: float, look: Blade, uneven: float = 0.06) -> None:
        """Paint a ring of petals, with small random differences; petals that face the light are brighter."""
        turn, random = math.tau / count, self.random
        for number in random.permutation(count) if random.random() < 0.5 else range(count):
            angle = (number + random.normal(0, uneven)) * turn
            petal = place.turned(angle)
            seen = math.atan2(petal.along[1], petal.along[0])
            light = 1 + 0.13 * math.cos(seen - self.light) + random.normal(0, 0.03)
            paint_blade(
                self.canvas,
                petal,
                length * (1 + random.normal(0, uneven)),
                look,
                light,
                self.light_side(seen),
            )

    def paint_eye(
        self, place: Place, radius: float, colour: np.ndarray, count: int = 0, grain: str = ""
    ) -> None:
        """Paint the centre of a flower: a shaded disc, and `count` grains in a spiral as in a sunflower.

        `grain` is the colour of the grains, such as "f5c842".
        """
        paint_disc(self.canvas, place, radius * 1.18, colour * 0.45, soft=radius * 0.5, alpha=0.5)
        paint_disc(self.canvas, place, radius, colour)
        if count:
            number = np.arange(count, dtype=np.float32)
            far, angle = radius * 0.92 * np.sqrt((number + 0.5) / count), number * 2.39996
            spots = np.stack([far * np.cos(angle), far * np.sin(angle)], axis=1)
            paint_grains(self.canvas, place, max(0.024, radius * 0.13), spots, parse_rgb(grain))

    def paint_stamens(self, place: Place, count: int, reach: float, thread: str, tip: str) -> None:
        """Paint `count` stamens from the centre outwards: threads with a dot at the end.

        `reach` is the approximate length of a stamen. `thread` and `tip` are the colours of thread and dot,
        such as "f5c842".
        """
        look = Blade(blend(parse_rgb(thread), parse_rgb(thread)), width=0.05, rise=0.2, fall=0.2, shadow=0.1)
        for number in range(count):
            angle = (number + self.between(-0.3, 0.3)) * math.tau / count
            far = reach * self.between(0.75, 1.05)
            paint_blade(self.canvas, place.turned(angle), far, look, 1.0, 0.0)
            paint_disc(self.canvas, place.moved(far, angle), 0.03, parse_rgb(tip) * self.between(0.85, 1.1))
