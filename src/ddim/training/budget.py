"""A time budget, turned into a number of images."""

from __future__ import annotations

import time

from ddim.training.loop import Training

MEASURED = 60.0
"""Seconds of training after which the pace is known; a tenth of the budget if the tenth is shorter."""

WARM_UP = 3
"""Updates that are not timed: in them the network is compiled and its memory laid out."""


class TimeBudget:
    """Turns the minutes of a recipe into a number of images, once, from the pace at the start.

    Args:
        training: the training whose pace is measured.
        began: `time.monotonic()` when the command started; reading the images counts too.
    """

    def __init__(self, training: Training, began: float) -> None:
        self.seconds = training.recipe.minutes * 60
        self.deadline = began + self.seconds
        self.training, self.first = training, training.step
        self.marked: tuple[float, int] | None = None

    def is_measured(self) -> bool:
        """Return whether the pace is known."""
        if self.training.step - self.first < WARM_UP:
            return False
        if self.marked is None:
            self.marked = time.monotonic(), self.training.seen
        measured = min(MEASURED, self.seconds / 10)
        return time.monotonic() - self.marked[0] >= measured and self.training.seen > self.marked[1]

    def fix_total(self, validation: float) -> None:
        """Fix the number of images; each validation to come takes `validation` seconds of the budget."""
        training, now = self.training, time.monotonic() - validation
        begin, seen = self.marked or (now, 0)
        pace = (training.seen - seen) / max(1e-9, now - begin)
        left = self.deadline - time.monotonic() - validation * training.recipe.report.events
        training.fix_total(training.seen + round(pace * max(0.0, left)))
