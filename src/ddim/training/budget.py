"""Convert a time budget to a training length in images."""

import time

from ddim.training.trainer import Trainer

MEASURED = 60.0
"""Seconds of training over which the speed is measured; a tenth of the budget if that is shorter."""

WARM_UP = 3
"""Number of first steps that are not timed, because compilation and memory allocation slow them down."""

TOLERATED = 0.1
"""The length is changed if the run would end early or late by more than this fraction of its time budget."""

TRAINED_AT_FIRST = 0.75
"""After the first validation, at least this fraction of the remaining time is planned for training.

The first validation is slow, because it compiles the sampling steps. So its duration says little about later
validations.
"""

TRAINED = 0.25
"""The same fraction after two or more validations."""


class TimeBudget:
    """Converts the minutes of a recipe to a training length: at the start, and again at each validation.

    The training length is the number of images to process, where each repetition of an image counts. A
    resumed run keeps the length in its checkpoint, so that it continues exactly.

    Args:
        training: the training whose speed is measured.
        began: `time.monotonic()` when the command started; the time to read the images counts too.
    """

    def __init__(self, training: Trainer, began: float) -> None:
        self.training, self.active = training, training.plan.total is None
        self.seconds = training.recipe.minutes * 60
        self.deadline = began + self.seconds
        self.first, self.validations = training.step, list[float]()
        # The time and the images seen when the measurement of the speed began.
        self.mark: tuple[float, int] | None = None

    def restart(self) -> None:
        """Measure the speed anew from here on."""
        self.mark = time.monotonic(), self.training.seen

    def is_measured(self) -> bool:
        """Return whether the speed is known, so that a training length can be planned."""
        if not self.active or self.training.step - self.first < WARM_UP:
            return False
        if self.mark is None:
            self.restart()
        images, seconds = self._measure()
        return images > 0 and seconds >= min(MEASURED, self.seconds / 10)

    def spend(self, validation: float) -> None:
        """Record how many seconds a validation took, which do not count as training time."""
        self.validations.append(validation)
        if self.mark is not None:
            self.mark = self.mark[0] + validation, self.mark[1]

    def plan(self) -> str:
        """Set the training length after the first validation; change it if the run would not end in time.

        Returns:
            A sentence about a change; "" if there was no length before, or it stays.
        """
        training, total = self.training, self.training.plan.total
        if training.finished or not self.is_measured():
            return ""
        images, seconds = self._measure()
        speed = images / seconds
        if total is None:
            left, least = self._left(training.recipe.report.events), 0
        else:
            left = self._left(sum(step > training.step for step in training.validation_steps()))
            # The run validates after its last step, and this step is validated already.
            least = training.recipe.optim.batch
        self.restart()
        if total and abs(left - (total - training.seen) / speed) <= TOLERATED * self.seconds:
            return ""
        training.fix_total(training.seen + max(least, round(speed * left)))
        planned = f"{training.plan.total:,} images are planned instead of {total or 0:,}, to end in time"
        return f"{speed:.1f} images/s now: {planned}" if total else ""

    def _measure(self) -> tuple[int, float]:
        """Return the images and the seconds of training since the measurement began."""
        begin, seen = self.mark or (time.monotonic(), 0)
        return self.training.seen - seen, max(1e-9, time.monotonic() - begin)

    def _left(self, validations: int) -> float:
        """Return the seconds left for training, if this number of validations is still to come.

        Each of these validations is expected to take as long as the fastest validation so far.
        """
        left = max(0.0, self.deadline - time.monotonic())
        least = TRAINED if len(self.validations) > 1 else TRAINED_AT_FIRST
        return max(least * left, left - validations * min(self.validations, default=0.0))
