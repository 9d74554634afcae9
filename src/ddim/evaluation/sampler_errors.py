"""The discretisation error of samplers: the distance of their samples from samples with many steps.

The distance is a mean squared error in model units. Both sets of samples start from the same noise and use
the same first and last time. The reference samples use Heun's method with many equal steps of log-SNR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddim.diffusion.grids import Listed
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.samplers import (
    DDIM,
    EDM,
    AdamsBashforth,
    DPMSolver,
    Sampler,
    State,
    UniPC,
    last_state,
)
from ddim.diffusion.schedules import Cosine, Level, Schedule, as_double
from ddim.errors import UserError, check_count
from ddim.machine.progress import Progress, ignore_progress
from ddim.recipe.checks import check_unconditional
from ddim.recipe.recipe import Recipe
from ddim.sampling.generate import find_grid_ends, generate
from ddim.sampling.labels import default_label
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.sampling_setup import OFF, Guidance, SamplingSetup

SamplingError = Callable[[Sampler, Tensor], float]
"""Maps a sampler and decreasing times (N,) to the mean squared error of its samples."""

SPACINGS: dict[str, Callable[[Tensor, Level], Tensor]] = {
    "uniform": lambda t, at: t,
    "quadratic": lambda t, at: t.sqrt(),
    "karras": lambda t, at: at.noise_to_signal ** (1 / 7),
    "uniform_log_snr": lambda t, at: at.log_snr,
}
"""The quantity that has equal steps in the times of each spacing, keyed by the name of its grid."""


@dataclass(frozen=True)
class TimeRange:
    """The first and the last time of samples that are compared, on a noise schedule."""

    schedule: Schedule
    last: float
    first: float = 1.0

    def lay_grids(self, steps: int) -> dict[str, Tensor]:
        """Return the times (steps,) of every spacing in `SPACINGS`, keyed by its name."""
        return {name: self.space(name, steps) for name in SPACINGS}

    def space(self, spacing: str, steps: int) -> Tensor:
        """Return decreasing times (steps,) in equal steps of a quantity in `SPACINGS`."""
        times = as_double([self.first, self.last])
        inverse = self.schedule.inverse
        begin, end = SPACINGS[spacing](times, self.schedule(times)).tolist()
        line = torch.linspace(begin, end, steps, dtype=torch.float64)
        if spacing == "uniform_log_snr":
            line = inverse(line)
        elif spacing == "karras":
            line = inverse(-2 * (line**7).log())
        elif spacing == "quadratic":
            line = line**2
        line[0], line[-1] = self.first, self.last
        return line

    def check(self, steps: int) -> None:
        """Check that every named grid has `steps` different noise levels.

        Raises:
            UserError: if a grid has fewer noise levels, `last` is not between 0 and `first`, or `steps` is
                below 3, so that there is no time between the ends.
        """
        check_count("steps", steps, 3)
        first, last = self.first, self.last
        if not 0 < last < first:
            raise UserError(f"end must lie between 0 and the first time, t = {first:.4g}, got {last}")
        levels = [self.schedule(times).log_snr for times in self.lay_grids(steps).values()]
        if not all((each.diff() > 0).all() for each in levels):
            raise UserError(
                f"the noise levels of {steps} times from t = {first:.4g} to {last:.4g} are not all "
                "different: this schedule is a table with equal entries"
            )


def find_time_range(recipe: Recipe, steps: int, last: float | None = None) -> TimeRange:
    """Return the range of the `steps` times in a recipe's grid; `last` replaces its last time."""
    first, own = find_grid_ends(recipe, steps)
    return TimeRange(recipe.sampling_schedule, own if last is None else float(last), first)


def sample_in_model_units(
    pipeline: Pipeline,
    sampler: Sampler,
    times: Tensor,
    seeds: Sequence[int],
    progress: Progress = ignore_progress,
    guidance: Guidance = OFF,
) -> Tensor:
    """Return samples (B, C, H, W) in model units on the CPU, one per seed, with the run's default label.

    Sampling runs in float32, so that rounding adds nothing to the error.

    Args:
        pipeline: the run.
        sampler: the sampler.
        times: decreasing times (N,).
        seeds: the seeds of the samples.
        progress: called with "reference samples" after each step.
        guidance: the guidance of the samples.

    Raises:
        UserError: if samples have no label by default, but every training image of the run had a label.
    """
    label, samples = default_label(pipeline.recipe), []
    if label is None:
        check_unconditional(pipeline.recipe, "a search for times or a comparison of samplers")

    def keep(_: Sequence[int], state: State) -> None:
        if state.t == 0:
            samples.append(state.x0.cpu())

    exact = replace(pipeline, runtime=replace(pipeline.runtime, precision="fp32"))
    on_times = exact.with_recipe(sampler=sampler, grid=Listed(tuple(times.tolist())))
    # Heun's method, which the reference uses, reads only the predicted noise. With consistent=True, clipping
    # changes the predicted noise as well as the predicted image.
    setup = SamplingSetup(on_times, len(times), label, guidance, consistent=True)
    generate(setup, seeds, watch=keep, progress=lambda _, k, n: progress("reference samples", k, n))
    return torch.cat(samples)


def count_reference_levels(steps: int) -> int:
    """Return the number of timesteps in the grid of the reference: 10 * `steps`, but at least 100.

    Heun's method has order 2: with 10 times as many steps it has a hundredth of the error.
    """
    return max(100, 10 * steps)


def error_against_reference(
    pipeline: Pipeline,
    ends: TimeRange,
    seeds: Sequence[int],
    levels: int,
    progress: Progress = ignore_progress,
    guidance: Guidance = OFF,
) -> SamplingError:
    """Return a function that measures the error of a sampler against reference samples of Heun's method.

    The reference samples are made once, before this function returns.

    Args:
        pipeline: the run.
        ends: the first and the last time.
        seeds: the seeds of the samples.
        levels: number of timesteps in the grid of the reference.
        progress: called with "reference samples" after each step.
        guidance: the guidance of all samples, also of the reference.
    """
    times = ends.space("uniform_log_snr", levels)
    reference = sample_in_model_units(pipeline, EDM(), times, seeds, progress, guidance)

    def error(sampler: Sampler, times: Tensor) -> float:
        samples = sample_in_model_units(pipeline, sampler, times, seeds, ignore_progress, guidance)
        return (samples - reference).square().mean().item()

    return error


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
    ends.check(REFERENCE_LEVELS)
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
