"""The best levels for a model, a sampler and a number of steps, found by trying.

The error of a grid is that of its pictures: mean squared, in model units, against those of a fine run of
second order between the same ends, from the same noise. Nothing is assumed of the model or of the sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddim.diffusion.grids import SPACINGS
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import EDM, Sampler, final_sample, initial_noise, last_state
from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError, check_count
from ddim.runs.checks import check_unconditional
from ddim.runs.generate import fill_micro_batches
from ddim.runs.pipeline import Pipeline
from ddim.runs.searched_grids import Found

FIRST_MOVE, LAST_MOVE = 0.35, 0.03
"""Moves of a level, as parts of the gap to its neighbour, at the start and at the end of a search."""

LEAST_GAP = 0.25
"""No two levels come nearer than this part of the mean gap: such pairs fit the images, not the model."""


def named_grids(steps: int, schedule: Schedule, end: float, first: float = 1.0) -> dict[str, Tensor]:
    """The named grids from the time `first` to `end`, each (steps,) times."""
    return {name: spacing.between(steps, schedule, first, end) for name, spacing in SPACINGS.items()}


def pictures(trained: Pipeline, sampler: Sampler, times: Tensor, seeds: Sequence[int]) -> Tensor:
    """(B, C, H, W) in model units on the CPU, one a seed; in float32: rounding is no error of a grid.

    Of no class: UserError where the run's network was always told one.
    """
    check_unconditional(trained.recipe, "a search of levels or a comparison of samplers")
    made = []
    # The truth is Heun's, which sees the noise alone.
    denoise = trained.denoiser(trained.model, consistent=True)
    with trained.runtime:
        for mine, filled, blank in fill_micro_batches(trained, seeds):
            noise = Noise(filled)
            x = initial_noise(denoise.schedule, noise, blank, times[0])
            made.append(
                final_sample(denoise, last_state(sampler(denoise, x, times, noise)))[: len(mine)].cpu()
            )
    return torch.cat(made)


def fine(steps: int) -> int:
    """Levels of the run of Heun's rule that judges runs of `steps`: with a hundredth of their error."""
    return max(100, 10 * steps)


def reference(trained: Pipeline, end: float, seeds: Sequence[int], steps: int, first: float = 1.0) -> Tensor:
    """Pictures (B, C, H, W) of a fine run: Heun's rule on equal steps of log-SNR, 2 steps - 1 evaluations."""
    times = SPACINGS["uniform_log_snr"].between(steps, trained.recipe.walked, first, end)
    return pictures(trained, EDM(), times, seeds)


def search(
    steps: int,
    schedule: Schedule,
    end: float,
    error: Callable[[Tensor], float],
    tell: Callable[[str], None] = lambda text: None,
    first: float = 1.0,
) -> Found:
    """Coordinate descent on the levels from the time `first` to `end`, from the best named grid or mixture.

    The best named grid is mixed, on the clock of log-SNR, with each other; then each level in turn moves
    towards a neighbour by a part of the gap between; what lowers `error` (times (steps,) -> a number) is
    kept; moves are halved when none helps. UserError for fewer than 3 steps: there is nothing between.
    """
    check(steps, schedule, end, first)

    def judged(times: Tensor) -> float:
        value = error(times)
        return value if math.isfinite(value) else math.inf

    grids = named_grids(steps, schedule, end, first)
    named = {name: judged(times) for name, times in grids.items()}
    for name, value in named.items():
        tell(f"{name}: {value:.3g}")
    best = min(named.values())
    if best == math.inf:
        raise UserError("no named grid gives pictures that are finite: the model cannot be used")
    times, move = grids[min(named, key=named.__getitem__)], FIRST_MOVE
    clock = schedule(times).log_snr
    for other in grids.values():
        for part in (0.25, 0.5, 0.75):
            mixed = schedule.inverse(torch.lerp(clock, schedule(other).log_snr, part))
            mixed[0], mixed[-1] = times[0], times[-1]
            if _apart(mixed, schedule) and (value := judged(mixed)) < best:
                times, best = mixed, value
    tell(f"mixtures: {best:.3g}")
    while move >= LAST_MOVE:
        before = best
        for k in range(1, steps - 1):
            for towards in (k - 1, k + 1):
                clock = schedule(times).log_snr
                tried = times.clone()
                tried[k] = schedule.inverse(torch.lerp(clock[k], clock[towards], move))
                if _apart(tried, schedule) and (value := judged(tried)) < best:
                    times, best = tried, value
                    break
        tell(f"moves of {move:.2g}: {best:.3g}")
        if best >= 0.98 * before:
            move /= 2
    return Found(tuple(times.tolist()), best, named)


def check(steps: int, schedule: Schedule, end: float, first: float = 1.0) -> None:
    """UserError where there is nothing to search: fewer than 3 steps, or no way from `first` to `end`."""
    # Something between the ends.
    check_count("steps", steps, 3)
    if not 0 < end < first:
        raise UserError(f"--end must lie between 0 and the first level, t = {first:.4g}, got {end}")
    try:
        grids = named_grids(steps, schedule, end, first)
    except UserError as error:
        raise UserError(f"--end {end:.4g} cannot be the last of {steps} levels: {error}") from None
    if not all((schedule(times).log_snr.diff() > 0).all() for times in grids.values()):
        raise UserError(
            f"{steps} levels from t = {first:.4g} to --end {end:.4g} are not all different: this schedule is "
            "a table that is flat in places"
        )


def _apart(times: Tensor, schedule: Schedule) -> bool:
    """Whether levels fall and no two are nearer than `LEAST_GAP` allows."""
    gaps = schedule(times).log_snr.diff()
    return bool((times.diff() < 0).all() and gaps.min() >= LEAST_GAP * gaps.mean())
