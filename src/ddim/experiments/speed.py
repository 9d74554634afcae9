"""Measure how fast this machine trains a recipe, and forecast what a run will do with its budget."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

from ddim.data import SplitImages
from ddim.machine.runtime import Runtime
from ddim.recipe.recipe import Recipe
from ddim.runs.state import Plan
from ddim.training.budget import TRAINED, WARM_UP
from ddim.training.memory import advance_within_memory, estimate_memory
from ddim.training.run import start_training
from ddim.training.trainer import Trainer

SECONDS = 6.0
"""Seconds of training steps that are timed; longer if `FEWEST` steps take longer."""

FEWEST = 3
"""Smallest number of training steps that are timed."""

LONGEST = 10.0
"""If a training step is expected to take more seconds than this, it is timed with a smaller batch."""


@dataclass(frozen=True)
class Speed:
    """The measured speed at which this machine trains a recipe.

    Attributes:
        runtime: the device, precision, compilation and threads of the measurement.
        images_per_second: training images per second, not counting the time of validations.
        start: seconds to prepare the training: initial weights, statistics of the pixels.
        warm_up: seconds of the first `WARM_UP` steps with the batch size of the recipe. They include the
            compilation of the network, if it is compiled.
        validation: seconds of one validation: errors on validation images, and samples.
        parameters: number of weights of the network.
        memory: estimated bytes of memory for the training.
        recipe: the recipe; its number of classes is that of the images.
    """

    runtime: Runtime
    images_per_second: float
    start: float
    warm_up: float
    validation: float
    parameters: int
    memory: int
    recipe: Recipe

    def scale(self, factor: float) -> Speed:
        """Return the speed if each image took a `factor`-th of the time."""
        rate = self.images_per_second * factor
        return replace(self, images_per_second=rate, validation=self.validation / factor)

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as plain values."""
        return {
            "device": self.runtime.device,
            "precision": self.runtime.precision,
            "threads": self.runtime.threads,
            "compiled": self.runtime.compile,
            "images_per_second": self.images_per_second,
            "warm_up_seconds": self.warm_up,
            "validation_seconds": self.validation,
        }


def measure_speed(recipe: Recipe, parts: SplitImages, runtime: Runtime, cost: float) -> Speed:
    """Train for `SECONDS` after `WARM_UP` steps, and return the speed.

    No validation is run: a network evaluation is expected to take a third of the time of a training image.
    The time that `report.kid` takes for features, and the time to save a checkpoint, are not included.

    Args:
        recipe: the recipe of the run.
        parts: the images of the run, split into training and validation images.
        runtime: how the network runs.
        cost: processor seconds for one image, see `time_image`; it predicts how long a step will take.

    Raises:
        UserError: if the memory of this machine is too small.
    """
    optim, report = recipe.optim, recipe.report
    most = LONGEST / (cost / runtime.threads) if runtime.device == "cpu" else optim.batch
    batch = min(optim.batch, max(1, int(most) // optim.accumulate) * optim.accumulate)
    with runtime:
        began = time.monotonic()
        training = start_training(replace(recipe, optim=replace(optim, batch=batch)), parts, runtime, None)
        # At progress 0, a step of a student evaluates the network once; all later steps evaluate it twice.
        training.plan = Plan(sys.maxsize, decayed=0.5) if recipe.is_student else training.plan
        start, memory = time.monotonic() - began, estimate_memory(training)
        started = time.monotonic()
        for _ in range(WARM_UP):
            _finish_step(training)
        warm, steps = time.monotonic(), 0
        while steps < FEWEST or time.monotonic() - warm < SECONDS:
            _finish_step(training)
            steps += 1
        seconds = time.monotonic() - warm
    # The compilation takes as long for a smaller batch, and the steps themselves do not.
    usual = WARM_UP * seconds / steps
    samples = (report.grid + report.kid) * recipe.sampler.evaluations(recipe.steps)
    evaluations = min(report.validation_images, len(parts.validation)) + samples
    return Speed(
        runtime=runtime,
        images_per_second=steps * batch / seconds,
        start=start,
        warm_up=max(0.0, warm - started - usual) + usual * optim.batch / batch,
        validation=evaluations / 3 * seconds / (steps * batch),
        parameters=sum(weight.numel() for weight in training.model.parameters()),
        memory=memory,
        recipe=replace(training.recipe, optim=optim),
    )


def _finish_step(training: Trainer) -> None:
    """Train for one step as in a run, and wait until an accelerator has computed it."""
    float(advance_within_memory(training)[0]["loss"])


def forecast_run(recipe: Recipe, speed: Speed, reading: float = 0.0) -> tuple[int, float]:
    """Return the images that a run of this recipe will see, counting repetitions, and its duration.

    The duration is in seconds, from the command to the last validation. Compilation and validations take
    their part of the minutes; see `TimeBudget`.

    Args:
        recipe: the recipe, with its budget in minutes or images.
        speed: the measured speed of training.
        reading: seconds to open the images, before training is prepared.
    """
    batch, events = recipe.optim.batch, recipe.report.events
    aside, warm = reading + speed.start + speed.warm_up, WARM_UP * batch
    if recipe.images is not None:
        images = math.ceil(recipe.images / batch) * batch
        rest = max(0, images - warm) / speed.images_per_second
        return images, aside + rest + events * speed.validation
    left = max(0.0, recipe.minutes * 60 - aside)
    # One validation more ends the measurement of the speed.
    left = max(TRAINED * left, left - (events + 1) * speed.validation)
    return warm + round(left * speed.images_per_second / batch) * batch, recipe.minutes * 60
