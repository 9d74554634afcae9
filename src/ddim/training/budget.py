"""Convert a time budget to a training length in images."""

import time

from ddim.training.trainer import Trainer

MEASURED = 60.0
"""Seconds of training over which the speed is measured; a tenth of the budget if that is shorter."""

WARM_UP = 3
"""Number of first steps that are not timed, because compilation and memory allocation slow them down."""

TOLERATED = 0.1
"""The length is changed if the run would end early or late by more than this fraction of its time budget."""

TRAINED = 0.25
"""At least this fraction of the remaining time is planned for training, whatever `report.events` asks for."""


class TimeBudget:
    """Converts the minutes of a recipe to a training length: when the speed is known, and at each validation.

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
        """Set the training length if the speed is known; change it if the run would not end in time.

        Returns:
            A sentence about a change; "" if there was no length before, or it stays.
        """
        training, total = self.training, self.training.plan.total
        if training.finished or not self.is_measured():
            return ""
        images, seconds = self._measure()
        speed = images / seconds
        if total is None:
            most = training.seen + round(speed * self._left())
            events, share = training.plan_validations(most)
            least = 0
        else:
            events = sum(step > training.step for step in training.validation_steps())
            _, share = training.plan_validations(total)
            # The run validates after its last step, and this step is validated already.
            least = training.recipe.optim.batch
        left = self._left_for_training(events, share * training.validation_cost / speed)
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

    def _left(self) -> float:
        """Return the seconds left until the deadline."""
        return max(0.0, self.deadline - time.monotonic())

    def _left_for_training(self, validations: int, expected: float) -> float:
        """Return the seconds left for training, if this number of validations is still to come.

        Each of them is expected to take as long as the fastest validation so far; `expected` seconds before
        the first one.
        """
        each = min(self.validations, default=expected)
        return max(TRAINED * self._left(), self._left() - validations * each)
