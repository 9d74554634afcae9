"""The images that pictures are judged against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ddim.data import open_images, split
from ddim.errors import UserError, suggest
from ddim.runs.image_features import Chosen
from ddim.runs.recipe import Data

Part = Literal["valid", "train", "all"]


@dataclass(frozen=True)
class Reference:
    """Which images: a source (None: the run's own) and the part of it, None: the run's held-out images, all
    of another source.
    """

    data: str | None = None
    part: Part | None = None

    def __post_init__(self) -> None:
        parts = get_args(Part)
        if self.part is not None and self.part not in parts:
            raise UserError(
                f"part must be one of {', '.join(parts)}, got {self.part!r}{suggest(self.part, parts)}"
            )


def chosen(
    reference: Reference, data: Data, seed: int, progress: Callable[[int, int], None] | None = None
) -> Chosen:
    """The images of a reference as a run on `data` sees them: in its size and channels, and split as it
    splits them by its `seed`.
    """
    source = reference.data or data.source
    part = reference.part or ("valid" if reference.data is None else "all")
    images = open_images(source, data.size, data.channels, progress=progress)
    if part == "all":
        return Chosen(images, np.arange(len(images)), source, part)
    train, valid = split(images, data.valid, seed)
    return Chosen(images, valid if part == "valid" else train, source, part)
