"""Convert a time budget to a number of images, and plan anew when the speed changes much."""

from __future__ import annotations

import time

from ddim.training.loop import Training

MEASURED = 60.0
"""Seconds of training over which the speed is measured; a tenth of the budget if that is shorter."""

WARM_UP = 3
"""Number of first steps that are not timed, because compilation and memory allocation slow them down."""

TOLERATED = 0.1
"""The part of the budget by which the expected end may be early or late without a new plan."""


class TimeBudget:
    """Converts the minutes of a recipe to a number of images, by the speed of training.

    A resumed run keeps the number of images of its checkpoint, so that it continues exactly.

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
        """Measure the speed anew, after some steps that are not timed."""
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
        """Take the seconds of a validation out of the measurement, and expect them of each later one."""
        self.validation = validation
        if self.marked is not None:
            self.marked = self.marked[0] + validation, self.marked[1]

    def fix_total(self) -> None:
        """Set the number of images of the training, after a validation."""
        self._plan(self._left(self.training.recipe.report.events), 0)

    def replan(self) -> str | None:
        """Set the number of images anew if the end would be early or late by a tenth of the budget.

        Returns:
            A sentence that says so; None if the plan holds, or the speed is not yet measured.
        """
        training, total = self.training, self.training.plan.total
        if total is None or not self.is_measured():
            return None
        coming = sum(step > training.step for step in training.validation_steps())
        left, speed = self._left(coming), self._speed()
        if abs((total - training.seen) / speed - left) <= TOLERATED * self.seconds:
            self.marked = time.monotonic(), training.seen
            return None
        # The last step validates, so that there must be one.
        self._plan(left, training.recipe.optim.batch)
        return (
            f"{speed:.1f} images/s now: {training.plan.total:,} images are planned instead of {total:,}, "
            "to end in time"
        )

    def _left(self, validations: int) -> float:
        """Return the seconds that are left for training beside a number of validations."""
        return max(0.0, self.deadline - time.monotonic() - validations * self.validation)

    def _speed(self) -> float:
        begin, seen = self.marked or (time.monotonic(), 0)
        return (self.training.seen - seen) / max(1e-9, time.monotonic() - begin)

    def _plan(self, left: float, least: int) -> None:
        self.training.fix_total(self.training.seen + max(least, round(self._speed() * left)))
        self.marked = time.monotonic(), self.training.seen
