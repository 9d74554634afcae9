"""The discretisation error of samplers: the distance of their samples from samples with many steps.

The distance is a mean squared error in model units. Both sets of samples start from the same noise and use
the same first and last time. The reference samples use Heun's method with many equal steps of log-SNR.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddim.diffusion import samplers
from ddim.diffusion.grids import Listed
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.samplers import EDM, Sampler, State, last_state
from ddim.diffusion.schedules import Cosine, Level, Schedule, as_double
from ddim.errors import UserError, check_count
from ddim.machine.progress import Progress, ignore_progress
from ddim.recipe.checks import check_unconditional
from ddim.recipe.recipe import Recipe
from ddim.sampling.generate import generate
from ddim.sampling.labels import default_label
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.sampling_setup import SamplingSetup

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
    times = recipe.times(steps).tolist()
    first, own = times[0], times[-1]
    return TimeRange(recipe.sampling_schedule, own if last is None else float(last), first)


def sample_in_model_units(
    pipeline: Pipeline,
    sampler: Sampler,
    times: Tensor,
    seeds: Sequence[int],
    progress: Progress = ignore_progress,
) -> Tensor:
    """Return samples (B, C, H, W) in model units on the CPU, one per seed, with the run's default label.

    Sampling runs in float32, so that rounding adds nothing to the error.

    Args:
        pipeline: the run.
        sampler: the sampler.
        times: decreasing times (N,).
        seeds: the seeds of the samples.
        progress: called with "reference samples" after each step.

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
    setup = SamplingSetup(on_times, len(times), label, consistent=True)
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
) -> SamplingError:
    """Return a function that measures the error of a sampler against reference samples of Heun's method.

    The reference samples are made once, before this function returns.

    Args:
        pipeline: the run.
        ends: the first and the last time.
        seeds: the seeds of the samples.
        levels: number of timesteps in the grid of the reference.
        progress: called with "reference samples" after each step.
    """
    times = ends.space("uniform_log_snr", levels)
    reference = sample_in_model_units(pipeline, EDM(), times, seeds, progress)

    def error(sampler: Sampler, times: Tensor) -> float:
        samples = sample_in_model_units(pipeline, sampler, times, seeds)
        return (samples - reference).square().mean().item()

    return error


SAMPLERS: dict[str, Sampler] = {
    "DDIM": samplers.DDIM(),
    "Heun": samplers.EDM(),
    "Adams-Bashforth 2": samplers.AdamsBashforth(2),
    "Adams-Bashforth 4, equal weights": samplers.AdamsBashforth(4, steps="equal"),
    "DPM-Solver++ 2M": samplers.DPMSolver(2),
    "DPM-Solver++ 3M": samplers.DPMSolver(3),
    "UniPC-2": samplers.UniPC(2),
    "UniPC-3": samplers.UniPC(3),
}
REFERENCE_LEVELS = 500
"""Number of timesteps in the grid of the reference samples, which Heun's method computes."""


def count_levels(sampler: Sampler, nfe: int) -> int:
    """Return the largest number of timesteps that costs at most `nfe` network evaluations, but at least 2."""
    return max([2, *(n for n in range(2, nfe + 1) if sampler.evaluations(n) <= nfe)])


def prepare_run(
    pipeline: Pipeline, seeds: Sequence[int], progress: Progress = ignore_progress
) -> tuple[SamplingError, TimeRange]:
    """Return a function for the error of samplers on a run, and the ends of the run's grid.

    Raises:
        UserError: if the schedule is a table with fewer than `REFERENCE_LEVELS` different noise levels.
    """
    ends = find_time_range(pipeline.recipe, pipeline.recipe.steps)
    ends.check(REFERENCE_LEVELS)
    return error_against_reference(pipeline, ends, seeds, REFERENCE_LEVELS, progress), ends


def prepare_oracle(count: int) -> tuple[SamplingError, TimeRange]:
    """Return the same for a mixture of Gaussians, whose score is exact, and `count` samples."""
    draw = torch.Generator().manual_seed(0)
    centres, x = torch.randn(2, max(3, count), 1, 4, 4, generator=draw, dtype=torch.float64)
    law = Mixture(Cosine(0.014, 0.99995), centres[:3], 0.5)
    ends = TimeRange(law.schedule, 0.1)
    return error_on_mixture(law, x[:count], ends), ends


def error_on_mixture(law: Mixture, x: Tensor, ends: TimeRange) -> SamplingError:
    """Return a function that measures the error of samples of a mixture of Gaussians with exact score.

    The reference is Heun's method on a grid with `REFERENCE_LEVELS` timesteps. Sampling goes from x (B, C, H,
    W) at the first time of `ends` to the last.
    """

    def sample(sampler: Sampler, times: Tensor) -> Tensor:
        return last_state(sampler(law, x, times, Noise(range(len(x))))).x0

    reference = sample(EDM(), ends.space("uniform_log_snr", REFERENCE_LEVELS))
    return lambda sampler, times: (sample(sampler, times) - reference).square().mean().item()


def compare_samplers(
    error: SamplingError, ends: TimeRange, budgets: Sequence[int], progress: Progress = ignore_progress
) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return pairs (network evaluations, error), keyed by the name of the grid and that of the sampler.

    Args:
        error: measures the error of a sampler on given times.
        ends: the noise schedule, and the first and the last time.
        budgets: the largest numbers of network evaluations for each sample.
        progress: called with "samplers" after each combination.
    """
    table = {grid: {name: [] for name in SAMPLERS} for grid in SPACINGS}
    total = len(SAMPLERS) * len(budgets)
    for k, (name, nfe) in enumerate(itertools.product(SAMPLERS, budgets)):
        sampler = SAMPLERS[name]
        levels = count_levels(sampler, nfe)
        for grid, times in ends.lay_grids(levels).items():
            table[grid][name].append((sampler.evaluations(levels), error(sampler, times)))
        progress("samplers", k + 1, total)
    return table
