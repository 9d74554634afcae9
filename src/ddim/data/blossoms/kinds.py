"""The twelve kinds of flowers of the synthetic data set, as a table."""

from __future__ import annotations

from dataclasses import dataclass

from ddim.data.blossoms.paint import Blade


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
