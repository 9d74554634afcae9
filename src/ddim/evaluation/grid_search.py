"""Search for the best sampling times of a run, for a sampler and a number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddim.diffusion.samplers import Multistep
from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError, check_count
from ddim.evaluation.level_search import SearchedGrid, search_levels
from ddim.evaluation.run_folder import load_given_run, open_run_folder
from ddim.evaluation.sampler_errors import (
    TimeRange,
    count_reference_levels,
    error_against_reference,
    find_time_range,
)
from ddim.files import make_folder
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.metrics.catalogue import LEAST
from ddim.metrics.features import load_extractor
from ddim.recipe.codec import override
from ddim.runs.folder import check_unused
from ddim.sampling import searched
from ddim.sampling.pipeline import LoadedRun

FIRST_MOVE, LAST_MOVE = 0.35, 0.03
"""Size of a move at the start and at the end of a search, as a fraction of the gap to the next log-SNR."""

MIXTURES = (0.25, 0.5, 0.75)
"""Weights of another grid in a mixture with the best grid."""

LEAST_GAP = 0.25
"""Smallest gap in log-SNR, as a fraction of the mean gap. A smaller gap would overfit the samples."""

FIRST_SEED = 2**31
"""First seed of the samples of a search.

Users rarely use such large seeds, so their samples differ from the samples of a search.
"""


@with_bar
def search_grid(
    run: str | Path | LoadedRun,
    steps: int | None = None,
    *,
    end: float | None = None,
    seeds: int | None = None,
    fields: Mapping[str, Any] | None = None,
    progress: Progress = ignore_progress,
    out: str | Path | None = None,
) -> SearchedGrid:
    """Search for the best sampling times of a run, and save them in searched.json.

    If this file is in the run folder, sampling uses these times.

    Args:
        run: a run folder, or the result of `ddim.load`.
        steps: number of sampling steps, at least 3; by default 10. For the sampler multistep, at least 2; by
            default the number in the recipe.
        end: the last time, by default the last time of the run's own grid.
        seeds: number of samples whose error is measured, by default 16, or 500 for the sampler multistep.
        fields: changes of the recipe's sampler and grid, as `override` takes them; no other fields.
        progress: called with "reference samples", then with "grids" after each grid. The total number of
            grids is an estimate, which grows as long as the error falls.
        out: a new or empty folder for searched.json, by default the run folder.

    Returns:
        The times, their mean squared error, and the error of every named grid. For the sampler multistep, the
        KID replaces the mean squared error, and the noise levels that were tried replace the named grids.

    Raises:
        UserError: if the sampler is stochastic, except multistep. Also if a number or field is not allowed,
            the schedule has too few different noise levels, or it is not that of the run and there is no
            `out`. For the sampler multistep, also if `end` is given or the grid is not karras.
    """
    run = open_run_folder(run) if out is None else load_given_run(run)
    _check_choices(run, fields or {}, out)
    folder = run.checkpoint.run if out is None else Path(out)
    recipe, weights = override(run.recipe, fields or {}), run.checkpoint.weights
    if isinstance(recipe.sampler, Multistep):
        return _search_student(replace(run, recipe=recipe), steps, end, seeds, folder, progress)
    steps, seeds = 10 if steps is None else steps, 16 if seeds is None else seeds
    check_count("steps", steps, 3)
    check_count("seeds", seeds)
    if recipe.sampler.stochastic:
        raise UserError("--sampler must be deterministic, because fresh noise would change the samples")
    # If `end` is given, only the first time of the run's grid is needed. It is then taken from the grid with
    # the run's own number of steps, because a grid with `steps` times may not exist.
    ends = find_time_range(recipe, max(steps, 2) if end is None else recipe.steps, end)
    ends.check(steps)
    # If this file cannot be read, this fails now and not after the search.
    searched.find_saved_grid(folder, recipe.sampler, steps, weights)
    tried = range(FIRST_SEED, FIRST_SEED + seeds)
    error = error_against_reference(run, ends, tried, count_reference_levels(steps), progress)
    found = search_times(steps, ends, lambda times: error(recipe.sampler, times), progress)
    make_folder(folder)
    searched.save_grid(folder, recipe.sampler, steps, weights, found.times, found.error)
    return found


def _check_choices(run: LoadedRun, fields: Mapping[str, Any], out: str | Path | None) -> None:
    """Check that the times will be saved for the samples that `ddim sample` makes with them.

    Raises:
        UserError: if a field is not of the sampler or the grid, or if times for another schedule would be
            saved with the run. Also if `out` is not empty or cannot be created.
    """
    for name in fields:
        if name.partition(".")[0] not in ("sampler", "grid"):
            raise UserError(f"fields of a search must be of the sampler or the grid, got {name}")
    if out is not None:
        check_unused(Path(out))
    elif run.list_changed("sampled_on"):
        raise UserError("times are saved for the schedule of the run: give another folder as out (--out)")


def _search_student(
    run: LoadedRun, steps: int | None, end: float | None, seeds: int | None, folder: Path, progress: Progress
) -> SearchedGrid:
    """Search for the noise level of the last step of a student; see `search_grid`."""
    steps, seeds = run.recipe.choose_steps(steps), 500 if seeds is None else seeds
    check_count("seeds", seeds, LEAST)
    if end is not None:
        raise UserError(f"--end must be left out for the sampler multistep, whose end is searched, got {end}")
    place = run.recipe.sampler, steps, run.checkpoint.weights
    searched.find_saved_grid(folder, *place)
    extractor = load_extractor().to(run.runtime.exact_device)
    found = search_levels(run, steps, range(FIRST_SEED, FIRST_SEED + seeds), extractor, progress)
    make_folder(folder)
    searched.save_grid(folder, *place, found.times, found.error)
    return found


def search_times(
    steps: int,
    ends: TimeRange,
    error: Callable[[Tensor], float],
    progress: Progress = ignore_progress,
) -> SearchedGrid:
    """Return the times with the least error that a coordinate descent finds.

    First the best named grid is mixed with each other named grid, on the scale of log-SNR. Then each time in
    turn moves towards a neighbour by a part of the gap in log-SNR. A change that lowers the error is kept.
    If a sweep over all times lowers the error by at most 2 %, the moves are halved.

    Args:
        steps: number of times, at least 3.
        ends: the schedule, and the first and the last time.
        error: a function that returns the error of times (steps,).
        progress: see `search_grid`.

    Raises:
        UserError: if there are fewer than 3 steps, or no grid leads to finite samples. Also if the last time
            is not between 0 and the first, or the schedule has too few different noise levels.
    """
    ends.check(steps)
    grids, schedule = ends.lay_grids(steps), ends.schedule
    done, sweep = 0, 2 * (steps - 2)
    # A sweep tries two moves of each time, and each size of move needs at least one sweep.
    total = len(grids) * (1 + len(MIXTURES)) + sweep * math.ceil(1 + math.log2(FIRST_MOVE / LAST_MOVE))

    def finite_error(times: Tensor) -> float:
        nonlocal done
        value = error(times)
        done += 1
        progress("grids", done, max(total, done + sweep))
        return value if math.isfinite(value) else math.inf

    named = {name: finite_error(times) for name, times in grids.items()}
    best = min(named.values())
    if best == math.inf:
        raise UserError("no named grid leads to finite samples: the model cannot be used")
    times = grids[min(named, key=named.__getitem__)]
    log_snr = schedule(times).log_snr
    for other in grids.values():
        for part in MIXTURES:
            mixed = schedule.inverse(torch.lerp(log_snr, schedule(other).log_snr, part))
            mixed[0], mixed[-1] = times[0], times[-1]
            if _are_apart(mixed, schedule) and (value := finite_error(mixed)) < best:
                times, best = mixed, value
    times, best = _descend(times, best, schedule, finite_error)
    return SearchedGrid(tuple(times.tolist()), best, named)


def _descend(
    times: Tensor, best: float, schedule: Schedule, error: Callable[[Tensor], float]
) -> tuple[Tensor, float]:
    """Move one time after another, keep each move that lowers the error, and return times and error.

    `best` is the error of `times` at the start.
    """
    move = FIRST_MOVE
    while move >= LAST_MOVE:
        before = best
        for k in range(1, len(times) - 1):
            for towards in (k - 1, k + 1):
                log_snr = schedule(times).log_snr
                tried = times.clone()
                tried[k] = schedule.inverse(torch.lerp(log_snr[k], log_snr[towards], move))
                if _are_apart(tried, schedule) and (value := error(tried)) < best:
                    times, best = tried, value
                    break
        if best >= 0.98 * before:
            move /= 2
    return times, best


def _are_apart(times: Tensor, schedule: Schedule) -> bool:
    """Return whether times strictly decrease, and all gaps are at least `LEAST_GAP` times the mean gap."""
    gaps = schedule(times).log_snr.diff()
    return bool((times.diff() < 0).all() and gaps.min() >= LEAST_GAP * gaps.mean())
