"""Search for the sampling times or the guidance of a run, for one sampler and one number of steps.

Guidance, and the times of a student of `ddim distill`, are compared by the KID of their samples against the
held-out images. The lowest of many noisy KIDs is partly low by chance. So the best candidate is compared with
the usual setting on new seeds, and used only if its KID is distinguishably lower there, at 95 %. The times of
other runs are compared by the error of their samples against samples with many steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddim.diffusion.grids import Karras
from ddim.diffusion.samplers import Multistep
from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError, check_count
from ddim.evaluation.record import name_guidance
from ddim.evaluation.reference import compute_validation_features
from ddim.evaluation.sample_features import sample_features
from ddim.evaluation.sampler_errors import (
    TimeRange,
    count_levels,
    count_reference_levels,
    error_against_reference,
    find_time_range,
)
from ddim.machine.progress import Progress, continue_progress, ignore_progress, open_progress
from ddim.metrics.catalogue import LEAST
from ddim.metrics.features import load_extractor
from ddim.metrics.kid import kid, kid_difference
from ddim.plots.table import Tabular
from ddim.recipe.codec import describe_kind, override_sampling
from ddim.recipe.options import option_text
from ddim.runs.names import GUIDE, is_checkpoint
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import LoadedRun, load_given_run
from ddim.sampling.sampling_setup import (
    OFF,
    Guidance,
    SamplingSetup,
    choose_sampling,
    open_guidance,
    save_guidance,
)
from ddim.sampling.searched import FILE, read_searched, save_grid

FIRST_SEED = 2**31
"""First seed of the samples of a search.

