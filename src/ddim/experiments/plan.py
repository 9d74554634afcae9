"""Plan a training: measure its speed, and forecast the images that it sees in some training times."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ddim.data import SplitImages
from ddim.data.arrays import hold_images
from ddim.diffusion.denoiser import with_gradients
from ddim.errors import UserError, format_count
from ddim.machine.progress import Progress, open_progress
from ddim.machine.runtime import Runtime
from ddim.plots.table import Tabular
from ddim.recipe.checks import check_training
from ddim.recipe.codec import override
from ddim.recipe.named import find_recipe
from ddim.recipe.recipe import Recipe
from ddim.training.budget import TRAINED, WARM_UP
from ddim.training.machine import Machine, plan_validations, time_image, validation_cost
from ddim.training.memory import advance_within_memory, estimate_memory
from ddim.training.progress import format_duration, list_cautions
from ddim.training.request import change_recipe, choose_recipe
from ddim.training.run import open_split, start_training

MINUTES = (10, 40, 240)
"""The training times, in minutes, that are planned if the user gives no budget."""

RECOGNISABLE = 40_000
"""Images of up to 64 pixels after which samples of `fast` and `flow` are no longer coarse: docs/tutorial.md,
step 3, from the sheets of the runs in docs/results/fast.md."""

LARGEST = 64
"""The largest side of images, in pixels, for which `RECOGNISABLE` was observed."""

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
        warm_up: seconds to prepare the training, and of its first `WARM_UP` steps with the batch size of the
            recipe. They include the compilation of the network, if it is compiled.
        validation: seconds of one validation: errors on validation images, and samples.
        parameters: number of weights of the network.
        memory: estimated bytes of memory for the training.
    """

    runtime: Runtime
    images_per_second: float
    warm_up: float
    validation: float
    parameters: int
    memory: int


@dataclass(frozen=True, repr=False)
class TrainingPlan(Tabular):
    """The result of `plan`.

    Attributes:
        rows: the minutes, images (counting repetitions) and passes of each budget.
        recipe: the recipe.
        speed: the measured speed.
        train: number of training images.
        held_out: number of validation images.
        recognisable: minutes after which samples are recognisable, keyed by the side of images in pixels;
            empty if that was not observed with this recipe.
        cautions: warnings about the machine and the images.
    """

    rows: Sequence[Mapping[str, float]]
    recipe: Recipe
    speed: Speed
    train: int
    held_out: int
    recognisable: Mapping[int, float]
    cautions: Sequence[str]

    @property
    def verdict(self) -> str:
        """When samples will be recognisable; else how often each image is seen."""
        if not self.recognisable:
            minutes, passes = (self.rows[-1][name] for name in ("minutes", "passes"))
            return f"each training image is seen {passes:,.1f} times in {describe_minutes(minutes)} here"
        times = [f"{describe_minutes(least)} at {side} px" for side, least in self.recognisable.items()]
        return f"recognisable images here after about {', '.join(times)}"

    @property
    def title(self) -> str:
        speed, (height, width) = self.speed, self.recipe.data.size
        images = f"{format_count(self.train, 'training image')} of {height} x {width} pixels"
        memory = f"about {speed.memory / 2**30:.2g} GiB of memory"
        compiled = ", without compilation: a long training is compiled, and sees more images"
        if speed.runtime.compile:
            compiled = f" in {format_duration(speed.warm_up)}"
        return (
            f"{images}; recipe {self.recipe.name}, {speed.parameters:,} parameters, {memory}\n"
            f"measured: {speed.images_per_second:,.3g} images/s on {speed.runtime.describe()}{compiled}"
        )

    @property
    def notes(self) -> Sequence[str]:
        """The cautions."""
        return self.cautions

    def to_records(self) -> Sequence[Mapping[str, float]]:
        """Return one row for each budget: minutes, images and passes over the training images."""
        return self.rows

    def to_json(self) -> dict[str, Any]:
        """Return the whole plan as plain values."""
        recipe = {"recipe": self.recipe.name, "size": list(self.recipe.data.size)}
        return {"verdict": self.verdict, **vars(self), **recipe, "speed": asdict(self.speed)}


