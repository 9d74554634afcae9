"""Convert a time budget to a training length in images, and change the length if the speed changes much."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch

from ddim.diffusion.noise import Noise
from ddim.diffusion.pixels import Pixels
from ddim.machine.runtime import Precision, Runtime, count_cores
from ddim.recipe.recipe import Recipe, build_model
from ddim.runs.state import Plan

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


class Budgeted(Protocol):
    """The parts of a training that `TimeBudget` uses; the training is a `Training` or a simulated one."""

    step: int
    plan: Plan
    recipe: Recipe

    @property
    def seen(self) -> int:
        """Images seen so far."""
        ...

    def validation_steps(self) -> set[int]:
        """Return the steps after which the training validates."""
        ...

    def fix_total(self, total: int) -> None:
        """Set the training length to about `total` images."""
        ...


class TimeBudget:
    """Converts the minutes of a recipe to a training length, using the measured speed of training.

    The training length is the number of images to process, where each repetition of an image counts. A
    resumed run keeps the length in its checkpoint, so that it continues exactly.

    Args:
        training: the training whose speed is measured.
        began: time of `clock` when the command started; the time to read the images counts too.
        clock: returns the time in seconds, by default `time.monotonic`.
    """

    def __init__(self, training: Budgeted, began: float, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or time.monotonic
        self.seconds = training.recipe.minutes * 60
        self.window = min(MEASURED, self.seconds / 10)
        self.deadline = began + self.seconds
        self.training, self.active = training, training.plan.total is None
        self.validations: list[float] = []
        self.restart()

    def restart(self) -> None:
        """Measure the speed anew, after the next `WARM_UP` steps, which are not timed."""
        self.first = self.training.step
        self.marked: tuple[float, int] | None = None
        # `previous` holds the images and seconds of the last measurement. `direction` is +1 if this
        # measurement asked for more images, -1 if it asked for fewer, else 0.
        self.previous, self.direction = (0, 0.0), 0

    def is_measured(self) -> bool:
        """Return whether the speed has been measured.

        The result is always False if the training length was known when this object was created.
        """
        if not self.active or self.training.step - self.first < WARM_UP:
            return False
        if self.marked is None:
            self.marked = self.clock(), self.training.seen
        return self._measure()[1] >= self.window and self.training.seen > self.marked[1]

    def spend(self, validation: float) -> None:
        """Record how many seconds a validation took.

        These seconds do not count as training time. The durations of later validations are estimated from
        them.
        """
        self.validations.append(validation)
        if self.marked is not None:
            self.marked = self.marked[0] + validation, self.marked[1]

    def fix_total(self) -> None:
        """Set the training length; `spend` must have recorded the duration of a validation before."""
        images, seconds = self._measure()
        self._plan(images / seconds, self._left(self.training.recipe.report.events), 0)

    def replan(self) -> str | None:
        """Change the training length if the run would end early or late by over a tenth of the time budget.

        The length changes only if two measurements in a row ask for a change in the same direction. So a
        short disturbance does not change the length. Near the end one measurement is enough.

        Returns:
            A sentence about the change; None if nothing changes, or the speed is not yet measured.
        """
        training, total = self.training, self.training.plan.total
        if total is None or not self.is_measured():
            return None
        coming = sum(step > training.step for step in training.validation_steps())
        left, (images, seconds) = self._left(coming), self._measure()
        needed = (total - training.seen) * seconds / images
        early = left - needed
        direction = 0 if abs(early) <= TOLERATED * self.seconds else 1 if early > 0 else -1
        agreed = direction != 0 and direction == self.direction
        urgent = min(left, needed) < 2 * self.window
        if agreed:
            images, seconds = images + self.previous[0], seconds + self.previous[1]
        self.previous, self.direction = (images, seconds), direction
        self.marked = self.clock(), training.seen
        if not direction or not (agreed or urgent):
            return None
        speed = images / seconds
        # At least one more step is planned, because the run validates after its last step.
        self._plan(speed, left, training.recipe.optim.batch)
        return (
            f"{speed:.1f} images/s now: {training.plan.total:,} images are planned instead of {total:,}, "
            "to end in time"
        )

    def _left(self, validations: int) -> float:
        """Return the seconds left for training, if this number of validations is still to come.

        Each of these validations is expected to take as long as the fastest validation so far.
        """
        left = max(0.0, self.deadline - self.clock())
        least = TRAINED if len(self.validations) > 1 else TRAINED_AT_FIRST
        return max(least * left, left - validations * min(self.validations, default=0.0))

    def _measure(self) -> tuple[int, float]:
        """Return the images and the seconds of training since the measurement began."""
        begin, seen = self.marked or (self.clock(), 0)
        return self.training.seen - seen, max(1e-9, self.clock() - begin)

    def _plan(self, speed: float, left: float, least: int) -> None:
        self.training.fix_total(self.training.seen + max(least, round(speed * left)))
        self.marked, self.direction = (self.clock(), self.training.seen), 0


def estimate_seconds(
    recipe: Recipe, channels: int, device: str, threads: int | None, processes: int = 1
) -> float:
    """Return the estimated duration of a run in seconds."""
    if recipe.images is None:
        return recipe.minutes * 60
    return time_image(recipe, channels) * recipe.images / (threads or count_cores()) / processes


def time_image(recipe: Recipe, channels: int, precision: Precision = "fp32") -> float:
    """Return the seconds of processor time that training takes for one image, on one thread.

    Three updates of four blank images are run, and the fastest one counts. If an image takes more than a
    second, one update of two images is enough. Processor time does not depend on other programs.

    Args:
        recipe: the recipe; its images are not read.
        channels: number of channels of the images.
        precision: the precision of the network.
    """
    # Initial weights and dropout must not change the caller's random state.
    runtime = Runtime(precision=precision)
    with torch.random.fork_rng(devices=[]), runtime:
        model = runtime.place(build_model(recipe, channels))
        pixels, measure = Pixels.fixed(0.5, 0.5, model.shape.channels), recipe.objective.at(0.5, 0)

        def update(count: int) -> float:
            x0 = runtime.images(Noise(range(count)).like(model.blank(count)))
            begin = time.thread_time()
            with runtime.precise():
                denoise = model.with_blank_labels(count)
                loss = measure(denoise, x0, torch.full((count,), 0.5), x0, pixels).mean()
            loss.backward()
            return (time.thread_time() - begin) / count

        first = update(2)
        return first if first > 1 else min(update(4) for _ in range(3))
