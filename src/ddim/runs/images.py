"""Open the images that a run was trained on, with their split into training and validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from ddim.data import Images, SplitImages, open_images, split_images
from ddim.data.batch import gather_batch, to_unit
from ddim.data.given import PREFIX
from ddim.data.open import source_exists
from ddim.errors import UserError
from ddim.runs.pipeline import LoadedRun


def open_run_images(trained: LoadedRun, progress: Callable[[int, int], None] | None = None) -> SplitImages:
    """Open the images that a run was trained on, with the split of its training.

    `progress` is called with (done, total) while images are decoded.

    Raises:
        UserError: if they are missing or have changed.
    """
    check_run_images(trained)
    d = trained.recipe.data
    images = open_images(d.source, d.size, trained.checkpoint.state.channels, progress=progress)
    check_unchanged(trained, images)
    return split_images(images, d.validation, trained.recipe.seed)


def check_run_images(trained: LoadedRun, otherwise: str = "") -> None:
    """Check that a run has training images and that they still exist, without opening them.

    Raises:
        UserError: if the run was imported or its images are missing; `otherwise` ends the message with
            another thing to do.
    """
    run = trained.checkpoint.run
    if trained.checkpoint.state.images is None:
        said = f": {otherwise}" if otherwise else ""
        raise UserError(f"run {run} was imported and has no training images{said}")
    check_source_exists(run, trained.recipe.data.source, otherwise)


def check_source_exists(run: Path, source: str, otherwise: str = "") -> None:
    """Check that the source of a run's training images exists.

    A relative path in a recipe is valid only in the folder where the run was trained.

    Args:
        run: the run folder, for the message.
        source: the source of the images.
        otherwise: another thing to do, for the end of the message.

    Raises:
        UserError: if the source does not exist.
    """
    if source.startswith(PREFIX) and not source_exists(source):
        raise UserError(
            f"the images of run {run} were given from Python as {source.removeprefix(PREFIX)}: give them "
            f"again, as in ddim.resume(run, data=images){f', or {otherwise}' if otherwise else ''}"
        )
    if not source_exists(source):
        said = f", or {otherwise}" if otherwise else ""
        raise UserError(
            f"the images of run {run}, {source!r}, do not exist, seen from {Path.cwd()}: "
            f"put them back, or change to the folder where the run was trained{said}"
        )


def check_unchanged(trained: LoadedRun, images: Images, otherwise: str = "put its images back") -> None:
    """Check that images, opened from the source of a run, are the same as in its training.

    Other images have another split, in which training images could count as held-out images.

    Args:
        trained: the run.
        images: the opened images.
        otherwise: what to do, for the end of the message.

    Raises:
        UserError: if the images have changed.
    """
    known = trained.checkpoint.state.images
    if known is None or images.fingerprint != known.fingerprint:
        run, source = trained.checkpoint.run, trained.recipe.data.source
        raise UserError(f"data {source} has changed since {run} was trained on it: {otherwise}")


def to_model_batches(trained: LoadedRun, images: Images, which: np.ndarray) -> Iterator[Tensor]:
    """Yield the images at indices `which` as batches (B, C, H, W) in model units, on the run's device."""
    size = trained.runtime.micro_batch
    for first in range(0, len(which), size):
        part = to_unit(gather_batch(images, which[first : first + size]))
        yield trained.runtime.images(trained.pixels.enter(part))
