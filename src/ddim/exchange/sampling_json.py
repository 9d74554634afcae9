"""Describe how to sample an exported network with DDIM, as a small JSON document for programs without torch.

The document is the file `SAMPLING` beside an exported network. docs/export.md has a program that reads it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ddim.diffusion.guidance import check_reach
from ddim.diffusion.samplers import DDIM
from ddim.errors import UserError
from ddim.recipe.checks import check_steps
from ddim.recipe.codec import dump
from ddim.sampling.labels import default_label
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.sampling_setup import find_searched_grid

SAMPLING = "sampling.json"
"""The name of the JSON file beside an exported network."""

VERSION = 1
"""The version of the layout of this JSON file."""

FORMULAS = (
    "x = start * noise, with standard normal noise",
    "F = network(input * x, condition, label), the first channels of the output",
    "x0 = skip * x + output * F, clipped from clip.low to clip.high if there is a clip",
    "eps = (x - alpha * x0) / sigma, with x0 before the clip if clip.keep_noise",
    "x = alpha * x0 + sigma * eps, with alpha and sigma of the next step; x0 after the last step",
    "image in [0, 1] = x0 * pixels.std + pixels.mean, for each channel",
)
"""The formulas of DDIM (Song et al. 2021, eq. 12), written with the entries of the JSON file."""


def describe_sampling(pipeline: Pipeline, steps: int | None = None) -> dict[str, Any]:
    """Return the content of `SAMPLING`: shape, pixels, classes, clipping, and coefficients of each DDIM step.

    `class_weights` are the relative frequencies of the classes that samples have by default; null means
    samples without a class. `values` is the range of the training images, which [0, 1] stands for.

    The times are those of the grid that `ddim search` saved for DDIM and this number of steps, or else of the
    grid of the recipe. All coefficients already contain the effect of another sampling schedule
    (`sampled_on`).

    Args:
        pipeline: the model.
        steps: number of sampling steps; by default the number in the recipe.

    Raises:
        UserError: if the grid cannot have this number of steps, a coefficient is not finite, or the model was
            not trained at one of the noise levels.
    """
    recipe, model = pipeline.recipe, pipeline.model
    steps = recipe.choose_steps(steps)
    check_steps(recipe, steps)
    grid = find_searched_grid(pipeline, DDIM(), steps) or recipe.grid
    levels = describe_levels(pipeline, grid(steps, recipe.sampling_schedule))
    low, high = (bound.tolist() for bound in pipeline.pixels.bounds)
    clip = {"low": low, "high": high, "keep_noise": recipe.clip == "x0"} if recipe.clip else None
    return {
        "version": VERSION,
        "formulas": list(FORMULAS),
        "shape": [model.shape.channels, model.shape.height, model.shape.width],
        "pixels": {"mean": list(pipeline.pixels.mean), "std": list(pipeline.pixels.std)},
        "values": asdict(pipeline.values),
        "classes": model.classes,
        "class_names": list(pipeline.classes),
        "no_class": -1 if model.classes and recipe.data.unconditional else None,
        "class_weights": _weigh_classes(pipeline),
        "start": (levels[0]["alpha"] ** 2 + levels[0]["sigma"] ** 2) ** 0.5,
        "clip": clip,
        "steps": levels,
        "schedule": dump(recipe.sampling_schedule, named=True),
        "predicts": dump(recipe.predicts, named=True),
        "conditioning": dump(recipe.conditioning, named=True),
        "grid": dump(grid, named=True),
    }


def _weigh_classes(pipeline: Pipeline) -> list[int] | None:
    """Return the relative frequencies of the classes of samples; None if samples have no class by default.

    Clusters are as frequent as in training. Class folders are equally frequent, if the network needs a class.
    """
    data, classes = pipeline.recipe.data, pipeline.model.classes
    if not classes or (data.unconditional and default_label(pipeline.recipe) is None):
        return None
    return list(pipeline.class_counts) or [1] * classes


def describe_levels(pipeline: Pipeline, times: Tensor) -> list[dict[str, float]]:
    """Return the coefficients that `FORMULAS` uses at decreasing times (N,), one dictionary for each time.

    Raises:
        UserError: if a coefficient is not finite, or the model was not trained at one of these noise levels.
    """
    recipe, model = pipeline.recipe, pipeline.model
    at, own = recipe.sampling_schedule(times), model.schedule
    inner, scale = times, torch.ones_like(times)
    if recipe.sampled_on:
        check_reach(own, at)
        # As in `Rescheduled`: the network is evaluated at the time of its own schedule with this log-SNR.
        inner = own.inverse(at.log_snr)
        scale = own(inner).alpha / at.alpha
    level = own(inner)
    c = model.predicts(level)
    columns = {
        "t": times,
        "alpha": at.alpha,
        "sigma": at.sigma,
        "condition": model.conditioning(inner, level),
        "input": c.inp * scale,
        "skip": c.skip * scale,
        "output": c.out,
    }
    if wrong := [name for name, values in columns.items() if not values.isfinite().all()]:
        raise UserError(
            f"{wrong[0]} of the sampling steps must be finite to be exported, got NaN or infinity"
        )
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]
