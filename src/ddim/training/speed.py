"""Measure how fast this machine trains a recipe, by some training steps and some network evaluations."""

from __future__ import annotations

import math
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ddim.data import SplitImages
from ddim.diffusion.loss import denoising_error
from ddim.errors import UserError, is_full_memory
from ddim.machine.runtime import Runtime
from ddim.recipe.recipe import Recipe
from ddim.runs import checkpoint
from ddim.runs.state import Plan
from ddim.training.budget import WARM_UP
from ddim.training.loop import Training
from ddim.training.memory import SMALLER, advance_within_memory
from ddim.training.start import start_training

SECONDS = 6.0
"""Seconds of training steps that are timed; longer if `FEWEST` steps take longer."""

FEWEST = 3
"""Smallest number of training steps that are timed."""

LONGEST = 10.0
"""If a training step is expected to take more seconds than this, it is timed with a smaller batch.

A network evaluation that takes more seconds than this is timed only once.
"""


CACHED = 20.0
"""If compiling the network takes more seconds than this, the first steps are timed again, from the cache.

A compilation from the cache takes less, unless the machine is slow or busy.
"""


@dataclass(frozen=True)
class Speed:
    """The measured speed at which this machine trains a recipe.

    Attributes:
        runtime: the device, precision, compilation and threads of the measurement.
        batch: batch size of the timed steps; smaller than that of the recipe if its steps are long.
        images: number of training images in the timed steps.
        seconds: total seconds of the timed steps.
        start: seconds to prepare the training: initial weights, statistics of the pixels.
        warm_up: seconds of the first `WARM_UP` steps with the batch size of the recipe. They include the
            compilation of the network, if it is compiled: from the cache, if the next training finds it so.
        validation: seconds of one validation: errors on validation images, samples and a checkpoint.
        parameters: number of weights of the network.
        recipe: the recipe; its number of classes is that of the images.
    """

    runtime: Runtime
    batch: int
    images: int
    seconds: float
    start: float
    warm_up: float
    validation: float
    parameters: int
    recipe: Recipe

    @property
    def images_per_second(self) -> float:
        """Training images per second, not counting the time of validations."""
        return self.images / self.seconds


def measure_speed(recipe: Recipe, parts: SplitImages, runtime: Runtime, cost: float) -> Speed:
    """Train for `SECONDS` and return the speed.

    The first `WARM_UP` steps are timed separately. If they compiled a network that was not in the cache, they
    are timed again, because the next training will find it there. For this, all networks that were compiled
    in this process are forgotten, and come from the cache at their next call.

    No validation is run. Its duration is estimated: the number of its network evaluations times the measured
    time of one evaluation, plus the measured time to save a checkpoint in a temporary folder. The time that
    `report.kid` takes for features is not included.

    Args:
        recipe: the recipe of the run.
        parts: the images of the run, split into training and validation images.
        runtime: how the network runs.
        cost: processor seconds for one image, see `time_image`; it predicts how long a step will take.

    Raises:
        UserError: if the memory of this machine is too small, or the recipe does not fit the images.
    """
    optim = recipe.optim
    most = LONGEST / (cost / runtime.threads) if runtime.device == "cpu" else optim.batch
    batch = min(optim.batch, max(1, int(most) // optim.accumulate) * optim.accumulate)
    with runtime:
        try:
            small = replace(recipe, optim=replace(optim, batch=batch))
            training, start, first = _begin(small, parts, runtime)
            warm = now = time.monotonic()
            steps = 0
            while steps < FEWEST or now - warm < SECONDS:
                _finish_step(training)
                steps, now = steps + 1, time.monotonic()
            validation, counted = _estimate_validation(training), training.recipe
            weights = sum(weight.numel() for weight in training.model.parameters())
            usual = WARM_UP * (now - warm) / steps
            # Another batch size would be compiled anew in the next training.
            if runtime.compile and batch == optim.batch and first - usual > CACHED:
                del training  # frees its memory
                torch.compiler.reset()
                first = min(first, _begin(small, parts, runtime)[2])
        except (MemoryError, RuntimeError) as error:
            if not is_full_memory(error):
                raise
            raise UserError(f"a training step needs more memory than is free: {SMALLER}") from error
    # The compilation takes as long for a smaller batch, and the steps themselves do not.
    return Speed(
        runtime,
        batch,
        steps * batch,
        now - warm,
        start,
        max(0.0, first - usual) + usual * optim.batch / batch,
        validation,
        weights,
        replace(counted, optim=optim),
    )


def _begin(recipe: Recipe, parts: SplitImages, runtime: Runtime) -> tuple[Training, float, float]:
    """Return a training after `WARM_UP` steps, and the seconds of its preparation and of these steps."""
    begin = time.monotonic()
    training = start_training(recipe, parts, runtime, None)
    if recipe.is_student:
        # At progress 0, a step of a student evaluates the network once; all later steps evaluate it twice.
        training.plan = Plan(sys.maxsize, decayed=0.5)
    started = time.monotonic()
    for _ in range(WARM_UP):
        _finish_step(training)
    return training, started - begin, time.monotonic() - started


def _finish_step(training: Training) -> None:
    """Train for one step as in a run, and wait until an accelerator has computed it."""
    values, _ = advance_within_memory(training)
    float(values["loss"])


def _estimate_validation(training: Training) -> float:
    """Return the estimated seconds of one validation: its network evaluations, and saving its checkpoint."""
    recipe, runtime, report = training.recipe, training.runtime, training.recipe.report
    errors = min(report.validation_images, len(training.split.validation))
    nfe = recipe.sampler.evaluations(recipe.steps)
    # The network runs on micro-batches. The last one is filled up if samples are made, but not for errors.
    samples = sum(math.ceil(n / runtime.micro_batch) for n in (report.grid, report.kid))
    return (errors / runtime.micro_batch + samples * nfe) * _time_evaluation(training) + _time_saving(
        training
    )


def _time_evaluation(training: Training) -> float:
    """Return the seconds that the network takes for a micro-batch of images, run as in a validation."""
    runtime = training.runtime
    with training.averaged() as pipeline, runtime.precise(), torch.no_grad():
        x = runtime.images(pipeline.model.blank(runtime.micro_batch))
        t = torch.full((len(x),), 0.5, dtype=torch.float64)
        denoise = pipeline.model.with_blank_labels(len(x))

        def evaluate() -> float:
            begin = time.monotonic()
            denoising_error(denoise, x, t, torch.ones_like(x))
            return time.monotonic() - begin

        first = evaluate()
        return first if first > LONGEST else min(evaluate() for _ in range(2))


def _time_saving(training: Training) -> float:
    """Return the seconds that saving a checkpoint to a temporary folder takes; 0 if it cannot be saved."""
    begin = time.monotonic()
    with suppress(OSError), TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), training.step, training.tensors(), training.documents(), best=True)
        return time.monotonic() - begin
    return 0.0
