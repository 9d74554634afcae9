"""Search for the sampling times or the guidance of a run, for one sampler and one number of steps.

Guidance, and the times of a student of `ddim distill`, are compared by the KID of their samples against the
held-out images. The lowest of many noisy KIDs is partly low by chance. So the best candidate is compared with
the usual setting on new seeds, and used only if its KID is distinguishably lower there, at 95 %. The times of
other runs are compared by the error of their samples against samples with many steps.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from ddim.diffusion.grids import Karras
from ddim.diffusion.samplers import DDIM, DPMSolver, Multistep
from ddim.errors import UserError, check_count
from ddim.evaluation.image_sets import Reference, SampledParts, open_reference
from ddim.evaluation.record import name_recorded_guidance
from ddim.evaluation.sampler_errors import count_levels, prepare_run, search_times
from ddim.machine.progress import Progress, continue_progress, ignore_progress, with_bar
from ddim.metrics.catalogue import LEAST
from ddim.metrics.estimate import Estimate
from ddim.metrics.features import load_extractor
from ddim.metrics.kid import kid, kid_difference
from ddim.nn.ema import GUIDE
from ddim.plots.table import Tabular
from ddim.recipe.codec import describe_kind, override_sampling
from ddim.recipe.options import option_text
from ddim.runs.averages import list_weights
from ddim.runs.names import is_checkpoint
from ddim.sampling import sampling_setup
from ddim.sampling.image_features import compute_features
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import LoadedRun, load_given_run
from ddim.sampling.sampling_setup import Guidance, SamplingSetup, choose_sampling
from ddim.sampling.searched import FILE, read_searched, save_grid

FIRST_SEED = 2**31
"""First seed of the samples of a search.

Users rarely use such large seeds, so their samples differ from the samples of a search.
"""

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
            `guidance`, `guidance_interval` and `guide_with`. A search for an average has `model`, the run
            with this average.
        rows: one row for each candidate, with its error or its KID.
        title: which later samples use the result, or how to use it.
        value: the error or the KID of the result, for the seeds of the search; None for an average.
        facts: the facts about the average that `ddim.ema` stored, with its folder.
    """

    verdict: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    title: str = ""
    value: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path | None:
        """The folder of the average that `ddim.ema` stored, or None."""
        return self.facts.get("folder")

    def to_records(self) -> Sequence[Mapping[str, Any]]:
        """Return one row for each candidate."""
        return self.rows

    def to_json(self) -> dict[str, Any]:
        """Return the result, the arguments of `ddim.sample` that use it, and all candidates."""
        return {**super().to_json(), "options": self.options, "value": self.value, **self.facts}


