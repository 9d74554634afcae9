"""Forecast how many images a run will see, by planning its time budget on a simulated training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ddim.recipe.recipe import Recipe
from ddim.runs.state import Plan
from ddim.training.budget import TRAINED, WARM_UP, TimeBudget
from ddim.training.speed import Speed

LONG = 200_000
"""A run of more steps than this with a budget in minutes is not simulated.

Planning takes almost none of the time of such a long run, so a simple formula is enough.
"""


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to do.

    Attributes:
        images: number of training images that it will see, counting repetitions.
        seconds: how long it will take, from the command to its last validation.
    """

    images: int
    seconds: float


def forecast_run(recipe: Recipe, speed: Speed, reading: float = 0.0) -> Forecast:
    """Return the images that a run of this recipe will see, and its duration.

    The same `TimeBudget` that plans a real training plans a simulated one. So compilation, the measurement of
    the speed and all validations take their part of the minutes, as in the real run.

    Args:
        recipe: the recipe, with its budget in minutes or images.
        speed: the measured speed of training.
        reading: seconds to open the images, before training is prepared.
    """
    aside = reading + speed.start + speed.warm_up
    warm = WARM_UP * recipe.optim.batch
    if recipe.images is not None:
        images = math.ceil(recipe.images / recipe.optim.batch) * recipe.optim.batch
        events = len(Plan(recipe.images).validation_steps(recipe.report.events, recipe.optim.batch))
        seconds = aside + max(0, images - warm) / speed.images_per_second + events * speed.validation
        return Forecast(images, seconds)
    seconds = recipe.minutes * 60
    if seconds * speed.images_per_second <= LONG * recipe.optim.batch:
        return _simulate(_SimulatedRun(recipe, speed, reading + speed.start), speed)
    # One validation ends the measurement of the speed.
    left = seconds - aside
    left = max(TRAINED * left, left - (recipe.report.events + 1) * speed.validation, 0.0)
    return Forecast(warm + round(left * speed.images_per_second), seconds)


def _simulate(run: _SimulatedRun, speed: Speed) -> Forecast:
    """Train a simulated run as in `ddim.training.fit`, until its budget is used up; return the forecast."""
    budget = TimeBudget(run, 0.0, lambda: run.now)
    while run.plan.total is None or run.seen < run.plan.total:
        run.advance()
        if run.plan.total is None:
            if budget.is_measured():
                _validate(run, budget, speed)
                budget.fix_total()
        elif run.step in run.validation_steps():
            _validate(run, budget, speed)
        else:
            budget.replan()
    return Forecast(run.seen, run.now)


class _SimulatedRun:
    """A training that only counts its steps and their seconds; see `Budgeted`."""

    def __init__(self, recipe: Recipe, speed: Speed, start: float) -> None:
        self.recipe, self.plan = recipe, Plan(recipe.images)
        self.step, self.now = 0, start
        self.slow, self.usual = speed.warm_up / WARM_UP, recipe.optim.batch / speed.images_per_second
        self._steps: tuple[int | None, set[int]] = (None, set())

    @property
    def seen(self) -> int:
        """Images seen so far."""
        return self.step * self.recipe.optim.batch

    def advance(self) -> None:
        """Count one step."""
        self.now += self.slow if self.step < WARM_UP else self.usual
        self.step += 1

    def validation_steps(self) -> set[int]:
        """Return the steps after which the run validates; they are cached until its length changes."""
        if self._steps[0] != self.plan.total:
            found = self.plan.validation_steps(self.recipe.report.events, self.recipe.optim.batch)
            self._steps = self.plan.total, found
        return self._steps[1]

    def fix_total(self, total: int) -> None:
        """Set the length of the run."""
        self.plan = self.plan.fixed(total, self.seen, self.recipe.optim.batch)


def _validate(run: _SimulatedRun, budget: TimeBudget, speed: Speed) -> None:
    run.now += speed.validation
    budget.spend(speed.validation)
