"""Callbacks: what a user's code can do while a training runs."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddim.recipe.codec import dump
from ddim.recipe.options import flatten_as_text
from ddim.training.trainer import Trainer


class Callback:
    """Base class of callbacks: each method does nothing unless a subclass overrides it.

    A method may call `training.stop("a reason")`: the run is saved after this step and ends.

    Example:
        >>> class StopEarly(ddim.Callback):
        ...     def on_validation(self, training, values):
        ...         if values["image_mae"] < 0.2:
        ...             training.stop("good enough")
        >>> ddim.train("photos/", callbacks=[StopEarly()])
    """

    def on_start(self, training: Trainer, folder: Path) -> None:
        """Called before the first step of this process, in a new or a resumed run."""

    def on_step(self, training: Trainer, values: Mapping[str, float]) -> None:
        """Called after each step, with its loss, gradient norm and learning rate; see `StepValues`."""

    def on_log(self, training: Trainer, values: Mapping[str, float]) -> None:
        """Called after each line of the log, with its values.

        These are mean losses, results of a validation, or the threads and planned images after a change.
        """

    def on_sheet(self, training: Trainer, sheet: np.ndarray) -> None:
        """Called at each validation, before `on_validation`, with a sheet of samples (H, W, 3) uint8."""

    def on_validation(self, training: Trainer, values: dict[str, float]) -> None:
        """Called after each validation, with its results."""

    def on_checkpoint(self, training: Trainer, path: Path) -> None:
        """Called after each checkpoint, with its folder."""

    def on_change(self, training: Trainer, text: str) -> None:
        """Called with a sentence when the training changes, or when other programs slow it down.

        The training length can change, and so can the numbers of threads and parts of a batch.
        """

    def on_end(self, training: Trainer) -> None:
        """Called after the last step of this process, whether the run is finished or stopped."""


def describe_choices(training: Trainer) -> dict[str, str]:
    """Return the recipe of a training as text, keyed by field path; "recipe" is its name."""
    return {"recipe": training.recipe.name, **flatten_as_text(dump(training.recipe))}
