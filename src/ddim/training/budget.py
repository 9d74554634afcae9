"""Convert a time budget to a training length in images, and estimate how long a run will take."""

import time
from math import prod

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Model
from ddim.diffusion.pixels import Pixels
from ddim.machine.runtime import Precision, Runtime, count_cores
from ddim.recipe.recipe import Recipe, build_model
from ddim.recipe.user_parts import is_user_part
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

SMALL = 64
"""The largest side in pixels of an image whose time is measured; larger for networks with many stages."""


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


def estimate_seconds(
    recipe: Recipe, channels: int, device: str, threads: int | None, processes: int = 1
) -> float:
    """Return the estimated duration of a run in seconds, on a machine without other programs.

    Args:
        recipe: the recipe of the run.
        channels: number of channels of the images.
        device: the device of the run.
        threads: number of processor threads of a run on a CPU; None for one per core.
        processes: number of processes, which share the images of a run but not its minutes.
    """
    if recipe.images is None:
        return recipe.minutes * 60
    share = processes * ((threads or count_cores()) if device == "cpu" else 1)
    return time_image(recipe, channels, device=device) * recipe.images / share


def time_image(recipe: Recipe, channels: int, precision: Precision = "fp32", device: str = "cpu") -> float:
    """Return the seconds that training takes for one image.

    The fastest of three updates of a few blank images counts. If an image takes more than a second, one
    update of two images is enough. The time of a large image is that of `SMALL` times `SMALL` pixels, scaled
    up. On a CPU the result is the processor time of one thread, which does not
    depend on other programs.

    Args:
        recipe: the recipe; its images are not read.
        channels: number of channels of the images.
        precision: the precision of the network.
        device: the device of the network.
    """
    runtime, cpu = Runtime(device, precision), device == "cpu"
    clock = time.thread_time if cpu else time.monotonic
    size = reduce_size(recipe, SMALL)
    # Initial weights and dropout must not change the caller's random state.
    with torch.random.fork_rng([device] if device.startswith("cuda") else []), runtime:
        model = runtime.place(build_model(recipe, channels))

        def update(count: int) -> float:
            begin = clock()
            blank_loss(model, recipe, runtime, size, count).mean().backward()
            # An accelerator computes after the call; reading a number waits until it is done.
            next(model.parameters()).sum().item()
            return (clock() - begin) / count * prod(recipe.data.size) / prod(size)

        first = update(2)
        # An accelerator is hardly slower with more images.
        few = 4 if cpu else min(16, recipe.optim.batch // recipe.optim.accumulate)
        return first if cpu and first > 1 else min(update(few) for _ in range(3))


def reduce_size(recipe: Recipe, side: int) -> tuple[int, int]:
    """Return the height and width of images of a recipe, each at most `side` if the network allows it.

    A network that the user wrote may take no other size than that of the recipe.
    """
    side = max(recipe.data.size) if is_user_part(recipe.net) else max(side, recipe.net.multiple)
    height, width = recipe.data.size
    return min(height, side), min(width, side)


def blank_loss(model: Model, recipe: Recipe, runtime: Runtime, size: tuple[int, int], count: int) -> Tensor:
    """Return the loss (count,) of blank images of this size, in the middle of the training."""
    x0 = runtime.images(torch.ones_like(model.blank(count)[..., : size[0], : size[1]]))
    pixels, measure = Pixels.fixed(0.5, 0.5, model.shape.channels), recipe.objective.at(0.5, 0)
    with runtime.precise():
        return measure(model.with_blank_labels(count), x0, torch.full((count,), 0.5), x0, pixels)
