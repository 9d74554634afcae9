"""Measure the errors of deterministic samplers with few network evaluations, on each named grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.samplers import (
    DDIM,
    EDM,
    AdamsBashforth,
    DPMSolver,
    Sampler,
    UniPC,
    last_state,
)
from ddim.diffusion.schedules import Cosine
from ddim.errors import UserError
from ddim.evaluation.discretisation_error import (
    SPACINGS,
    SamplingError,
    TimeRange,
    error_against_reference,
    find_time_range,
)
from ddim.machine.progress import Progress, ignore_progress
from ddim.sampling.pipeline import Pipeline

SAMPLERS: dict[str, Sampler] = {
    "DDIM": DDIM(),
    "Heun": EDM(),
    "Adams-Bashforth 2": AdamsBashforth(2),
    "Adams-Bashforth 4, equal weights": AdamsBashforth(4, steps="equal"),
    "DPM-Solver++ 2M": DPMSolver(2),
    "DPM-Solver++ 3M": DPMSolver(3),
    "UniPC-2": UniPC(2),
    "UniPC-3": UniPC(3),
}
REFERENCE_LEVELS = 500
"""Number of timesteps in the grid of the reference samples, which Heun's method computes."""


@dataclass(frozen=True)
class SamplerError:
    """The network evaluations of a sampler on a named grid, and the mean squared error of its samples."""

    sampler: str
    grid: str
    nfe: int
    error: float


def count_levels(sampler: Sampler, nfe: int) -> int:
    """Return the largest number of timesteps that costs at most `nfe` network evaluations, but at least 2."""
    return max([2, *(n for n in range(2, nfe + 1) if sampler.evaluations(n) <= nfe)])


def compare_samplers_on_run(
    pipeline: Pipeline,
    budgets: Sequence[int],
    seeds: Sequence[int],
    progress: Progress = ignore_progress,
) -> list[SamplerError]:
    """Return the error of every sampler on every named grid for a run, between the ends of its own grid.

    Args:
        pipeline: the run.
        budgets: the numbers of network evaluations for each sample.
        seeds: the seeds of the samples whose error is measured.
        progress: called with "reference samples", then with "samplers" after each combination.

    Raises:
        UserError: if the schedule is a table with too few different noise levels.
    """
    ends = find_time_range(pipeline.recipe, pipeline.recipe.steps)
    try:
        ends.check(REFERENCE_LEVELS)
    except UserError:
        raise UserError(
            "samplers cannot be compared on this run: its schedule does not have "
            f"{REFERENCE_LEVELS} different noise levels"
        ) from None
    error = error_against_reference(pipeline, ends, seeds, REFERENCE_LEVELS, progress)
    return compare_samplers(error, ends, budgets, progress)


def compare_samplers_on_oracle(budgets: Sequence[int], count: int) -> list[SamplerError]:
    """Return the error of every sampler on every named grid for a mixture of Gaussians, with exact score.

    Args:
        budgets: the numbers of network evaluations for each sample.
        count: number of samples whose error is measured.
    """
    draw = torch.Generator().manual_seed(0)
    centres, x = torch.randn(2, max(3, count), 1, 4, 4, generator=draw, dtype=torch.float64)
    oracle = Mixture(Cosine(0.014, 0.99995), centres[:3], 0.5)
    ends = TimeRange(oracle.schedule, 0.1)
    return compare_samplers(sampling_error_of_oracle(oracle, x[:count], ends), ends, budgets)


def compare_samplers(
    error: SamplingError,
    ends: TimeRange,
    budgets: Sequence[int],
    progress: Progress = ignore_progress,
) -> list[SamplerError]:
    """Return the error of every sampler on every named grid, at each budget of network evaluations.

    Args:
        error: measures the error of a sampler on given times.
        ends: the noise schedule, and the first and the last time.
        budgets: the numbers of network evaluations for each sample.
        progress: called with "samplers" after each combination.
    """
    found, total = [], len(SAMPLERS) * len(budgets) * len(SPACINGS)
    for name, sampler in SAMPLERS.items():
        for nfe in budgets:
            levels = count_levels(sampler, nfe)
            spent = sampler.evaluations(levels)
            for grid, times in ends.lay_grids(levels).items():
                found.append(SamplerError(name, grid, spent, error(sampler, times)))
                progress("samplers", len(found), total)
    return found


def sampling_error_of_oracle(law: Mixture, x: Tensor, ends: TimeRange) -> SamplingError:
    """Return a function that measures the error of samples of a mixture of Gaussians with exact score.

    The reference is Heun's method on a grid with `REFERENCE_LEVELS` timesteps. Sampling goes from x (B, C, H,
    W) at the first time of `ends` to the last.
    """

    def sample(sampler: Sampler, times: Tensor) -> Tensor:
        return last_state(sampler(law, x, times, Noise(range(len(x))))).x0

    reference = sample(EDM(), ends.lay_grids(REFERENCE_LEVELS)["uniform_log_snr"])
    return lambda sampler, times: (sample(sampler, times) - reference).square().mean().item()
