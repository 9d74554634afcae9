"""The twelve kinds of flowers of the synthetic data set.

Each kind is a function that paints a flower into a scene.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ddim.data.blossoms.paint import Blade, Place, blend, paint_blade, parse_rgb
from ddim.data.blossoms.scene import Scene


def _daisy(scene: Scene) -> None:
    place, size = scene.place_flower(), scene.scale * scene.between(0.6, 0.92)
    scene.paint_stem(place, size, scene.whole(0, 3))
    base, tip = scene.pick(
        "e8e2d0 ffffff", "f7e9ee ffffff", "f2b8cf fdeaf2", "efd54a fff3a8", "c9a4e0 efe0fa"
    )
    look = Blade(
        blend(base * 0.85, tip, tip), width=scene.between(0.09, 0.14), rise=0.35, fall=0.25, veins=1.5
    )
    count = scene.whole(13, 22)
    if scene.random.random() < 0.5:
        scene.paint_whorl(place.turned(0.5 * math.tau / count), count, size, look)
    scene.paint_whorl(place, count, size * 0.95, look)
    scene.paint_eye(
        place,
        size * scene.between(0.2, 0.3),
        scene.pick("e0a010", "f2c21a", "d98c0f")[0],
        24,
        "ffdc55",
    )


def _sunflower(scene: Scene) -> None:
    place, size = scene.place_flower(), scene.scale * scene.between(0.75, 1.0)
    scene.paint_stem(place, size, scene.whole(1, 4))
    base, tip = scene.pick("d97a06 ffd22e", "e69a0a ffe25a", "b5460f f3a024")
    look = Blade(
        blend(base, tip, tip), width=scene.between(0.11, 0.16), rise=0.5, fall=0.6, veins=1.5, rib=0.08
    )
    count = scene.whole(15, 22)
    scene.paint_whorl(place.turned(0.5 * math.tau / count), count, size, replace(look, ramp=look.ramp * 0.85))
    scene.paint_whorl(place, count, size * 0.9, look)
    eye = size * scene.between(0.36, 0.46)
    scene.paint_eye(place, eye, scene.pick("3a210f", "4a2c12", "2b1a10")[0], 40, "7a4a1c")
    scene.paint_eye(place, eye * 0.45, parse_rgb("2a1a10"), 10, "5b4a1e")


def _cosmos(scene: Scene) -> None:
    place, size = scene.place_flower(tilt=0.6), scene.scale * scene.between(0.65, 0.95)
    scene.paint_stem(place, size, scene.whole(0, 3))
    base, middle, tip = scene.pick(
        "9c1f66 e05aa6 f4a3cf", "b85a90 f3c1dc ffffff", "7d0f3f b3195c d4407e", "f5a86b ffd9a8 fff0d8"
    )
    look = Blade(
        blend(base, middle, tip),
        width=0.3,
        rise=0.9,
        fall=0.22,
        frill=0.035,
        veins=3,
        notch=scene.between(0, 0.06),
    )
    scene.paint_whorl(place, 8, size, look)
    scene.paint_eye(place, size * 0.17, scene.pick("e8b21e", "c9821a")[0], 14, "ffe27a")


def _primrose(scene: Scene) -> None:
    place, size = scene.place_flower(), scene.scale * scene.between(0.6, 0.9)
    scene.paint_stem(place, size, scene.whole(2, 5))
    base, middle, tip = scene.pick(
        "f0b51e f9ee9e fff8c8",
        "f3c11c 7a3fb0 a879d8",
        "f7d03a d6336c f178a0",
        "ffd84a 3f5fc4 7d98ea",
        "f5cf3a f4f0f8 ffffff",
    )
    look = Blade(
        blend(base, middle, tip),
        width=scene.between(0.36, 0.44),
        rise=0.9,
        fall=0.3,
        notch=scene.between(0.14, 0.3),
        veins=3,
    )
    scene.paint_whorl(place, 5, size, look)
    scene.paint_eye(place, size * 0.09, scene.pick("d9a512", "8a9a2c")[0])


def _poppy(scene: Scene) -> None:
    place, size = scene.place_flower(tilt=0.45), scene.scale * scene.between(0.65, 0.92)
    scene.paint_stem(place, size, scene.whole(0, 2))
    base, middle, tip = scene.pick(
        "1a0508 d3200f f2502a",
        "2a0a10 c21a1a e8432f",
        "f0a01a f7b733 ffd36b",
        "6e1238 e8799c f9b9c9",
        "c9b04a f6efe2 ffffff",
    )
    look = Blade(
        blend(base, middle, tip, tip), width=0.55, rise=0.7, fall=0.3, frill=0.03, veins=5, round=0.35
    )
    count = scene.whole(4, 7)
    scene.paint_whorl(place.turned(0.5 * math.tau / count), count, size, replace(look, ramp=look.ramp * 0.88))
    scene.paint_whorl(place, count, size * 0.86, look)
    scene.paint_stamens(place, 14, size * 0.32, "2a1a2a", scene.random.choice(["1a1018", "e2c04a"]))
    scene.paint_eye(place, size * 0.12, scene.pick("7f9a4a", "a5b06a")[0])


def _lily(scene: Scene) -> None:
    place, size = scene.place_flower(tilt=0.4), scene.scale * scene.between(0.75, 1.0)
    scene.paint_stem(place, size, scene.whole(1, 4))
    base, middle, tip = scene.pick(
        "a8c060 ffffff f6f3ea",
        "e8c04a f28a1e e8651a",
        "c9406f f39abf fde3ec",
        "e3d04a f6e26a fff2a0",
        "8a1030 c22a50 e77a90",
    )
    look = Blade(
        blend(base, middle, tip),
        width=scene.between(0.2, 0.27),
        rise=0.8,
        fall=0.85,
        rib=0.12,
        veins=2,
        bend=scene.between(-0.1, 0.1),
    )
    scene.paint_whorl(place.turned(math.pi / 3), 3, size, replace(look, ramp=look.ramp * 0.92))
    scene.paint_whorl(place, 3, size * 0.97, replace(look, width=look.width * 1.2))
    scene.paint_stamens(place, 6, size * 0.45, "d8e0a0", scene.random.choice(["7a3410", "b5651a"]))


def _rose(scene: Scene) -> None:
    place, size = scene.place_flower(tilt=0.3), scene.scale * scene.between(0.6, 0.85)
    scene.paint_stem(place, size, scene.whole(2, 5))
    deep, tip = scene.pick(
        "6a0a18 d22a3c", "b0476a f6b8c8", "c9803a ffe0b0", "c9b48a fffaf0", "8a1a4a e0508a", "c9900f ffe46a"
    )
    for ring in range(5):
        share = 1 - 0.19 * ring
        look = Blade(
            blend(deep, deep + (tip - deep) * (0.75 - 0.1 * ring), tip),
            width=0.55,
            rise=0.6,
            fall=0.22,
            veins=0,
            round=0.3,
            shadow=0.5,
        )
        count = 6 - (ring + 1) // 2
        scene.paint_whorl(place.turned(0.9 * ring), count, size * share, look, uneven=0.1)


def _dahlia(scene: Scene) -> None:
    place, size = scene.place_flower(tilt=0.35), scene.scale * scene.between(0.65, 0.92)
    scene.paint_stem(place, size, scene.whole(1, 4))
    deep, tip = scene.pick(
        "7a0f2a d8405a", "a03a0a f9a03a", "6a1a6a c77ad6", "b8507a fbd3e0", "c9a02a fff0a0", "b5a58a ffffff"
    )
    for ring in range(4):
        look = Blade(
            blend(deep * 0.8, deep + (tip - deep) * 0.7, tip),
            width=0.2,
            rise=0.7,
            fall=0.5,
            rib=0.1,
            round=0.4,
            shadow=0.45,
        )
        count = 14 - 3 * ring
        scene.paint_whorl(place.turned(0.37 * ring), count, size * (1 - 0.23 * ring), look)
    scene.paint_eye(place, size * 0.08, (deep + tip) / 2)


def _pansy(scene: Scene) -> None:
    place, size = scene.place_flower(tilt=0.2), scene.scale * scene.between(0.62, 0.85)
    scene.paint_stem(place, size, scene.whole(1, 4))
    upright = Place(place.x, place.y, (1, 0), (0, 1)).turned(scene.between(-0.35, 0.35) - math.pi / 2)
    back, _ = scene.pick("4a1f8a 8a5ac0", "7a1030 b03050", "2a3f9a 6a80d8", "e0a81a f8d84a")
    blotch, front, edge = scene.pick(
        "1a0a2a f2c53a ffe98a", "2a0a3a b58ad8 e3d0f4", "2a0a10 e88a2a f8c06a", "14102a f4f0f8 ffffff"
    )
    upper = Blade(blend(back * 0.6, back, (back * 1.15).clip(0, 1)), width=0.44, rise=0.8, fall=0.42, veins=2)
    lower = Blade(blend(blotch, blotch, front, edge), width=0.42, rise=0.8, fall=0.45, veins=3)
    for angle, look, share in (
        (0.5, upper, 1.0),
        (-0.5, upper, 1.0),
        (1.55, lower, 0.92),
        (-1.55, lower, 0.92),
        (math.pi, replace(lower, width=0.55, fall=0.4, notch=0.1), 0.95),
    ):
        petal = upright.turned(angle)
        seen = math.atan2(petal.along[1], petal.along[0])
        paint_blade(
            scene.canvas,
            petal,
            size * share,
            look,
            1 + 0.1 * math.cos(seen - scene.light),
            scene.light_side(seen),
        )
    scene.paint_eye(place, size * 0.08, parse_rgb("f2d020"))


def _tulip(scene: Scene) -> None:
    """Paint a tulip seen from the side: a cup of overlapping petals on a straight stalk."""
    size = scene.scale * scene.between(0.8, 1.1)
    foot = Place(scene.x + scene.between(-0.2, 0.2), scene.y + 0.1 + size * scene.between(0.1, 0.35))
    scene.paint_stem(foot, size, scene.whole(2, 5))
    base, middle, tip = scene.pick(
        "e0c04a d21f2a f0503a",
        "f0e0b0 e86a9a f8b0c8",
        "c9b02a f7c81e ffe46a",
        "5a1a6a 8a3aa0 c080d8",
        "d0d8a0 fbf4e6 ffffff",
        "c9301a f28a1e ffd040",
    )
    look = Blade(
        blend(base, middle, tip),
        width=scene.between(0.25, 0.32),
        rise=0.6,
        fall=0.5,
        veins=3,
        round=0.35,
        shadow=0.4,
    )
    lean = scene.between(-0.25, 0.25) - math.pi / 2
    opening = scene.between(0.75, 1.25)
    for angle, share, dim in (
        (0.32, 0.93, 0.75),
        (-0.32, 0.93, 0.78),
        (0.0, 1.0, 0.72),
        (0.5, 0.9, 0.95),
        (-0.5, 0.9, 1.0),
        (0.05, 0.86, 1.06),
    ):
        turn = lean + angle * opening * 0.7
        paint_blade(
            scene.canvas,
            Place(foot.x, foot.y).turned(turn),
            size * share,
            replace(look, bend=-0.22 * angle),
            dim,
            scene.light_side(turn),
        )


def _crocus(scene: Scene) -> None:
    """Paint six wide pointed petals in two rings around long orange stamens."""
    place, size = scene.place_flower(tilt=0.55), scene.scale * scene.between(0.65, 0.95)
    grass = Blade(blend(parse_rgb("2a4a1e"), parse_rgb("6f9a4a")), width=0.04, rise=0.3, fall=0.8, rib=-0.3)
    for _ in range(scene.whole(4, 10)):
        at = Place(place.x + scene.between(-0.6, 0.6), 1.2).turned(-math.pi / 2 + scene.between(-0.5, 0.5))
        paint_blade(
            scene.canvas,
            at,
            scene.between(0.8, 1.7),
            replace(grass, bend=scene.between(-0.2, 0.2)),
            scene.between(0.7, 1.1),
            0.3,
        )
    base, middle, tip = scene.pick(
        "3a1a6a 8a5ad0 b898ec", "e8e0f0 f4f0fa ffffff", "d98a0f f7b81e ffd85a", "6a3a9a d8c8f0 f4ecfc"
    )
    look = Blade(
        blend(base, middle, tip), width=scene.between(0.27, 0.34), rise=0.75, fall=0.55, veins=4, round=0.3
    )
    scene.paint_whorl(place.turned(math.pi / 3), 3, size, replace(look, ramp=look.ramp * 0.88))
    scene.paint_whorl(place, 3, size * 0.92, look)
    scene.paint_stamens(place, 3, size * 0.35, "f0a010", "ff8a10")


def _forget_me_not(scene: Scene) -> None:
    """Paint a cluster of small flowers with five petals."""
    centre = scene.place_flower(spread=0.1, tilt=0.2)
    scene.paint_stem(centre, 0.7 * scene.scale, scene.whole(2, 5))
    base, tip = scene.pick(
        "f4f8ff 6a9ae8", "f8f4ff 8a7ae0", "fff4f8 f08ab8", "fdf6d8 f4f4fa", "fff0c0 f8d040"
    )
    for number in range(scene.whole(4, 9)):
        at = centre.moved(0.3 * scene.scale * math.sqrt(number) * scene.between(0.8, 1.2), number * 2.4)
        size = scene.scale * scene.between(0.28, 0.4)
        look = Blade(blend(base, tip, tip), width=0.42, rise=0.8, fall=0.3, round=0.3, shadow=0.4)
        scene.paint_whorl(at.turned(scene.between(0, 6)), 5, size, look)
        scene.paint_eye(at, size * 0.2, parse_rgb("f0c020"))


KINDS: dict[str, Callable[[Scene], None]] = {
    "cosmos": _cosmos,
    "crocus": _crocus,
    "dahlia": _dahlia,
    "daisy": _daisy,
    "forget-me-not": _forget_me_not,
    "lily": _lily,
    "pansy": _pansy,
    "poppy": _poppy,
    "primrose": _primrose,
    "rose": _rose,
    "sunflower": _sunflower,
    "tulip": _tulip,
}
