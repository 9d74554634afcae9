"""Plan a training run: measure its speed, and look up the validation errors of similar finished runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ddim.data import SplitImages
from ddim.data.arrays import give_images
from ddim.diffusion.denoiser import with_gradients
from ddim.errors import UserError, describe_given, format_count
from ddim.experiments.index import check_runs
from ddim.experiments.learning_curves import (
    interpolate_error,
    interpolate_kid,
    interpolate_recorded,
    list_own_curves,
    list_recorded_curves,
)
from ddim.experiments.speed import Speed, forecast_run, measure_speed
from ddim.experiments.training_plan import PlannedRun, TrainingPlan
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.machine.runtime import Runtime, check_runtime, count_cores
from ddim.recipe.checks import check_training
from ddim.recipe.recipe import Recipe
from ddim.training.machine import Machine, estimate_seconds, time_image
from ddim.training.progress import list_cautions
from ddim.training.request import change_recipe, choose_recipe
from ddim.training.run import open_split

MINUTES = (10, 40, 240)
"""The training times, in minutes, that are planned if the user gives no budget."""

SPEED = "measuring the speed"
"""The name of the work that a `Progress` callback gets during the measurements."""

COMPILING = f"compiling the network and {SPEED}"
"""The name of this work if the network is compiled first, which takes minutes on a busy machine."""


@with_bar
@with_gradients
def plan_training(  # noqa: PLR0913 (the choices of a notebook)
    data: object = None,
    recipe: str | Recipe | None = None,
    *,
    minutes: float | str | Sequence[float | str] | None = None,
    images: int | str | None = None,
    size: int | str | tuple[int, int] | None = None,
    labels: bool | str | None = None,
    machine: Machine = Machine(),  # noqa: B008  (a frozen value)
    runs: str | Path | None = None,
    progress: Progress = ignore_progress,
) -> TrainingPlan:
    """Measure how fast this machine trains a recipe, and return what to expect after some training times.

    Real training steps are run for a few seconds, with the precision, compilation and threads that `train`
    would choose. No run folder is written: only decoded images and compiled networks stay in their caches.
    If the compilation took long, it is timed again from the cache; networks that this process compiled before
    are then compiled anew at their next call.
    The expected errors are those that finished runs had after the same number of images. They are
    interpolated between runs, but never extrapolated.

    Args:
        data: as in `train`.
        recipe: as in `train`; by default "fast".
        minutes: one or more budgets in minutes, by default 10, 40 and 240.
        images: a budget as a number of training images, in place of `minutes`.
        size: as in `train`.
        labels: as in `train`.
        machine: as in `train`.
        runs: the folder with your runs, by default "runs", if it exists. Finished runs of the same recipe and
            images give the errors.
        progress: called while images are decoded, and after each part of the measurements.

    Returns:
        For each budget, the images that a run sees, the number of epochs ("passes"), the validation error and
        KID.

    Raises:
        UserError: if the images or the recipe cannot be used, the memory of this machine is too small, both
            `minutes` and `images` are given, or `runs` is not a folder.

    Example:
        >>> ddim.plan("photos/", minutes=[10, 40])
    """
    check_runtime(machine.device, machine.precision, machine.threads)
    # The images given from Python can be opened as long as this variable refers to their source.
    data = data if isinstance(data, str | Path | None) else give_images(data)
    recipe = choose_recipe(recipe, data, {"data.size": size, "data.labels": labels})
    budgets = _list_budgets(recipe, minutes, images)
    # This check comes before the images are decoded, because decoding may take long.
    check_training(recipe)
    if runs is not None:
        check_runs(runs)
    return _measure_plan(recipe, budgets, machine, Path("runs" if runs is None else runs), progress)


def _measure_plan(
    recipe: Recipe, budgets: Sequence[Recipe], machine: Machine, runs: Path, progress: Progress
) -> TrainingPlan:
    """Return one plan for all `budgets`; each is the checked recipe with another budget."""
    progress(SPEED, 0, 1)
    runtime = machine.choose(recipe)
    parts, reading = _open_split(recipe, progress)
    channels = parts.images.pixels.shape[-1]
    cost = time_image(recipe, channels, runtime.precision)
    speeds = _measure_speeds(recipe, budgets, parts, (machine, runtime), cost, progress)
    forecasts = [forecast_run(*pair, reading) for pair in zip(budgets, speeds, strict=True)]
    counted = speeds[0].recipe
    curves = list_own_curves(runs, counted, parts.images.fingerprint)
    recorded = list_recorded_curves(counted)
    return TrainingPlan(
        tuple(
            PlannedRun(
                budget,
                images,
                seconds,
                speed,
                interpolate_error(curves, images),
                interpolate_kid(curves, images),
                interpolate_recorded(interpolate_error, recorded, images),
                interpolate_recorded(interpolate_kid, recorded, images),
            )
            for budget, (images, seconds), speed in zip(budgets, forecasts, speeds, strict=True)
        ),
        len(parts.train),
        len(parts.validation),
        tuple(curves),
        tuple(recorded),
        tuple(_list_cautions(parts, runtime, fixed=machine.threads is not None)),
    )


def _measure_speeds(
    recipe: Recipe,
    budgets: Sequence[Recipe],
    parts: SplitImages,
    choice: tuple[Machine, Runtime],
    cost: float,
    progress: Progress,
) -> list[Speed]:
    """Return the training speed for each budget.

    At most two speeds are measured: one for all compiled runs, and one for all others.

    Args:
        recipe: the recipe.
        budgets: a copy of the recipe for each budget.
        parts: the images, split into training and validation images.
        choice: the user's wishes for the machine, and the runtime that was chosen for them.
        cost: see `time_image`.
        progress: called before each measurement.
    """
    asked, runtime = choice
    # All runs have the same precision and threads. Only compilation depends on the length of a run.
    machine = replace(asked, precision=runtime.precision, threads=runtime.threads)
    channels = parts.images.pixels.shape[-1]
    lengths = [estimate_seconds(each, channels, runtime.device, asked.threads, 1) for each in budgets]
    chosen = [machine.choose(*pair) for pair in zip(budgets, lengths, strict=True)]
    speeds: dict[bool, Speed] = {}
    for each in chosen:
        if each.compile not in speeds:
            progress(COMPILING if each.compile else SPEED, len(speeds), len(set(chosen)))
            speeds[each.compile] = measure_speed(recipe, parts, each, cost)
    return [speeds[each.compile] for each in chosen]


def _list_budgets(
    recipe: Recipe, minutes: float | str | Sequence[float | str] | None, images: int | str | None
) -> list[Recipe]:
    """Return a copy of the recipe for each budget; see `plan_training`."""
    if images is not None:
        if minutes is not None:
            raise UserError("give minutes or images, not both")
        return [change_recipe(recipe, {"images": images})]
    minutes = MINUTES if minutes is None else minutes
    if isinstance(minutes, np.generic | np.ndarray):
        minutes = minutes.tolist()
    if isinstance(minutes, str):
        minutes = minutes.split(",")
    elif isinstance(minutes, int | float):
        minutes = [minutes]
    if not isinstance(minutes, Sequence) or not minutes:
        raise UserError(f"minutes must be a number or a list of them, got {describe_given(minutes)}")
    return [change_recipe(recipe, {"minutes": each}) for each in minutes]


def _open_split(recipe: Recipe, progress: Progress) -> tuple[SplitImages, float]:
    """Return the split images, and the seconds that opening them takes once they are in the cache."""
    open_split(recipe, progress)
    began = time.monotonic()
    return open_split(recipe), time.monotonic() - began


def _list_cautions(parts: SplitImages, runtime: Runtime, *, fixed: bool) -> list[str]:
    """Return warnings about the machine and the images.

    Args:
        parts: the images.
        runtime: how the network runs.
        fixed: whether the user has fixed the number of threads.
    """
    cores = count_cores()
    busy = runtime.device == "cpu" and runtime.threads < cores and not fixed
    text = (
        f"other programs use cores of this machine: measured with {format_count(runtime.threads, 'thread')} "
        f"of {cores}; a training uses more cores when those programs end"
    )
    return ([text] if busy else []) + list_cautions(parts.images, len(parts.train))