@with_bar
def search(  # noqa: PLR0913 (the choices of a notebook)
    run: str | Path | LoadedRun,
    steps: int | None = None,
    *,
    guidance: bool = False,
    n: int | None = None,
    guide_with: str | Sequence[str] | None = None,
    fields: Mapping[str, Any] | None = None,
    save: bool = True,
    progress: Progress = ignore_progress,
) -> Search:
    """Find the best sampling times or the best guidance of a run.

    Times are kept if their samples are nearer to samples with many steps. Guidance, and the times of a
    student of `ddim distill`, are kept if the KID of their samples is distinguishably lower on new seeds, by
    an interval that is corrected for the number of candidates (Bonferroni).

    The result is saved in RUN/searched.json. From then on, `ddim sample` uses it with this sampler, number of
    steps and weights, unless a grid or a guidance scale is given. In Python, `searched=True` uses it.

    Args:
        run: a run folder.
        steps: sampling steps, at least 3 for times (default: 10 for times, else the recipe's).
        guidance: search for guidance: the guide, the scale and the noise levels.
        n: samples of each candidate (default: 16 for times, 500 where KID is measured).
        fields: the sampler, the grid and their fields, such as sampler dpm_solver and sampler.order 3.
        save: save the result with the run, for later samples; else it is only shown.

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
    if guidance:
        found = _search_guidance(chosen, steps, n, guide_with, progress)
    elif isinstance(chosen.recipe.sampler, Multistep):
        found = _search_levels(chosen, steps, n, progress)
    else:
        found = _search_times(chosen, steps, n, progress)
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
    at, sampler, options = run.checkpoint, run.recipe.sampler, found.options
    steps = options["steps"]
    if "guidance" not in options:
        save_grid(at.run, sampler, steps, at.weights, options["grid"], found.value)
    else:
        chosen = Guidance(options["guidance"], options["guidance_interval"], options["guide_with"])
        kept, labelled = chosen if chosen.on else None, choose_label(run.recipe) is not None
        sampling_setup.save_guidance(at.run, sampler, steps, at.weights, kept, labelled=labelled)
    what = f"{describe_kind(sampler)} in {steps} steps"
    return f"`ddim sample` uses this for {what} from now on, ddim.sample with searched=True: {at.run / FILE}"


# By the error of samples


def _search_times(run: LoadedRun, steps: int | None, n: int | None, progress: Progress) -> Search:
    """Return the times whose samples are nearest to samples with many steps, from the same noise."""
    sampler = run.recipe.sampler
    steps, n = 10 if steps is None else steps, 16 if n is None else n
    check_count("n", n)
    check_count("steps", steps, 3)
    # Fresh noise would change the samples, so the times are searched for steps without it.
    quiet = replace(sampler, eta=0.0) if isinstance(sampler, DDIM | DPMSolver) else sampler
    if quiet.stochastic:
        raise UserError("the sampler must be deterministic, because fresh noise would change the samples")
    # Heun's method has order 2: with 10 times as many steps it has a hundredth of the error.
    levels = max(100, 10 * steps)
    error, ends = prepare_run(run, range(FIRST_SEED, FIRST_SEED + n), progress, steps, levels)
    times, value, named = search_times(steps, ends, partial(error, quiet), progress)
    best = min(named, key=named.__getitem__)
    verdict = f"no times have a smaller error than the {best} grid"
    if value < named[best]:
        ratio = named[best] / value
        verdict = f"the sampling error is {ratio:.2f} times smaller than on the best named grid, {best}"
    errors = {"searched": value, **named}
    rows = [{"times": name, "mean_squared_error": error} for name, error in errors.items()]
    return Search(verdict, {"steps": steps, "grid": times}, rows, value=value)


# By the KID of samples


@dataclass(frozen=True)
class Trial:
    """A candidate that was measured.

    Attributes:
        name: the candidate in words.
        setup: how its samples are made.
        features: the features (n, d) of its samples.
        kid: the KID of its samples.
    """

    name: str
    setup: SamplingSetup
    features: np.ndarray
    kid: float


class Trials:
    """Measures the KID of samples of candidates against the held-out images of a run.

    Args:
        run: the run.
        n: number of samples of each candidate; None for 500.
        count: number of candidates.
        progress: called while the held-out images are prepared, then with "samples".

    Raises:
        UserError: if the held-out images cannot be opened, or are fewer than `LEAST`, so that their KID says
            nothing.
    """

    def __init__(self, run: LoadedRun, n: int | None, count: int, progress: Progress) -> None:
        self.n = 500 if n is None else n
        check_count("n", self.n, LEAST)
        self.extractor = load_extractor().to(run.runtime.exact_device)
        images = open_reference(run, Reference(), progress)
        if (held_out := len(images.which)) < LEAST:
            raise UserError(f"KID needs at least {LEAST} held-out images, got {held_out}")
        watch = partial(progress, "features of the reference")
        self.reference = compute_features(images, self.extractor, watch)
        self.count, self.progress = count, progress
        self.rows: list[dict[str, Any]] = []

    def measure(self, name: str, setup: SamplingSetup, *, new: bool = False, cached: bool = True) -> Trial:
        """Measure a candidate and add its row.

        Args:
            name: the candidate in words.
            setup: how its samples are made.
            new: whether the samples have other seeds than those of the search.
            cached: see `SampledParts`.
        """
        first = FIRST_SEED + self.n if new else FIRST_SEED
        progress = continue_progress(self.progress, len(self.rows) * self.n, self.count * self.n)
        parts = SampledParts(setup, range(first, first + self.n), progress, cached=cached)
        features = parts.compute_features(self.extractor).features
        found = kid(features, self.reference, subsets=1)
        self._add_row(name, new, found, steps=setup.steps, nfe=setup.count_evaluations())
        return Trial(name, setup, features, found.value)

    def compare(self, one: Trial, other: Trial) -> Estimate:
        """Return the difference of the KIDs of two candidates, whose samples have the same seeds."""
        return kid_difference(one.features, other.features, self.reference, paired=True)

    def confirm(self, best: Trial, usual: Trial) -> bool:
        """Return whether the KID of the best candidate is distinguishably lower on new seeds.

        The candidates were compared with the same held-out images, so the interval of the difference is
        corrected for their number.
        """
        candidates = len(self.rows)
        mine, theirs = (self.measure(each.name, each.setup, new=True) for each in (best, usual))
        difference = self.compare(mine, theirs)
        self._add_row("difference", True, difference)
        return difference.value < 0 and difference.distinguishable_among(candidates)

    def _add_row(self, name: str, new: bool, found: Estimate, **costs: int) -> None:
        row = {"candidate": name, "seeds": "new" if new else "search", **costs}
        self.rows.append(row | {"kid": found.value, "low": found.low, "high": found.high})


def _search_levels(run: LoadedRun, steps: int | None, n: int | None, progress: Progress) -> Search:
    """Return the times of a student at which its samples have the lowest KID.

    The noise level of its last step varies; the first step keeps its noise level.
    """
    grid = run.recipe.grid
    steps = run.recipe.choose_steps(steps)
    if not isinstance(grid, Karras):
        raise UserError("the search for a student needs the grid karras")
    label = choose_label(run.recipe)
    most = run.recipe.sampling_schedule(run.recipe.times(steps)[0]).noise_to_signal.item()
    grids = [replace(grid, sigma_min=grid.sigma_min * FACTOR**k) for k in TRIED]
    grids = [each for each in grids if each.sigma_min < most / FACTOR or each == grid]
    trials = Trials(run, n, len(grids) + 2, progress)
    tried = [
        trials.measure(f"sigma_min {g.sigma_min:.3g}", SamplingSetup(run.with_recipe(grid=g), steps, label))
        for g in grids
    ]
    best = min(tried, key=attrgetter("kid"))
    usual = tried[grids.index(grid)]
    verdict = f"{best.name} is better for the last step than {usual.name}"
    if best is usual or not trials.confirm(best, usual):
        verdict = f"no noise level of the last step is distinguishably better than {usual.name}"
        best = usual
    options = {"steps": steps, "grid": tuple(best.setup.times.tolist())}
    return Search(verdict, options, trials.rows, value=best.kid)


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
    # Candidates have the times that an earlier search saved, as samples with the result will.
    choose = partial(choose_sampling, run, label=label, guidance=Guidance(), searched=True)
    plain = choose(steps)
    guides = _open_guides(plain, guide_with)
    intervals = list_guided_intervals(plain)
    trials = Trials(run, n, 2 + len(guides) * len(SCALES) + len(intervals) + 2, progress)

    def spend(nfe: int) -> SamplingSetup[LoadedRun]:
        """Return the largest number of steps without guidance that costs at most `nfe`."""
        for more in range(count_levels(run.recipe.sampler, nfe), 1, -1):
            with suppress(UserError):  # the grid does not allow this number
                return choose(more)
        return plain

    def try_guidance(guided: Guidance) -> Trial:
        return trials.measure(name_recorded_guidance(guided.describe()), replace(plain, guidance=guided))

    most = spend(replace(plain, guidance=guides[0]).count_evaluations())
    few, many = (trials.measure("no guidance", each) for each in (plain, most))
    tried = [try_guidance(replace(guide, scale=scale)) for guide in guides for scale in SCALES]
    scale = min(tried, key=attrgetter("kid")).setup.guidance
    tried += [try_guidance(replace(scale, interval=ends)) for ends in intervals]
    best = min(tried, key=attrgetter("kid"))
    # Searched times can make few steps without guidance better than more steps.
    usual = plain if few.kid < many.kid else spend(best.setup.count_evaluations())
    verdict = f"{best.name} is distinguishably better than none"
    if not trials.confirm(best, replace(few, setup=usual)):
        verdict = "no guidance is distinguishably better than none at 95 %, so none is used"
        best = few
    chosen = best.setup.guidance
    options = {
        "steps": plain.steps,
        "guidance": chosen.scale,
        "guidance_interval": chosen.interval,
        "guide_with": chosen.guide,
    }
    options |= {"grid": tuple(plain.times.tolist())} if plain.searched else {}
    return Search(verdict, options, trials.rows, value=best.kid)


def _open_guides(plain: SamplingSetup[LoadedRun], guide_with: str | Sequence[str] | None) -> list[Guidance]:
    """Return guidance of scale 2 by each guide, classifier-free guidance first, if it is possible."""
    run, data = plain.pipeline, plain.pipeline.recipe.data
    names: list[str | None] = [None] if data.conditional and data.unconditional else []
    if guide_with is None:
        has_guide = GUIDE in list_weights(run.checkpoint.path)
        guide_with = [f"@{GUIDE}"] if has_guide or not names else []
    names += [guide_with] if isinstance(guide_with, str) else guide_with
    guides = [Guidance(2.0, guide=name) for name in names]
    return [sampling_setup.open_guidance(run, plain.label, plain.steps, guide) for guide in guides]


def list_guided_intervals(setup: SamplingSetup) -> list[tuple[float, float]]:
    """Return intervals of log-SNR without the cleanest third of the steps, the noisiest third, or both."""
    log_snr = setup.pipeline.recipe.sampling_schedule(setup.times).log_snr.tolist()
    # The ends lie between two steps, so rounding them to tenths moves no step out of an interval.
    thirds = (k * len(log_snr) // 3 for k in (1, 2))
    low, high = (round((log_snr[j - 1] + log_snr[j]) / 2, 1) for j in thirds)
    return [(-math.inf, high), (low, math.inf), (low, high)] if low < high else []
