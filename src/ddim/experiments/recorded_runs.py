"""The measured errors of our runs of named recipes, for users who have no run of their own yet.

The recorded runs were trained on other images than those of the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RecordedRun:
    """The measured errors of one of our runs, or the means of runs that differ in their seed.

    Attributes:
        recipe: the named recipe.
        size: (height, width) of its images.
        data: one or two words that describe its images.
        source: where the numbers are published.
        points: (images seen, validation error), sorted by the images. The error is the image MAE of the EMA
            weights.
        kid: KID (EfficientNet-Lite0) of the finished run; None if it was not measured.
        images: number of images that the finished run saw.
        fields: the fields that differ from the named recipe, as text keyed by field path.
    """

    recipe: str
    size: tuple[int, int]
    data: str
    source: str
    points: tuple[tuple[int, float], ...]
    kid: float | None
    images: int
    fields: Mapping[str, str] = field(default_factory=dict)


FIRST_VERSION = {
    "net.widths": "32,64,128,256",
    "optim.method": "adamw",
    "optim.lr": "3e-3",
    "optim.batch": "16",
    "objective.finish": "0",
}
"""The fields of the recipe `fast` that had other values in its first version, with these values."""

NARROW = {**FIRST_VERSION, "net.widths": "16,32,64,128"}
"""The fields of a run of the first version with half of its channels."""

RECORDED = (
    RecordedRun(
        recipe="fast",
        size=(64, 64),
        data="flowers",
        source="docs/results/fast.md, Results",
        points=(
            (31_200, 0.219),
            (62_400, 0.216),
            (93_600, 0.214),
            (124_800, 0.213),
            (156_000, 0.212),
            (187_200, 0.212),
            (218_400, 0.211),
            (249_600, 0.212),
            (280_800, 0.212),
            (312_000, 0.212),
        ),
        kid=0.0605,
        images=312_000,
    ),
    RecordedRun(
        recipe="fast",
        size=(64, 64),
        data="flowers",
        source="docs/results/fast.md, The first version",
        points=(
            (5_520, 0.267),
            (21_296, 0.235),
            (42_576, 0.225),
            (85_152, 0.218),
            (127_728, 0.214),
            (170_304, 0.212),
            (212_864, 0.211),
        ),
        kid=0.096,
        images=212_864,
        fields=FIRST_VERSION,
    ),
    RecordedRun(
        recipe="fast",
        size=(32, 32),
        data="flowers",
        source="docs/results/fast.md, A first look at guidance and students",
        points=(),
        kid=0.083,
        images=40_000,
        fields=NARROW,
    ),
    RecordedRun(
        recipe="fast",
        size=(32, 32),
        data="blossoms",
        source="docs/results/fast.md, Less computation",
        points=((6_000, 0.276),),
        kid=None,
        images=6_000,
        fields=NARROW,
    ),
    RecordedRun(
        recipe="fast",
        size=(32, 32),
        data="blossoms",
        source="docs/results/fast.md, Less computation",
        points=((2_000, 0.337),),
        kid=None,
        images=2_000,
        fields=FIRST_VERSION,
    ),
)
"""All recorded runs."""
