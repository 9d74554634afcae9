"""Convert a time budget to a training length in images, and change the length if the speed changes much."""

from __future__ import annotations

import time

from ddim.training.loop import Training

MEASURED = 60.0
"""Seconds of training over which the speed is measured; a tenth of the budget if that is shorter."""

WARM_UP = 3
"""Number of first steps that are not timed, because compilation and memory allocation slow them down."""

TOLERATED = 0.1
"""The fraction of the time budget by which the run may end early or late before its length is changed."""


class TimeBudget:
    """Converts the minutes of a recipe to a training length, using the measured speed of training.

    The training length is the number of images to process, where each repetition of an image counts. A
    resumed run keeps the length in its checkpoint, so that it continues exactly.

    Args:
        training: the training whose speed is measured.
        began: `time.monotonic()` when the command started, because the time to read the images counts too.
    """

    def __init__(self, training: Training, began: float) -> None:
        self.seconds = training.recipe.minutes * 60
        self.deadline = began + self.seconds
        self.training, self.active = training, training.plan.total is None
        self.validation = 0.0
        self.restart()

    def restart(self) -> None:
        """Measure the speed anew, after the next `WARM_UP` steps, which are not timed."""
        self.first = self.training.step
        self.marked: tuple[float, int] | None = None

    def is_measured(self) -> bool:
        """Return whether the speed has been measured."""
        if not self.active or self.training.step - self.first < WARM_UP:
            return False
        if self.marked is None:
            self.marked = time.monotonic(), self.training.seen
        measured = min(MEASURED, self.seconds / 10)
        return time.monotonic() - self.marked[0] >= measured and self.training.seen > self.marked[1]

    def spend(self, validation: float) -> None:
        """Leave the seconds of a validation out of the speed, and plan as many for each later validation."""
        self.validation = validation
        if self.marked is not None:
            self.marked = self.marked[0] + validation, self.marked[1]

    def fix_total(self) -> None:
        """Set the training length; `spend` must have recorded the duration of a validation before."""
        self._plan(self._left(self.training.recipe.report.events), 0)

    def replan(self) -> str | None:
        """Change the training length if the run would end early or late by a tenth of the time budget.

        Returns:
            A sentence about the change; None if nothing changes, or the speed is not yet measured.
        """
        training, total = self.training, self.training.plan.total
        if total is None or not self.is_measured():
            return None
        coming = sum(step > training.step for step in training.validation_steps())
        left, speed = self._left(coming), self._speed()
        if abs((total - training.seen) / speed - left) <= TOLERATED * self.seconds:
            self.marked = time.monotonic(), training.seen
            return None
        # At least one more step is planned, because the run validates after its last step.
        self._plan(left, training.recipe.optim.batch)
        return (
            f"{speed:.1f} images/s now: {training.plan.total:,} images are planned instead of {total:,}, "
            "to end in time"
        )

    def _left(self, validations: int) -> float:
        """Return the seconds left for training if a number of validations is still to come."""
        return max(0.0, self.deadline - time.monotonic() - validations * self.validation)

    def _speed(self) -> float:
        begin, seen = self.marked or (time.monotonic(), 0)
        return (self.training.seen - seen) / max(1e-9, time.monotonic() - begin)

    def _plan(self, left: float, least: int) -> None:
        self.training.fix_total(self.training.seen + max(least, round(self._speed() * left)))
        self.marked = time.monotonic(), self.training.seen
