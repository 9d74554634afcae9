"""Measure how fast this machine trains a recipe: real training steps, and network evaluations without."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ddim.data import SplitImages
from ddim.diffusion.denoising_error import denoising_error
from ddim.errors import UserError
from ddim.nn.runtime import Runtime
from ddim.runs import checkpoint
from ddim.runs.recipe import Recipe
from ddim.training.budget import WARM_UP
from ddim.training.loop import Training
from ddim.training.memory import SMALLER
from ddim.training.start import start_training

SECONDS = 6.0
"""Seconds of training steps that are timed; longer if `FEWEST` steps take longer."""

FEWEST = 3
"""Smallest number of training steps that are timed."""

LONGEST = 10.0
"""Steps that are expected to take more seconds than this are timed with fewer images."""


@dataclass(frozen=True)
class Speed:
    """What a training of a recipe costs on this machine, in seconds, as it was measured.

    Attributes:
        runtime: the device, precision, compilation and threads of the measurement.
        batch: images of each step that was timed; fewer than those of the recipe if its steps are long.
        images: number of training images whose steps were timed.
        seconds: the seconds of these steps.
        start: seconds to prepare the training: initial weights, statistics of the pixels.
        warm_up: seconds of the first `WARM_UP` steps, which compile the network if it is compiled.
        validation: seconds of one validation: errors of the validation images, samples and a checkpoint.
        parameters: number of weights of the network.
        recipe: the recipe, with the number of classes of its images.
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
        """Training images per second, without validations."""
        return self.images / self.seconds


def measure_speed(recipe: Recipe, parts: SplitImages, runtime: Runtime, cost: float) -> Speed:
    """Train for `SECONDS` and return the speed.

    The first `WARM_UP` steps are timed apart. A validation is not made: its network evaluations are counted,
    and the times of one evaluation and of one checkpoint, in a temporary folder, are measured. The features
    of `report.kid` are left out.

    Args:
        recipe: the recipe of the run.
        parts: the images of the run, split into training and validation images.
        runtime: how the network runs.
        cost: processor seconds for one image, see `time_image`, to see how long a step will take.

    Raises:
        UserError: if the memory of this machine is too small, or the recipe does not fit the images.
    """
    optim = recipe.optim
    most = LONGEST / (cost / runtime.threads) if runtime.device == "cpu" else optim.batch
    batch = min(optim.batch, max(1, int(most) // optim.accumulate) * optim.accumulate)
    with runtime:
        try:
            begin = time.monotonic()
            training = start_training(
                replace(recipe, optim=replace(optim, batch=batch)), parts, runtime, None
            )
            started = time.monotonic()
            for _ in range(WARM_UP):
                _finish_step(training)
            warm = time.monotonic()
            steps, now = 0, warm
            while steps < FEWEST or now - warm < SECONDS:
                _finish_step(training)
                steps, now = steps + 1, time.monotonic()
            validation = _estimate_validation(training)
        except (MemoryError, RuntimeError) as error:
            if not _is_memory_error(error):
                raise
            raise UserError(f"a training step needs more memory than is free: {SMALLER}") from error
    return Speed(
        runtime,
        batch,
        steps * batch,
        now - warm,
        started - begin,
        (warm - started) * optim.batch / batch,
        validation,
        sum(weight.numel() for weight in training.model.parameters()),
        replace(training.recipe, optim=optim),
    )


def _finish_step(training: Training) -> None:
    """Train for one step, and wait until an accelerator has computed it."""
    float(training.advance()["loss"])


def _estimate_validation(training: Training) -> float:
    """Return the seconds of one validation: its network evaluations, and the checkpoint that it saves."""
    recipe, runtime, report = training.recipe, training.runtime, training.recipe.report
    errors = min(report.validation_images, len(training.split.validation))
    nfe = recipe.sampler.evaluations(recipe.steps)
    # Images are denoised in micro-batches; samples fill up their last micro-batch, errors do not.
    samples = sum(math.ceil(n / runtime.micro_batch) for n in (report.grid, report.kid))
    return (errors / runtime.micro_batch + samples * nfe) * _time_evaluation(training) + _time_saving(
        training
    )


def _time_evaluation(training: Training) -> float:
    """Return the seconds in which the network, as validations run it, evaluates a micro-batch of images."""
    runtime = training.runtime
    with training.averaged() as model, runtime.precise(), torch.no_grad():
        x = runtime.images(model.blank(runtime.micro_batch))
        t = torch.full((len(x),), 0.5, dtype=torch.float64)
        denoise = model.with_labels(0 if model.classes else None)

        def evaluate() -> float:
            begin = time.monotonic()
            denoising_error(denoise, x, t, torch.ones_like(x))
            return time.monotonic() - begin

        first = evaluate()
        return first if first > LONGEST else min(evaluate() for _ in range(2))


def _time_saving(training: Training) -> float:
    """Return the seconds in which a checkpoint is saved, to a temporary folder; 0 if that has no room."""
    begin = time.monotonic()
    with suppress(OSError), TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), training.step, training.tensors(), training.documents(), best=True)
        return time.monotonic() - begin
    return 0.0


def _is_memory_error(error: BaseException) -> bool:
    # On a CPU torch raises a plain RuntimeError, which only its text tells apart.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