Users rarely use such large seeds, so their samples differ from the samples of a search.
"""

FIRST_MOVE, LAST_MOVE = 0.35, 0.03
"""Size of a move of a time at the start and at the end, as a fraction of the gap to the next log-SNR."""

MIXTURES = (0.25, 0.5, 0.75)
"""Weights of another grid in a mixture with the best grid."""

LEAST_GAP = 0.25
"""Smallest gap in log-SNR, as a fraction of the mean gap. A smaller gap would overfit the samples."""

SCALES = (1.25, 1.5, 2.0, 3.0)
"""The guidance scales that are tried with each guide."""

FACTOR, TRIED = 1.6, range(-4, 4)
"""For a student, `FACTOR` to these powers, times the last noise level of its own grid, are tried."""


@dataclass(frozen=True, repr=False)
class Search(Tabular):
    """What a search found; `ddim.sample(run, **found.options)` uses it.

    Attributes:
        verdict: the result in one sentence.
        options: arguments of `ddim.sample`: `steps`, with the times of the search as `grid`, or with
            `guidance`, `guidance_interval` and `guide_with`.
        rows: one row for each candidate, with its mean squared error or its KID.
        value: the error or the KID of the result, for the seeds of the search.
        title: which later samples use the result, or how to use it.
    """

    verdict: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    value: float = math.inf
    title: str = ""

    def to_records(self) -> Sequence[Mapping[str, Any]]:
        """Return one row for each candidate."""
        return self.rows

    def to_json(self) -> dict[str, Any]:
        """Return the result, the arguments of `ddim.sample` that use it, and all candidates."""
        return {**super().to_json(), "options": self.options, "value": self.value}


def search(  # noqa: PLR0913 (the choices of a notebook)
    run: str | Path | LoadedRun,
    steps: int | None = None,
    *,
    guidance: bool = False,
    n: int | None = None,
    guide_with: str | Sequence[str] | None = None,
    fields: Mapping[str, Any] | None = None,
    save: bool = True,
    progress: bool | Progress = True,
) -> Search:
    """Find the best sampling times or the best guidance of a run.

    Times are kept if their samples are nearer to samples with many steps. Guidance, and the times of a
    student of `ddim distill`, are kept if the KID of their samples is distinguishably lower.

    The result is saved in RUN/searched.json. From then on, samples of the run with this sampler, number of
    steps and weights use it, unless a grid or a guidance scale is given.

    Args:
        run: a run folder.
        steps: sampling steps, at least 3 for times (default: 10 for times, else the recipe's).
        guidance: search for guidance: the guide, the scale and the noise levels.
        n: samples of each candidate (default: 16 for times, 500 where KID is measured).
        fields: the sampler, the grid and their fields, such as sampler dpm_solver and sampler.order 3.
        save: save the result with the run, so that later samples use it; else it is only shown.

    Other Parameters:
        guide_with: guides to try, such as "@guide,runs/small-1@raw" (default: @guide, if the run has one).
        progress: True shows a bar in a notebook cell, False nothing. It can be a function, see `Progress`.

    Example:
        >>> found = ddim.search("runs/photos-fast-1", 5, save=False)
        >>> ddim.sample("runs/photos-fast-1", **found.options)

    Commands:
        ddim search runs/photos-fast-1 --steps 5
        ddim search runs/photos-fast-1 --guidance -n 1000
    """
    loaded = load_given_run(run)
    chosen = replace(loaded, recipe=override_sampling(loaded.recipe, fields or {}))
    if save:
        _check_saving(chosen, guidance)
    with open_progress(progress) as shown:
        if guidance:
            found = _search_guidance(chosen, steps, n, guide_with, shown)
        elif isinstance(chosen.recipe.sampler, Multistep):
            found = _search_levels(chosen, steps, n, shown)
        else:
            found = _search_times(chosen, steps, n, shown)
    if save:
        return replace(found, title=_save(chosen, found))
    words = [f"{name} {option_text(value)}" for name, value in found.options.items() if value is not None]
    return replace(found, title=f"nothing was saved; to use this, sample with {', '.join(words)}")


def _check_saving(run: LoadedRun, guidance: bool) -> None:
    """Check before a search that its result can be saved with the run, and holds for it."""
    if is_checkpoint(run.checkpoint.run):
        raise UserError(f"{run.checkpoint.run} is a checkpoint: give its run, or do not save the result")
    for name in run.list_changed(*["grid"] * guidance, "sampled_on", "clip"):
        raise UserError(f"{name} must be that of the run, for which the result is saved: leave it out")
    read_searched(run.checkpoint.run)


def _save(run: LoadedRun, found: Search) -> str:
    """Save a result in the run folder, and return a sentence that says which samples use it."""
    at, sampler, values = run.checkpoint, run.recipe.sampler, dict(found.options)
    place = at.run, sampler, (steps := values.pop("steps")), at.weights
    if "grid" in values:
        save_grid(*place, values["grid"], found.value)
    else:
        chosen = Guidance(*values.values())
        labelled = choose_label(run.recipe) is not None
        save_guidance(*place, chosen if chosen.on else None, labelled=labelled)
    return f"samples by {describe_kind(sampler)} in {steps} steps use this from now on: {at.run / FILE}"


# By the error of samples


def _search_times(run: LoadedRun, steps: int | None, n: int | None, progress: Progress) -> Search:
    """Return the times whose samples are nearest to samples with many steps, from the same noise."""
    sampler, steps, n = run.recipe.sampler, 10 if steps is None else steps, 16 if n is None else n
    check_count("n", n)
    if sampler.stochastic:
        raise UserError("the sampler must be deterministic, because fresh noise would change the samples")
    ends = find_time_range(run.recipe, max(steps, 2))
    ends.check(steps)
    seeds = range(FIRST_SEED, FIRST_SEED + n)
    error = error_against_reference(run, ends, seeds, count_reference_levels(steps), progress)
    times, value, named = search_times(steps, ends, lambda times: error(sampler, times), progress)
    best = min(named, key=named.__getitem__)
    verdict = f"no times have a smaller error than the {best} grid"
    if value < named[best]:
        ratio = named[best] / value
        verdict = f"the sampling error is {ratio:.2f} times smaller than on the best named grid, {best}"
    errors = {"searched": value, **named}
    rows = [{"times": name, "mean_squared_error": error} for name, error in errors.items()]
    return Search(verdict, {"steps": steps, "grid": times}, rows, value)


def search_times(
    steps: int,
    ends: TimeRange,
    error: Callable[[Tensor], float],
    progress: Progress = ignore_progress,
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
    return tuple(times.tolist()), best, named


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


# By the KID of samples


class _Trials:
    """Measures the KID of candidates against the held-out images of a run, and keeps a row for each.

    Args:
        run: the run.
        n: number of samples of each candidate; None for 500.
        count: number of candidates, with the two that `confirm` measures.
        progress: called while the held-out images are prepared, then with "samples".
    """

    def __init__(self, run: LoadedRun, n: int | None, count: int, progress: Progress) -> None:
        check_count("n", n := 500 if n is None else n, LEAST)
        self.extractor = load_extractor().to(run.runtime.exact_device)
        self.reference = compute_validation_features(run, self.extractor, progress)
        self.n, self.count, self.progress = n, count, progress
        self.rows: list[dict[str, Any]] = []

    def try_candidates(self, candidates: Mapping[str, SamplingSetup]) -> dict[str, float]:
        """Return the KID of each candidate, keyed by name; infinite if one of its samples is not finite."""
        measured = {name: self._measure(name, setup, "search") for name, setup in candidates.items()}
        return {name: value for name, (_, value) in measured.items()}

    def confirm(self, best: tuple[str, SamplingSetup], usual: tuple[str, SamplingSetup]) -> bool:
        """Return whether the best candidate has a distinguishably lower KID than the usual one, on new seeds.

        If only the samples of the best are finite, it is better too.
        """
        mine, theirs = (self._measure(*each, "new")[0] for each in (best, usual))
        if mine is None or theirs is None:
            return mine is not None
        difference = kid_difference(mine, theirs, self.reference, paired=True)
        self._add_row({"candidate": "difference", "seeds": "new"}, difference.to_json())
        return difference.high < 0

    def _measure(self, name: str, setup: SamplingSetup, seeds: str) -> tuple[np.ndarray | None, float]:
        """Return the features of the samples of a candidate, or None, and their KID; add its row."""
        first, total = FIRST_SEED + self.n * (seeds == "new"), self.count * self.n
        progress = continue_progress(self.progress, len(self.rows) * self.n, total)
        features = sample_features(setup, range(first, first + self.n), self.extractor, progress)
        found = {} if features is None else kid(features, self.reference, subsets=1).to_json()
        row = {"candidate": name, "seeds": seeds, "steps": setup.steps, "nfe": setup.count_evaluations()}
        self._add_row(row, found)
        return features, found.get("value", math.inf)

    def _add_row(self, row: dict[str, Any], found: Mapping[str, float]) -> None:
        self.rows.append(
            row | {"kid": found.get("value"), "low": found.get("low"), "high": found.get("high")}
        )


def _search_levels(run: LoadedRun, steps: int | None, n: int | None, progress: Progress) -> Search:
    """Return the times of a student at which its samples have the lowest KID.

    The noise level of its last step varies; the first step keeps its noise level.
    """
    grid, steps = run.recipe.grid, run.recipe.choose_steps(steps)
    if not isinstance(grid, Karras):
        raise UserError("the search for a student needs the grid karras")
    label, first = choose_label(run.recipe), run.recipe.times(steps)[0].item()
    most = run.recipe.sampling_schedule(first).noise_to_signal.item()
    grids = [replace(grid, sigma_min=grid.sigma_min * FACTOR**k) for k in TRIED]
    setups = {
        f"sigma_min {each.sigma_min:.3g}": SamplingSetup(run.with_recipe(grid=each), steps, label)
        for each in grids
        if each.sigma_min < most / FACTOR or each == grid
    }
    trials = _Trials(run, n, len(setups) + 2, progress)
    values = trials.try_candidates(setups)
    best, usual = min(values, key=values.__getitem__), f"sigma_min {grid.sigma_min:.3g}"
    if math.isinf(values[best]):
        raise UserError("the samples of the student are not finite: it cannot be used")
    verdict = f"{best} is better for the last step than {usual}"
    if best == usual or not trials.confirm((best, setups[best]), (usual, setups[usual])):
        verdict, best = f"no noise level of the last step is distinguishably better than {usual}", usual
    options = {"steps": steps, "grid": tuple(setups[best].times.tolist())}
    return Search(verdict, options, trials.rows, values[best])


def _search_guidance(
    run: LoadedRun,
    steps: int | None,
    n: int | None,
    guide_with: str | Sequence[str] | None,
    progress: Progress,
) -> Search:
    """Return the guidance with the lowest KID, or none.

    First each guide is tried at each scale. Then the best of these settings is tried in each interval.
    Finally, the setting with the lowest KID is compared with no guidance, on new seeds: at the same number of
    steps or at about the same NFE, whichever had the lower KID.
    """
    label = choose_label(run.recipe)
    plain = choose_sampling(run, steps, label, {}, guidance=OFF)

    def with_nfe(nfe: int) -> SamplingSetup[LoadedRun]:
        """Return the largest number of steps without guidance that costs at most `nfe`."""
        for more in range(count_levels(run.recipe.sampler, nfe), 1, -1):
            with suppress(UserError):  # the grid does not allow this number
                return choose_sampling(run, more, label, {}, guidance=OFF)
        return plain

    def name_setups(guides: Iterable[Guidance]) -> dict[str, SamplingSetup[LoadedRun]]:
        return {name_guidance(g.scale, g.interval, g.guide): replace(plain, guidance=g) for g in guides}

    guides = _open_guides(plain, guide_with)
    setups = name_setups(replace(guide, scale=scale) for guide in guides for scale in SCALES)
    intervals = list_guided_intervals(plain)
    trials = _Trials(run, n, 2 + len(setups) + len(intervals) + 2, progress)
    most = with_nfe(next(iter(setups.values())).count_evaluations())
    few, many = (trials.try_candidates({"no guidance": each})["no guidance"] for each in (plain, most))
    values = trials.try_candidates(setups)
    best = min(values, key=values.__getitem__)
    limited = name_setups(replace(setups[best].guidance, interval=ends) for ends in intervals)
    setups, values = setups | limited, values | trials.try_candidates(limited)
    best = min(values, key=values.__getitem__)
    # Searched times can make few steps without guidance better than more steps.
    usual = plain if few < many else with_nfe(setups[best].count_evaluations())
    options: dict[str, Any] = {"steps": plain.steps, "guidance": 1.0}
    verdict = "no guidance is distinguishably better than none at 95 %, so none is used"
    if trials.confirm((best, setups[best]), ("no guidance", usual)):
        verdict, chosen = f"{best} is distinguishably better than none", setups[best].guidance
        options["guidance"], options["guidance_interval"] = chosen.scale, chosen.interval
        options["guide_with"] = chosen.guide
    return Search(verdict, options, trials.rows, values[best])


def _open_guides(plain: SamplingSetup[LoadedRun], guide_with: str | Sequence[str] | None) -> list[Guidance]:
    """Return guidance of scale 2 by each guide, classifier-free guidance first, if it is possible."""
    run, data = plain.pipeline, plain.pipeline.recipe.data
    if guide_with is None:
        guide_with = [f"@{GUIDE}"] if (run.checkpoint.run / GUIDE).is_dir() else []
    names: list[str | None] = [guide_with] if isinstance(guide_with, str) else [*guide_with]
    if data.conditional and data.unconditional:
        names.insert(0, None)
    if not names:
        raise UserError(
            f"run {run.checkpoint.run} has nothing to guide with, neither labels (data.unlabelled) nor a "
            f"{GUIDE} checkpoint (report.guide): name a weaker model as guide_with"
        )
    return [open_guidance(run, plain.label, plain.steps, Guidance(2.0, guide=name)) for name in names]


def list_guided_intervals(setup: SamplingSetup) -> list[tuple[float, float]]:
    """Return intervals of log-SNR without the cleanest third of the steps, the noisiest third, or both."""
    log_snr = setup.pipeline.recipe.sampling_schedule(setup.times).log_snr.tolist()
    if len(log_snr) < 3:
        return []
    # The ends lie between two steps, so rounding them to tenths moves no step out of an interval.
    thirds = (k * len(log_snr) // 3 for k in (1, 2))
    low, high = (round((log_snr[j - 1] + log_snr[j]) / 2, 1) for j in thirds)
    return [(-math.inf, high), (low, math.inf), (low, high)] if low < high else []