@with_gradients
def plan(  # noqa: PLR0913 (the choices of a notebook)
    data: object = None,
    recipe: str | Recipe | None = None,
    *,
    minutes: float | Sequence[float] | None = None,
    images: int | None = None,
    size: int | str | tuple[int, int] | None = None,
    labels: bool | str | None = None,
    fields: Mapping[str, Any] | None = None,
    machine: Machine = Machine(),  # noqa: B008  (a frozen value)
    progress: bool | Progress = True,
) -> TrainingPlan:
    """Say what a training will do in some minutes, by measuring its speed.

    Trains for a few seconds with the precision and threads that `train` would choose, without compilation.
    `train` compiles the network of a long training, which is then faster; --compile measures this, after
    some minutes of compilation. No run folder is written. The minutes include validations and reading the
    images, but not decoding them. Images count with repetitions; passes are epochs.

    Args:
        data: a folder, an archive or the name of a built-in data set, as in `train`.
        recipe: the name of a recipe or a YAML file, by default "fast".
        minutes: one or more budgets in minutes, by default 10, 40 and 240.
        images: a budget as a number of training images, in place of minutes.
        size: height and width in pixels, such as 64 or 64x96.
        labels: whether the network is conditioned on class labels; see `train`.
        fields: new values of fields of the recipe, keyed by field path.
        machine: device, precision, threads and so on; by default as `train` chooses, without compilation.
        progress: True shows a bar, False shows nothing; or a function, see `Progress`.

    Raises:
        UserError: if the images or the recipe cannot be used, the memory of this machine is too small, or
            both `minutes` and `images` are given.

    Example:
        >>> ddim.plan("photos/", minutes=[10, 40])

    Commands:
        ddim plan photos/
        ddim plan photos/ --size 128 --minutes 40,480
    """
    if images is not None and minutes is not None:
        raise UserError("give minutes or images, not both")
    # The images given from Python can be opened as long as this variable refers to their source.
    data = hold_images(data)
    chosen = choose_recipe(recipe, data, {"data.size": size, "data.labels": labels, **(fields or {})})
    # This check comes before the images are decoded, because decoding may take long.
    check_training(chosen)
    times = np.atleast_1d(MINUTES if minutes is None else minutes).tolist()
    budgets = [{"minutes": each} for each in times] if images is None else [{"images": images}]
    machine = replace(machine, compiling=bool(machine.compiling))
    with open_progress(progress) as shown:
        open_split(chosen, shown)  # decodes the images
        began = time.monotonic()
        parts = open_split(chosen)
        reading = time.monotonic() - began
        shown("measuring the speed", 0, 1)
        speed = measure_speed(chosen, parts, machine.choose(chosen))
        recognisable = _forecast_recognisable(chosen, speed, parts.images.pixels.shape[-1], reading)
    rows = []
    for budget in budgets:
        seen, took = forecast_run(change_recipe(chosen, budget), speed, reading)
        rows.append({"minutes": took / 60, "images": seen, "passes": seen / len(parts.train)})
    cautions = list_cautions(parts.images, len(parts.train))
    return TrainingPlan(rows, chosen, speed, len(parts.train), len(parts.validation), recognisable, cautions)


