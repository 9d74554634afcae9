"""The images that samples are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ddim.data import Images, open_images, split_images
from ddim.data.values import EIGHT_BITS, Reading, Values, choose_channels
from ddim.errors import UserError, suggest
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
        data: a folder, an archive or the name of a data set; None for the run's own images.
        part: "valid", "train" or "all". None means "valid" for the run's own images, and "all" for other
            images.

    Raises:
        UserError: if `part` is another word, or `data` is neither a path nor a name, or is a run.
    """

    data: str | None = None
    part: Part | None = None

    def __post_init__(self) -> None:
        parts = get_args(Part)
        if self.part not in (None, *parts):
            hint = suggest(str(self.part), parts)
            raise UserError(f"part must be one of {', '.join(parts)}, got {self.part!r}{hint}")
        if self.data is not None and is_run_folder(Path(self.data).expanduser()):
            raise UserError(f"{self.data} is a run: name images, such as those it was trained on or sampled")


def share_range(images: Images, values: Values) -> Images:
    """Return images with the range of `values` if their pixels have its type, so that both have one scale.

    Values outside the range are treated as the nearer end.
    """
    return replace(images, values=values) if images.values.type == values.type else images


def select_reference(
    reference: Reference,
    data: Data,
    seed: int,
    progress: Progress = ignore_progress,
    values: Values = EIGHT_BITS,
) -> ImageSet:
    """Return the images of a reference, decoded and split as for a run.

    Args:
        reference: the choice of the images.
        data: the run's data fields, which define the size, the channels and the validation share.
        seed: the seed of the split; see `Recipe.split_seed`.
        progress: called while images are decoded.
        values: the type and range of the values of the run, whose range other images share.
    """
    source = reference.data or data.source
    reading = data.reading if reference.data is None else Reading(axis=data.axis)
    images = open_images(source, data.size, data.channels, reading=reading, progress=watch_reading(progress))
    images = images if reference.data is None else share_range(images, values)
    return _select_part(reference, images, data, seed)


def _select_part(reference: Reference, images: Images, data: Data, seed: int) -> ImageSet:
    part, which = reference.part or ("all" if reference.data else "valid"), np.arange(len(images))
    if part != "all":
        parts = split_images(images, data.validation, seed)
        which = parts.validation if part == "valid" else parts.train
    return ImageSet(images, which, reference.data or data.source, part)


def open_reference(
    run: Pipeline,
    reference: Reference = Reference(),
    progress: Progress = ignore_progress,  # noqa: B008
) -> ImageSet:
    """Return the images of a reference, decoded, and split into training and held-out images as in `run`.

    Raises:
        UserError: if the images cannot be opened. Also if they are the run's own images, and have changed.
    """
    data, seed = run.recipe.data, run.recipe.split_seed
    if reference.data is not None or not isinstance(run, LoadedRun):
        data = replace(data, channels=choose_channels(run.model.shape.channels))
        return select_reference(reference, data, seed, progress, run.values)
    try:
        return _select_part(reference, open_run_images(run, progress).images, data, seed)
    except UserError as error:
        raise UserError(f"{error}; or name other images as the reference") from None


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
