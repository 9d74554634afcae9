"""The images of a run, as it saw and split them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from ddim.data import Images, SplitImages, open_images, split_images
from ddim.data.batch import gather_batch, to_unit
from ddim.data.open import source_exists
from ddim.errors import UserError
from ddim.runs.pipeline import LoadedRun


def open_run_images(trained: LoadedRun, progress: Callable[[int, int], None] | None = None) -> SplitImages:
    """The images that a run was trained on. UserError where they are not there or are others by now."""
    check_run_images(trained)
    d = trained.recipe.data
    images = open_images(d.source, d.size, trained.checkpoint.state.channels, progress=progress)
    check_unchanged(trained, images)
    return split_images(images, d.validation, trained.recipe.seed)


def check_run_images(trained: LoadedRun, otherwise: str = "") -> None:
    """UserError for a run that was imported, and not trained on its recipe's images, before they are opened;
    and where they are not there. `otherwise` says what can be done.
    """
    run = trained.checkpoint.run
    if trained.checkpoint.state.images is None:
        said = f": {otherwise}" if otherwise else ""
        raise UserError(f"run {run} was imported and has no images of its own{said}")
    check_source_exists(run, trained.recipe.data.source, otherwise)


def check_source_exists(run: Path, source: str, otherwise: str = "") -> None:
    """UserError where nothing lies at the source of a run's images; `otherwise` says what else can be done.

    The path of a recipe may be one that holds only where the run was trained.
    """
    if not source_exists(source):
        said = f", or {otherwise}" if otherwise else ""
        raise UserError(
            f"the images of run {run}, {source!r}, are not there, seen from {Path.cwd()}: "
            f"put them back, or go where it was trained{said}"
        )


def check_unchanged(trained: LoadedRun, images: Images, otherwise: str = "put its images back") -> None:
    """UserError where images read from a run's source are not those of its training.

    Split anew, images that trained the run would pass for held out. `otherwise` says what can be done.
    """
    known = trained.checkpoint.state.images
    if known is None or images.fingerprint != known.fingerprint:
        run, source = trained.checkpoint.run, trained.recipe.data.source
        raise UserError(f"data {source} has changed since {run} was trained on it: {otherwise}")


def to_model_batches(trained: LoadedRun, images: Images, which: np.ndarray) -> Iterator[Tensor]:
    """Batches (B, C, H, W) in model units of the images at these indices, as the run's network takes them."""
    size = trained.runtime.micro_batch
    for first in range(0, len(which), size):
        part = to_unit(gather_batch(images, which[first : first + size]))
        yield trained.runtime.images(trained.pixels.enter(part))