def _forecast_recognisable(recipe: Recipe, speed: Speed, channels: int, reading: float) -> dict[int, float]:
    """Return the minutes until samples are recognisable, for images of this size and of half of it.

    Larger images than those for which this was observed are replaced by images of `LARGEST` pixels.
    """
    if recipe.name not in ("fast", "flow"):
        return {}
    own, minutes = max(recipe.data.size), {}
    # The network follows from the size of images if they are large.
    small = recipe if own <= LARGEST else find_recipe(recipe.name, (LARGEST, LARGEST))
    how = speed.runtime.precision, speed.runtime.device
    whole = time_image(recipe, channels, *how)
    for side in (min(own, LARGEST), min(own, LARGEST) // 2):
        part = time_image(override(small, {"data.size": side}), channels, *how)
        factor = 1.0 if side == own else whole / part
        rate, validation = speed.images_per_second * factor, speed.validation / factor
        faster = replace(speed, images_per_second=rate, validation=validation)
        minutes[side] = forecast_run(replace(recipe, images=RECOGNISABLE), faster, reading)[1] / 60
    return minutes


def describe_minutes(minutes: float) -> str:
    """Return a duration in round numbers, such as "8 minutes", "25 minutes" or "3 hours"."""
    if minutes < 90:
        rounded = 5 * round(minutes / 5) if minutes > 15 else max(1, round(minutes))
        return format_count(rounded, "minute")
    return f"{minutes / 60:.2g} hours"


def measure_speed(recipe: Recipe, parts: SplitImages, runtime: Runtime) -> Speed:
    """Train for `SECONDS` after `WARM_UP` steps, and return the speed.

    No validation is run: its time is expected from its evaluations of the network, see `validation_cost`.

    Args:
        recipe: the recipe of the run.
        parts: the images of the run, split into training and validation images.
        runtime: how the network runs.

    Raises:
        UserError: if the memory of this machine is too small.
    """
    optim = recipe.optim
    # The time of one image predicts how long a step will take.
    cost = time_image(recipe, parts.images.pixels.shape[-1], runtime.precision)
    most = LONGEST / (cost / runtime.threads) if runtime.device == "cpu" else optim.batch
    batch = min(optim.batch, max(1, int(most) // optim.accumulate) * optim.accumulate)
    with runtime:
        began = time.monotonic()
        training = start_training(replace(recipe, optim=replace(optim, batch=batch)), parts, runtime, None)
        memory = estimate_memory(training)
        ends = list[float]()
        while len(ends) < WARM_UP + FEWEST or ends[-1] - ends[WARM_UP - 1] < SECONDS:
            # Reading a number waits until an accelerator has computed the step.
            float(advance_within_memory(training)[0]["loss"])
            ends.append(time.monotonic())
    warm = ends[WARM_UP - 1]
    steps, seconds = len(ends) - WARM_UP, ends[-1] - warm
    # The compilation takes as long for a smaller batch, and the steps themselves do not.
    usual = WARM_UP * seconds / steps
    return Speed(
        runtime=runtime,
        images_per_second=steps * batch / seconds,
        warm_up=max(0.0, warm - began - usual) + usual * optim.batch / batch,
        validation=validation_cost(recipe, len(parts.validation)) * seconds / (steps * batch),
        parameters=sum(weight.numel() for weight in training.model.parameters()),
        memory=memory,
    )


def forecast_run(recipe: Recipe, speed: Speed, reading: float = 0.0) -> tuple[int, float]:
    """Return the images that a run of this recipe will see, counting repetitions, and its duration.

    The duration is in seconds, from the command to the last validation. Compilation and validations take
    their part of the minutes; see `TimeBudget`.

    Args:
        recipe: the recipe, with its budget in minutes or images.
        speed: the measured speed of training.
        reading: seconds to open the images, before training is prepared.
    """
    batch, cost = recipe.optim.batch, speed.validation * speed.images_per_second
    aside, warm = reading + speed.warm_up, WARM_UP * batch
    if recipe.images is not None:
        images = math.ceil(recipe.images / batch) * batch
        rest = max(0, images - warm) / speed.images_per_second
        events, share = plan_validations(recipe, cost, images)
        return images, aside + rest + events * share * speed.validation
    left = max(0.0, recipe.minutes * 60 - aside)
    events, share = plan_validations(recipe, cost, round(left * speed.images_per_second))
    left = max(TRAINED * left, left - events * share * speed.validation)
    return warm + round(left * speed.images_per_second / batch) * batch, recipe.minutes * 60
