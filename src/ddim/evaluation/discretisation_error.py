"""The error of a sampler and its times: how far its samples are from those of a run with many steps.

It is the mean squared error in model units, from the same noise and between the same ends, against Heun's
rule on many equal steps of log-SNR. Nothing is assumed about the model or the sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddim.diffusion.grids import SPACINGS
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import EDM, Sampler, final_sample, initial_noise, last_state
from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError, check_count
from ddim.runs.generate import fill_micro_batches, find_grid_ends
from ddim.runs.pipeline import Pipeline
from ddim.runs.recipe import Recipe
from ddim.runs.recipe_checks import check_unconditional

SamplingError = Callable[[Sampler, Tensor], float]
"""Returns the mean squared error of the samples of a sampler at decreasing times (N,)."""


def choose_ends(recipe: Recipe, steps: int, end: float | None) -> tuple[float, float]:
    """Return the first and the last time of a recipe's grid of `steps`; `end` replaces the last one."""
    first, last = find_grid_ends(recipe, steps)
    return first, last if end is None else end


def lay_named_grids(steps: int, schedule: Schedule, end: float, first: float = 1.0) -> dict[str, Tensor]:
    """Return the times (steps,) from `first` to `end` of every named spacing."""
    return {name: spacing.between(steps, schedule, first, end) for name, spacing in SPACINGS.items()}


def check_times_between(steps: int, schedule: Schedule, end: float, first: float = 1.0) -> None:
    """Check that a schedule has `steps` different levels from the time `first` to `end`.

    Raises:
        UserError: if it has not, or there are fewer than 3 steps, which leave nothing between the ends.
    """
    check_count("steps", steps, 3)
    if not 0 < end < first:
        raise UserError(f"--end must lie between 0 and the first level, t = {first:.4g}, got {end}")
    try:
        grids = lay_named_grids(steps, schedule, end, first)
    except UserError as error:
        raise UserError(f"--end {end:.4g} cannot be the last of {steps} levels: {error}") from None
    if not all((schedule(times).log_snr.diff() > 0).all() for times in grids.values()):
        raise UserError(
            f"{steps} levels from t = {first:.4g} to --end {end:.4g} are not all different: this schedule is "
            "a table with equal entries"
        )


def sample_in_model_units(
    pipeline: Pipeline, sampler: Sampler, times: Tensor, seeds: Sequence[int]
) -> Tensor:
    """Return samples (B, C, H, W) in model units on the CPU, one for each seed, of no class.

    They are made in float32, so that rounding is no part of the error.

    Raises:
        UserError: if the network was always given a class.
    """
    check_unconditional(pipeline.recipe, "a search of levels or a comparison of samplers")
    samples = []
    # Heun's rule, which gives the reference, uses the noise alone.
    denoise = pipeline.denoiser(pipeline.model, consistent=True)
    with pipeline.runtime:
        for mine, filled, blank in fill_micro_batches(pipeline, seeds):
            noise = Noise(filled)
            x = initial_noise(denoise.schedule, noise, blank, times[0])
            state = last_state(sampler(denoise, x, times, noise))
            samples.append(final_sample(denoise, state)[: len(mine)].cpu())
    return torch.cat(samples)


def count_reference_levels(steps: int) -> int:
    """Return the levels of the reference for runs of `steps`: Heun's rule then has 1/100 of their error."""
    return max(100, 10 * steps)


def error_against_reference(
    pipeline: Pipeline, end: float, seeds: Sequence[int], levels: int, first: float = 1.0
) -> SamplingError:
    """Sample the reference, by Heun's rule over `levels` levels, and return the error against it."""
    times = SPACINGS["uniform_log_snr"].between(levels, pipeline.recipe.sampling_schedule, first, end)
    reference = sample_in_model_units(pipeline, EDM(), times, seeds)

    def error(sampler: Sampler, times: Tensor) -> float:
        return (sample_in_model_units(pipeline, sampler, times, seeds) - reference).square().mean().item()

    return error
