"""The images that samples are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from ddim.data import Images, SplitImages, open_images, split_images
from ddim.data.arrays import GivenImages
from ddim.data.values import EIGHT_BITS, Reading, Values, choose_channels
from ddim.errors import UserError
from ddim.machine.progress import Progress, ignore_progress, watch_reading
from ddim.metrics.catalogue import LEAST
from ddim.metrics.features import Extractor
from ddim.recipe.recipe import Data
from ddim.runs.names import is_run_folder
from ddim.sampling.image_features import ImageSet, compute_features
from ddim.sampling.images import open_run_images
from ddim.sampling.pipeline import LoadedRun, Pipeline

Part = Literal["valid", "train", "all"]


@dataclass(frozen=True)
class Reference:
    """The images that samples are compared with.

    Args:
        data: a folder, an archive, the name of a data set or images in memory; None for the run's own.
        part: "valid", "train" or "all". None means "valid" for the run's own images, and "all" for other
            images.

    Raises:
        UserError: if `data` is a run.
    """

    data: str | Path | GivenImages | None = None
    part: Part | None = None

    def __post_init__(self) -> None:
        if isinstance(self.data, str | Path) and is_run_folder(Path(self.data).expanduser()):
            raise UserError(f"{self.data} is a run: name images, such as those it was trained on or sampled")

    def select(self, split: SplitImages, source: str) -> ImageSet:
        """Return the part of the images of a source."""
        part = self.part or ("all" if self.data else "valid")
        every = np.arange(len(split.images))
        which = {"valid": split.validation, "train": split.train, "all": every}[part]
        return ImageSet(split.images, which, source, part)


def open_reference(
    run: Pipeline,
    reference: Reference = Reference(),
    progress: Progress = ignore_progress,  # noqa: B008
) -> ImageSet:
    """Return the images of a reference, decoded, and split into training and held-out images as in `run`.

    Raises:
        UserError: if the images cannot be opened. Also if they are the run's own images, and have changed.
    """
    data = run.recipe.data
    if reference.data is not None or not isinstance(run, LoadedRun):
        data = replace(data, channels=choose_channels(run.model.shape.channels))
        return open_other_images(reference, data, run.recipe.split_seed, run.values, progress)
    try:
        return reference.select(open_run_images(run, progress), data.source)
    except UserError as error:
        raise UserError(f"{error}; or name other images as the reference") from None


def open_other_images(
    reference: Reference,
    data: Data,
    seed: int = 0,
    values: Values = EIGHT_BITS,
    progress: Progress = ignore_progress,
) -> ImageSet:
    """Return the images of a reference that are not a run's own, decoded and split as `data` says.

    Args:
        reference: the choice of the images.
        data: the size, the channels and the validation share.
        seed: the seed of the split; see `Recipe.split_seed`.
        values: the type and range of other values, whose range these images share.
        progress: called while images are decoded.

    Raises:
        UserError: if the images cannot be opened, or `reference` names none.
    """
    if reference.data is None:
        raise UserError("only a run has images of its own: name the reference images")
    axis, watch = Reading(axis=data.axis), watch_reading(progress)
    source = reference.data.text if isinstance(reference.data, GivenImages) else str(reference.data)
    images = open_images(source, data.size, data.channels, reading=axis, progress=watch)
    split = split_images(share_range(images, values), data.validation, seed)
    return reference.select(split, source)


def share_range(images: Images, values: Values) -> Images:
    """Return images with the range of `values` if their pixels have its type, so that both have one scale.

    Values outside the range are treated as the nearer end.
    """
    return replace(images, values=values) if images.values.type == values.type else images


def compute_validation_features(run: LoadedRun, extractor: Extractor, progress: Progress) -> np.ndarray:
    """Return the features (N, dimensions) of a run's validation images, the reference of searches by KID.

    Args:
        run: the run.
        extractor: the network of the features.
        progress: called while images are decoded, and while features are computed.

    Raises:
        UserError: if the images cannot be opened, or are fewer than `LEAST`, so that their KID says nothing.
    """
    images = open_reference(run, progress=progress)
    if (count := len(images.which)) < LEAST:
        raise UserError(f"KID needs at least {LEAST} held-out images, got {count}")
    return compute_features(images, extractor, partial(progress, "features of the reference"))
