"""The twelve kinds of flowers of the synthetic data set, as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ddim.data.blossoms.paint import Blade


@dataclass(frozen=True)
class Rings:
    """Rings of petals or stamens; lengths and brightnesses are factors.

    Attributes:
        petals: number of petals in each ring, from the outermost; or their angles in radians, from the
            vertical.
        more: the largest number of additional petals in each ring, drawn for each flower.
        length: the length of a petal in the outermost ring.
        step: by how much each ring is shorter than the one around it.
        dim: the brightness of each ring relative to the one inside it.
        curl: the curvature of a petal for each radian of its angle.
    """

    petals: tuple[int | tuple[float, ...], ...]
    more: int = 0
    length: float = 1.0
    step: float = 0.0
    dim: float = 1.0
    curl: float = 0.0


@dataclass(frozen=True)
class Eye:
    """The centre of a flower: a dome with grains in a spiral, as in a sunflower.

    Attributes:
        radius: its radius, in lengths of a petal.
        palettes: colours of dome and grains.
        grains: number of grains.
    """

    radius: float
    palettes: str
    grains: int = 0


@dataclass(frozen=True)
class Kind:
    """How the flowers of a kind look; each flower varies around these values.

    Palettes are separated by commas, and one of them is drawn for each flower.

    Attributes:
        palettes: colours of a petal from base to tip.
        petal: the shape of a petal.
        rings: the rings of petals.
        inner: palettes, shape and rings of stamens, or of petals that lie on the others.
        eye: the centre of the flower.
        upright: whether the flower is seen from the side or has a face, so that it is not turned.
        foot: how far the petals begin below the middle of the flower, in lengths of a petal.
        heads: the largest number of flowers on a stem.
        leaf: the shape of its leaves.
    """

    palettes: str
    petal: Blade
    rings: Rings
    eye: Eye | None = None
    inner: tuple[str, Blade, Rings] | None = None
    upright: bool = False
    foot: float = 0.0
    heads: int = 1
    leaf: Blade = Blade(0.18, rise=0.9, fall=0.9, veins=4, rib=-0.25)


_STAMEN = Blade(0.1, rise=1.5, fall=0.1)

KINDS = {
    "cosmos": Kind(
        "9c1f66 e05aa6 f4a3cf, b85a90 f3c1dc ffffff, 7d0f3f b3195c d4407e, f5a86b ffd9a8 fff0d8",
        Blade(0.3, rise=0.9, fall=0.22, frill=0.035, notch=0.03, veins=3),
        Rings((8,)),
        Eye(0.17, "e8b21e ffe27a, c9821a ffe27a", 14),
    ),
    "crocus": Kind(
        "3a1a6a 8a5ad0 b898ec, e8e0f0 f4f0fa ffffff, d98a0f f7b81e ffd85a, 6a3a9a d8c8f0 f4ecfc",
        Blade(0.3, rise=0.75, fall=0.55, veins=4),
        Rings((3, 3), step=0.08, dim=0.88),
        inner=("f0a010 ff8a10", _STAMEN, Rings((3,), length=0.35)),
        leaf=Blade(0.05, rise=0.3, fall=0.8, rib=-0.3),
    ),
    "dahlia": Kind(
        "620c22 bc324b d8405a, 802e08 df822c f9a03a, 551555 aa5ab4 c77ad6, 934064 e7aac1 fbd3e0, "
        "a18022 efd87e fff0a0, 917f6e e8e5e2 ffffff",
        Blade(0.2, rise=0.7, fall=0.5, rib=0.1, round=0.4),
        Rings((14, 11, 8, 5), step=0.23),
    ),
    "daisy": Kind(
        "c5c0b1 ffffff, d2c6cb fdeaf2, ce9cb0 fdeaf2, cbb541 fff3a8, ab8bbe efe0fa",
        Blade(0.135, rise=0.35, fall=0.25, veins=1.5),
        Rings((12,), more=10),
        Eye(0.25, "e0a010 ffdc55, f2c21a ffdc55, d98c0f ffdc55", 24),
    ),
    "forget-me-not": Kind(
        "dfeaff 5a8ce6, e6e0ff 7a68dc, ffe4ee ee7cb2, fdf6d8 f4f4fa, fff0b0 f6c830",
        Blade(0.42),
        Rings((5,)),
        Eye(0.2, "f0c020"),
        heads=8,
    ),
    "lily": Kind(
        "a8c060 ffffff f6f3ea, e8c04a f28a1e e8651a, c9406f f39abf fde3ec, e3d04a f6e26a fff2a0, "
        "8a1030 c22a50 e77a90",
        Blade(0.26, fall=0.85, rib=0.12, veins=2, bend=0.1),
        Rings((3, 3), step=0.03, dim=0.92),
        inner=("d8e0a0 d8e0a0 7a3410, d8e0a0 d8e0a0 b5651a", _STAMEN, Rings((6,), length=0.45)),
    ),
    "pansy": Kind(
        "2c1353 4a1f8a 5524a0, 480a1d 7a1030 8c1237, 19265f 2a3f9a 3048b0, 866410 e0a81a ffc11e",
        Blade(0.44, fall=0.42, veins=2),
        Rings(((0.5, -0.5),)),
        Eye(0.08, "f2d020"),
        (
            "1a0a2a 1a0a2a f2c53a ffe98a, 2a0a3a 2a0a3a b58ad8 e3d0f4, 2a0a10 2a0a10 e88a2a f8c06a, "
            "14102a 14102a f4f0f8 ffffff",
            Blade(0.45, fall=0.43, veins=3),
            Rings(((1.55, -1.55, math.pi),), length=0.93),
        ),
        upright=True,
    ),
    "poppy": Kind(
        "1a0508 d3200f f2502a f2502a, 2a0a10 c21a1a e8432f e8432f, f0a01a f7b733 ffd36b ffd36b, "
        "6e1238 e8799c f9b9c9 f9b9c9, c9b04a f6efe2 ffffff ffffff",
        Blade(0.55, rise=0.7, frill=0.03, veins=5, round=0.35),
        Rings((4, 4), more=2, step=0.14, dim=0.88),
        Eye(0.12, "7f9a4a, a5b06a"),
        ("2a1a2a 2a1a2a 1a1018, 2a1a2a 2a1a2a e2c04a", _STAMEN, Rings((14,), length=0.32)),
    ),
    "primrose": Kind(
        "f0b51e f9ee9e fff8c8, f3c11c 7a3fb0 a879d8, f7d03a d6336c f178a0, ffd84a 3f5fc4 7d98ea, "
        "f5cf3a f4f0f8 ffffff",
        Blade(0.4, rise=0.9, notch=0.22, veins=3),
        Rings((5,)),
        Eye(0.09, "d9a512, 8a9a2c"),
    ),
    "rose": Kind(
        "6a0a18 a81d2d d22a3c, b0476a d98aa2 f6b8c8, c9803a e8b87c ffe0b0, c9b48a e8dcc4 fffaf0, "
        "8a1a4a bd3870 e0508a, c9900f e9c045 ffe46a",
        Blade(0.55, rise=0.6, fall=0.22),
        Rings((6, 5, 5, 4, 4), length=0.9, step=0.17, dim=1.05),
    ),
    "sunflower": Kind(
        "d97a06 ffd22e ffd22e, e69a0a ffe25a ffe25a, b5460f f3a024 f3a024",
        Blade(0.135, rise=0.5, fall=0.6, veins=1.5, rib=0.08),
        Rings((15, 15), more=6, length=1.1, step=0.1, dim=0.85),
        Eye(0.44, "3a210f 7a4a1c, 4a2c12 7a4a1c, 2b1a10 7a4a1c", 40),
    ),
    "tulip": Kind(
        "e0c04a d21f2a f0503a, f0e0b0 e86a9a f8b0c8, c9b02a f7c81e ffe46a, 5a1a6a 8a3aa0 c080d8, "
        "d0d8a0 fbf4e6 ffffff, c9301a f28a1e ffd040",
        Blade(0.285, rise=0.6, fall=0.5, veins=3, round=0.35),
        Rings(((0.22, -0.22, 0.0), (0.35, -0.35), (0.03,)), length=1.12, step=0.06, dim=0.86, curl=-0.3),
        upright=True,
        foot=0.45,
    ),
}
