"""The discretisation error of samplers, and a search for the times at which it is least.

The discretisation error is the distance of samples from samples with many steps.

The distance is a mean squared error in model units. Both sets of samples start from the same noise and use
the same first and last time. The reference samples use Heun's method with many equal steps of log-SNR.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor

from ddim.diffusion.grids import Listed
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.samplers import DDIM, EDM, AdamsBashforth, DPMSolver, Sampler, State, UniPC, last_state
from ddim.diffusion.schedules import Cosine, Schedule, as_double, time_of_ratio
from ddim.errors import UserError
from ddim.machine.progress import Progress, ignore_progress
from ddim.recipe.checks import check_unconditional
from ddim.sampling.generate import generate
from ddim.sampling.labels import default_label
from ddim.sampling.pipeline import Pipeline
from ddim.sampling.sampling_setup import SamplingSetup

SamplingError = Callable[[Sampler, Tensor], float]
"""Maps a sampler and decreasing times (N,) to the mean squared error of its samples."""

ErrorTable = dict[str, dict[str, list[tuple[int, float]]]]
"""Pairs (network evaluations, error), keyed by the name of the grid and that of the sampler."""

FIRST_MOVE, LAST_MOVE = 0.35, 0.03
"""Size of a move of a time at the start and at the end, as a fraction of the gap to the next log-SNR."""

MIXTURES = (0.25, 0.5, 0.75)
"""Weights of another grid in a mixture with the best grid."""

LEAST_GAP = 0.25
"""Smallest gap in log-SNR, as a fraction of the mean gap. A smaller gap would overfit the samples."""


@dataclass(frozen=True)
class TimeRange:
    """The first and the last time of samples that are compared, on a noise schedule."""

    schedule: Schedule
    last: float
    first: float = 1.0

    def lay_grids(self, steps: int) -> dict[str, Tensor]:
        """Return decreasing times (steps,) in equal steps of four quantities, keyed by the name of the grid.

        They are the named grids of `ddim.diffusion.grids`, but all have the same ends.
        """
        ends = as_double([self.first, self.last])
        at = self.schedule(ends)

        def space(quantity: Tensor) -> Tensor:
            first, last = quantity.tolist()
            return torch.linspace(first, last, steps, dtype=torch.float64, device="cpu")

        grids = {
            "uniform": space(ends),
            "quadratic": space(ends.sqrt()) ** 2,
            "karras": time_of_ratio(self.schedule, space(at.noise_to_signal ** (1 / 7)) ** 7),
            "uniform_log_snr": self.schedule.inverse(space(at.log_snr)),
        }
        for times in grids.values():
            times[0], times[-1] = self.first, self.last
        return grids


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
        progress: called with "samples" after each step.

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
    generate(setup, seeds, watch=keep, progress=progress)
    return torch.cat(samples)


def error_against_reference(
    sample: Callable[..., Tensor], ends: TimeRange, levels: int, **options: Progress
) -> SamplingError:
    """Return a function that measures the error of a sampler against reference samples of Heun's method.

    The reference samples are made once, before this function returns.

    Args:
        sample: takes a sampler and times (N,), and returns samples, always from the same noise.
        ends: the first and the last time.
        levels: number of timesteps in the grid of the reference.
        options: given to `sample` when it makes the reference samples, such as `progress`.
    """
    reference = sample(EDM(), ends.lay_grids(levels)["uniform_log_snr"], **options)
    return lambda sampler, times: (sample(sampler, times) - reference).square().mean().item()


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


def count_levels(sampler: Sampler, nfe: int) -> int:
    """Return the largest number of timesteps that costs at most `nfe` network evaluations, but at least 2."""
    return max([2, *(n for n in range(2, nfe + 1) if sampler.evaluations(n) <= nfe)])


def prepare_run(
    pipeline: Pipeline,
    seeds: Sequence[int],
    progress: Progress = ignore_progress,
    steps: int | None = None,
    levels: int = REFERENCE_LEVELS,
) -> tuple[SamplingError, TimeRange]:
    """Return a function for the error of samplers on a run, and the ends of the run's grid.

    Args:
        pipeline: the run.
        seeds: the seeds of the samples.
        progress: called with "samples" while the reference samples are made.
        steps: number of times in the grid; None for the recipe's.
        levels: number of times in the grid of the reference.
    """
    recipe = pipeline.recipe
    times = recipe.times(recipe.steps if steps is None else steps).tolist()
    ends = TimeRange(recipe.sampling_schedule, times[-1], times[0])
    sample = partial(sample_in_model_units, pipeline, seeds=seeds)
    return error_against_reference(sample, ends, levels, progress=progress), ends


def prepare_oracle(count: int) -> tuple[SamplingError, TimeRange]:
    """Return the same for a mixture of Gaussians, whose score is exact, and `count` samples."""
    draw = torch.Generator().manual_seed(0)
    centres, x = torch.randn(2, max(3, count), 1, 4, 4, generator=draw, dtype=torch.float64, device="cpu")
    law = Mixture(Cosine(0.014, 0.99995), centres[:3], 0.5)

    def sample(sampler: Sampler, times: Tensor) -> Tensor:
        return last_state(sampler(law, x[:count], times, Noise(range(count)))).x0

    ends = TimeRange(law.schedule, 0.1)
    return error_against_reference(sample, ends, REFERENCE_LEVELS), ends


def compare_samplers(
    error: SamplingError, ends: TimeRange, budgets: Sequence[int], progress: Progress = ignore_progress
) -> ErrorTable:
    """Return the errors of every sampler on every named grid.

    Args:
        error: measures the error of a sampler on given times.
        ends: the noise schedule, and the first and the last time.
        budgets: the largest numbers of network evaluations for each sample.
        progress: called with "samplers" after each combination.
    """
    table = {grid: {name: [] for name in SAMPLERS} for grid in ends.lay_grids(2)}
    for k, ((name, sampler), nfe) in enumerate(itertools.product(SAMPLERS.items(), budgets)):
        levels = count_levels(sampler, nfe)
        for grid, times in ends.lay_grids(levels).items():
            table[grid][name].append((sampler.evaluations(levels), error(sampler, times)))
        progress("samplers", k + 1, len(SAMPLERS) * len(budgets))
    return table


# The times with the least error


def search_times(
    steps: int, ends: TimeRange, error: Callable[[Tensor], float], progress: Progress = ignore_progress
) -> tuple[tuple[float, ...], float, dict[str, float]]:
    """Return the times with the least error that a coordinate descent finds.

    First the best named grid is mixed with each other named grid, on the scale of log-SNR. Then each time in
    turn moves towards a neighbour by a part of the gap in log-SNR. A change that lowers the error is kept.
    If a sweep over all times lowers the error by at most 2 %, the moves are halved.

    Args:
        steps: number of times, at least 3.
        ends: the schedule, and the first and the last time.
        error: a function that returns the error of times (steps,).
        progress: called with "grids" after each grid. The total number is an estimate, which grows as long as
            the error falls.

    Returns:
        The decreasing times, their error, and the errors of the named grids.

    Raises:
        UserError: if no named grid leads to finite samples.
    """
    grids, schedule, errors = ends.lay_grids(steps), ends.schedule, []
    # A sweep tries two moves of each time, and each of the four sizes of move needs at least one sweep.
    sweep = 2 * (steps - 2)
    total = len(grids) * (1 + len(MIXTURES)) + 4 * sweep

    def measure(times: Tensor, least_gap: float = LEAST_GAP) -> float:
        """Return the error of times; infinity if it is not finite, or a gap in log-SNR is too small."""
        gaps = schedule(times).log_snr.diff()
        if gaps.min() <= 0 or gaps.min() < least_gap * gaps.mean():
            return math.inf
        errors.append(error(times))
        progress("grids", len(errors), max(total, len(errors) + sweep))
        return errors[-1] if math.isfinite(errors[-1]) else math.inf

    # On a table of noise levels, neighbouring times of a named grid can have the same level.
    named = {name: measure(times, least_gap=0) for name, times in grids.items()}
    best = min(named, key=named.__getitem__)
    if math.isinf(named[best]):
        raise UserError("no named grid leads to finite samples: the model cannot be used")
    tried = [(named[best], grids[best])]
    for grid, part in itertools.product(grids.values(), MIXTURES):
        log_snr = torch.lerp(schedule(grids[best]).log_snr, schedule(grid).log_snr, part)
        mixed = schedule.inverse(log_snr)
        mixed[0], mixed[-1] = ends.first, ends.last
        tried.append((measure(mixed), mixed))
    value, times = _descend(*min(tried, key=itemgetter(0)), schedule, measure)
    return tuple(times.tolist()), value, named


def _descend(
    best: float, times: Tensor, schedule: Schedule, measure: Callable[[Tensor], float]
) -> tuple[float, Tensor]:
    """Move one time after another, keep each move that lowers the error, and return the error and the times.

    `best` is the error of `times` at the start.
    """
    move = FIRST_MOVE
    while move >= LAST_MOVE:
        before = best
        for k in range(1, len(times) - 1):
            for towards in (k - 1, k + 1):
                log_snr = schedule(times).log_snr
                moved = times.clone()
                moved[k] = schedule.inverse(torch.lerp(log_snr[k], log_snr[towards], move))
                value = measure(moved)
                if value < best:
                    times, best = moved, value
                    break
        if best >= 0.98 * before:
            move /= 2
    return best, times
