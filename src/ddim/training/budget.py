"""Convert a time budget to a number of images."""

from __future__ import annotations

import time

from ddim.training.loop import Training

MEASURED = 60.0
"""Seconds of training over which the speed is measured; a tenth of the budget if that is shorter."""

WARM_UP = 3
"""Number of first steps that are not timed, because compilation and memory allocation slow them down."""


class TimeBudget:
    """Converts the minutes of a recipe to a number of images, once, by the speed at the start of training.

    Args:
        training: the training whose speed is measured.
        began: `time.monotonic()` when the command started, because the time to read the images counts too.
    """

    def __init__(self, training: Training, began: float) -> None:
        self.seconds = training.recipe.minutes * 60
        self.deadline = began + self.seconds
        self.training, self.first = training, training.step
        self.marked: tuple[float, int] | None = None

    def is_measured(self) -> bool:
        """Return whether the speed has been measured."""
        if self.training.step - self.first < WARM_UP:
            return False
        if self.marked is None:
            self.marked = time.monotonic(), self.training.seen
        measured = min(MEASURED, self.seconds / 10)
        return time.monotonic() - self.marked[0] >= measured and self.training.seen > self.marked[1]

    def fix_total(self, validation: float) -> None:
        """Set the number of images of the training, if each later validation takes `validation` seconds."""
        training, now = self.training, time.monotonic() - validation
        begin, seen = self.marked or (now, 0)
        pace = (training.seen - seen) / max(1e-9, now - begin)
        left = self.deadline - time.monotonic() - validation * training.recipe.report.events
        training.fix_total(training.seen + round(pace * max(0.0, left)))
