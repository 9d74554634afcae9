"""The measured errors of our runs of named recipes, for users who have no run of their own yet.

The recorded runs were trained on other images than those of the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RecordedRun:
    """The measured errors of one of our runs.

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


RECORDED = (
    RecordedRun(
        recipe="fast",
        size=(64, 64),
        data="flowers",
        source="docs/results/fast.md, Results",
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
    ),
    RecordedRun(
        recipe="fast",
        size=(32, 32),
        data="flowers",
        source="docs/results/fast.md, A first look at guidance and students",
        points=(),
        kid=0.083,
        images=40_000,
        fields={"net.widths": "16,32,64,128"},
    ),
    RecordedRun(
        recipe="fast",
        size=(32, 32),
        data="blossoms",
        source="docs/results/fast.md, Less computation",
        points=((6_000, 0.276),),
        kid=None,
        images=6_000,
        fields={"net.widths": "16,32,64,128"},
    ),
    RecordedRun(
        recipe="fast",
        size=(32, 32),
        data="blossoms",
        source="docs/results/fast.md, Less computation",
        points=((2_000, 0.337),),
        kid=None,
        images=2_000,
    ),
)
"""All recorded runs."""
