"""Plan a training: measure its speed, and forecast the images that it sees in some training times."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ddim.data.arrays import give_images
from ddim.diffusion.denoiser import with_gradients
from ddim.errors import UserError, format_count
from ddim.experiments.speed import Speed, forecast_run, measure_speed
from ddim.machine.progress import Progress, open_progress
from ddim.machine.runtime import check_runtime, count_cores
from ddim.plots.table import Tabular
from ddim.recipe.checks import check_training
from ddim.recipe.codec import override
from ddim.recipe.named import find_recipe
from ddim.recipe.recipe import Recipe
from ddim.training.machine import Machine, estimate_seconds, time_image
from ddim.training.progress import format_duration, list_cautions
from ddim.training.request import change_recipe, choose_recipe
from ddim.training.run import open_split

MINUTES = (10, 40, 240)
"""The training times, in minutes, that are planned if the user gives no budget."""

RECOGNISABLE = 40_000
"""Images of up to 64 pixels after which samples of `fast` and `flow` are no longer coarse: docs/tutorial.md,
step 3, from the sheets of the runs in docs/results/fast.md."""

LARGEST = 64
"""The largest side of images, in pixels, for which `RECOGNISABLE` was observed."""


@dataclass(frozen=True, repr=False)
class TrainingPlan(Tabular):
    """The result of `plan`.

    Attributes:
        rows: the minutes, images (counting repetitions) and passes of each budget.
        speeds: the measured speeds, that of the last budget last: compiled, not compiled, or both.
        train: number of training images.
        held_out: number of validation images.
        recognisable: minutes after which samples are recognisable, keyed by the side of images in pixels;
            empty if that was not observed with this recipe.
        cautions: warnings about the machine and the images.
    """

    rows: Sequence[Mapping[str, float]]
    speeds: Sequence[Speed]
    train: int
    held_out: int
    recognisable: Mapping[int, float]
    cautions: Sequence[str]

    @property
    def verdict(self) -> str:
        """When samples will be recognisable; else how often each image is seen."""
        if not self.recognisable:
            often = f"{self.rows[-1]['passes']:,.1f} times in {describe_minutes(self.rows[-1]['minutes'])}"
            return f"each training image is seen about {often} here"
        (side, minutes), *smaller = self.recognisable.items()
        of = "" if side == max(self.speeds[-1].recipe.data.size) else f" at {side} px"
        others = "".join(f", at {each} px after {describe_minutes(least)}" for each, least in smaller)
        return f"recognisable images{of} after about {describe_minutes(minutes)} here{others}"

    @property
    def title(self) -> str:
        speed = self.speeds[-1]
        height, width = speed.recipe.data.size
        compiled = f" in {format_duration(speed.warm_up)}" if speed.runtime.compile else ""
        return (
            f"{format_count(self.train, 'training image')} of {height} x {width} pixels; recipe "
            f"{speed.recipe.name}, {speed.parameters:,} parameters, about {speed.memory / 2**30:.2g} GiB of "
            "memory\n"
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
        speed = self.speeds[-1]
        return {
            "verdict": self.verdict,
            "recipe": speed.recipe.name,
            "size": list(speed.recipe.data.size),
            "parameters": speed.parameters,
            "memory": speed.memory,
            "train": self.train,
            "held_out": self.held_out,
            "recognisable": self.recognisable,
            "measured": [each.to_json() for each in self.speeds],
            "budgets": self.rows,
            "cautions": self.cautions,
        }


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

    Trains for a few seconds, with the precision, compilation and threads that `train` would choose. No run
    folder is written: decoded images and compiled networks stay in their caches for `train`. So the minutes
    include loading them, but not decoding or compiling. Images count with repetitions; passes are epochs.

    Args:
        data: a folder, an archive or the name of a built-in data set, as in `train`.
        recipe: the name of a recipe or a YAML file, by default "fast".
        minutes: one or more budgets in minutes, by default 10, 40 and 240.
        images: a budget as a number of training images, in place of minutes.
        size: height and width in pixels, such as 64 or 64x96.
        labels: whether the network is conditioned on class labels; see `train`.
        fields: new values of fields of the recipe, keyed by field path.
        machine: device, precision, compilation, threads, recomputation; by default as `train` chooses.
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
    check_runtime(machine.device, machine.precision, machine.threads)
    if images is not None and minutes is not None:
        raise UserError("give minutes or images, not both")
    # The images given from Python can be opened as long as this variable refers to their source.
    data = data if isinstance(data, str | Path | None) else give_images(data)
    chosen = choose_recipe(recipe, data, {**(fields or {}), "data.size": size, "data.labels": labels})
    # This check comes before the images are decoded, because decoding may take long.
    check_training(chosen)
    times = np.atleast_1d(MINUTES if minutes is None else minutes).tolist()
    budgets = [{"minutes": each} for each in times] if images is None else [{"images": images}]
    with open_progress(progress) as shown:
        return _measure_plan([change_recipe(chosen, budget) for budget in budgets], machine, shown)


@with_gradients
def _measure_plan(budgets: Sequence[Recipe], machine: Machine, progress: Progress) -> TrainingPlan:
    """Return one plan for all budgets; each is the checked recipe with another budget."""
    recipe, runtime = budgets[0], machine.choose(budgets[0])
    open_split(recipe, progress)  # decodes the images
    began = time.monotonic()
    parts = open_split(recipe)
    reading, channels = time.monotonic() - began, parts.images.pixels.shape[-1]
    cost = time_image(recipe, channels, runtime.precision)
    rows, speeds = [], dict[bool, Speed]()
    for budget in budgets:
        # All runs have the same precision and threads. Only compilation depends on the length of a run.
        seconds = estimate_seconds(budget, channels, runtime.device, machine.threads, 1)
        alike = replace(machine, precision=runtime.precision, threads=runtime.threads).choose(budget, seconds)
        progress(
            "compiling and measuring" if alike.compile else "measuring the speed", len(rows), len(budgets)
        )
        speed = speeds.pop(alike.compile, None) or measure_speed(recipe, parts, alike, cost)
        speeds[alike.compile] = speed
        seen, took = forecast_run(budget, speed, reading)
        rows.append({"minutes": took / 60, "images": seen, "passes": seen / len(parts.train)})
    cautions = list_cautions(parts.images, len(parts.train))
    if runtime.device == "cpu" and runtime.threads < count_cores() and machine.threads is None:
        used = f"{format_count(runtime.threads, 'thread')} of {count_cores()}"
        cautions.append(f"measured with {used}, as other programs run; a training uses more when they end")
    known = _forecast_recognisable(recipe, list(speeds.values())[-1], channels, reading)
    return TrainingPlan(rows, list(speeds.values()), len(parts.train), len(parts.validation), known, cautions)


def _forecast_recognisable(recipe: Recipe, speed: Speed, channels: int, reading: float) -> dict[int, float]:
    """Return the minutes until samples are recognisable, for images of this size and of half of it.

    Larger images than those for which this was observed are replaced by images of `LARGEST` pixels.
    """
    if recipe.name not in ("fast", "flow"):
        return {}
    own, minutes = max(recipe.data.size), {}
    # The network follows from the size of images if they are large.
    small = recipe if own <= LARGEST else find_recipe(recipe.name, (LARGEST, LARGEST))
    whole = time_image(recipe, channels, speed.runtime.precision)
    for side in (min(own, LARGEST), min(own, LARGEST) // 2):
        part = time_image(override(small, {"data.size": side}), channels, speed.runtime.precision)
        faster = speed.scale(1.0 if side == own else whole / part)
        minutes[side] = forecast_run(replace(recipe, images=RECOGNISABLE), faster, reading)[1] / 60
    return minutes


def describe_minutes(minutes: float) -> str:
    """Return a duration in round numbers, such as "8 minutes", "25 minutes" or "3 hours"."""
    if minutes < 90:
        rounded = 5 * round(minutes / 5) if minutes > 15 else max(1, round(minutes))
        return format_count(rounded, "minute")
    return f"{minutes / 60:.2g} hours"
