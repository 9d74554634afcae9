"""The images that samples are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ddim.data import Images, open_images, split_images
from ddim.data.values import EIGHT_BITS, Reading, Values, choose_channels
from ddim.errors import UserError, describe_given, suggest
from ddim.machine.progress import Progress, ignore_progress, watch_reading
from ddim.metrics.catalogue import LEAST
from ddim.metrics.features import Extractor
from ddim.recipe.recipe import Data
from ddim.runs.names import is_run_folder
from ddim.sampling.image_features import ImageSet, compute_features
from ddim.sampling.images import reopen_run_images
from ddim.sampling.pipeline import LoadedRun

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
        if self.part is not None and self.part not in parts:
            raise UserError(
                f"part must be one of {', '.join(parts)}, got {self.part!r}{suggest(str(self.part), parts)}"
            )
        if self.data is not None:
            # JSON, in which records are written, refuses paths.
            object.__setattr__(self, "data", name_source(self.data))


def name_source(reference: str | Path) -> str:
    """Return the source of reference images as text.

    Raises:
        UserError: if `reference` is neither a path nor a name. Also if it is the folder of a run, because the
            images in this folder are sheets of samples.
    """
    if not isinstance(reference, str | Path):
        raise UserError(
            f"the reference must be a folder, an archive or a name, got {describe_given(reference)}"
        )
    if is_run_folder(Path(reference).expanduser()):
        raise UserError(
            f"{reference} is a run, and the reference must be images: name the images that the run was "
            "trained on, or a folder of its samples"
        )
    return str(reference)


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
    source = reference.data or data.source
    part = reference.part or ("valid" if reference.data is None else "all")
    if part == "all":
        return ImageSet(images, np.arange(len(images)), source, part)
    parts = split_images(images, data.validation, seed)
    return ImageSet(images, parts.validation if part == "valid" else parts.train, source, part)


def open_reference(
    run: LoadedRun,
    reference: Reference = Reference(),
    progress: Progress = ignore_progress,  # noqa: B008
) -> ImageSet:
    """Return the images of a reference, decoded, and split into training and held-out images as in `run`.

    Raises:
        UserError: if the images cannot be opened. Also if they are the run's own images, and have changed.
    """
    if reference.data is not None:
        data = replace(run.recipe.data, channels=choose_channels(run.model.shape.channels))
        return select_reference(reference, data, run.recipe.split_seed, progress, run.values)
    try:
        images = reopen_run_images(run, progress).images
    except UserError as error:
        raise UserError(f"{error}; or name other images as the reference") from None
    return _select_part(reference, images, run.recipe.data, run.recipe.split_seed)


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
