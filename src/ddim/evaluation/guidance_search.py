"""Search for the best guidance of a run: the guide, the scale and the interval of noise levels.

Settings are compared by the KID of their samples against validation images. The best setting is then compared
with no guidance on fresh samples: with as many steps, or about as many network evaluations, whichever had the
lower KID. It is kept only if its KID is distinguishably lower at 95 %. This test is needed because the lowest
of many noisy KIDs is partly low by chance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ddim.errors import UserError, check_count, format_count
from ddim.evaluation.grid_search import FIRST_SEED
from ddim.evaluation.guidance_trials import GuidanceTrial, SearchedGuidance
from ddim.evaluation.reference import compute_validation_features
from ddim.evaluation.run_folder import open_searched_run
from ddim.evaluation.sample_features import compare_paired, sample_features
from ddim.evaluation.sampler_errors import count_levels
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.metrics.catalogue import LEAST
from ddim.metrics.features import Extractor, load_extractor
from ddim.metrics.kid import kid
from ddim.runs.names import GUIDE
from ddim.sampling.labels import Label, choose_label, find_label
from ddim.sampling.pipeline import LoadedRun
from ddim.sampling.sampling_setup import (
    OFF,
    Guidance,
    SamplingSetup,
    choose_sampling,
    find_searched_guidance,
    open_guidance,
    save_guidance,
)

SCALES = (1.25, 1.5, 2.0, 3.0)
"""The guidance scales that are tried with each guide."""

SAMPLES = 500
"""The default number of samples of each setting."""


@with_bar
def search_guidance(
    run: str | Path | LoadedRun,
    steps: int | None = None,
    n: int = SAMPLES,
    *,
    label: str | int | None = None,
    guides: str | Path | Sequence[str | Path] | None = None,
    progress: Progress = ignore_progress,
    announce: Callable[[str], object] = lambda text: None,
) -> SearchedGuidance:
    """Search for the guide, scale and interval of guidance with the lowest KID, and save them with the run.

    Sampling with the same sampler, number of steps and weights then uses this guidance, unless a guidance
    scale is given. The best setting is compared with no guidance on fresh samples: at the same number of
    steps or at about the same NFE, whichever is better. If no gain is distinguishable at 95 %, no guidance is
    saved. The reference images are the validation images. After an interruption, the same call continues
    where the search stopped.

    Args:
        run: a run folder, or the result of `ddim.load`, with its sampler and weights.
        steps: number of sampling steps, by default the recipe's.
        n: number of samples of each setting.
        label: class name or index; by default all classes of a run with labels. The guidance of one class is
            returned, but not saved.
        guides: the guide or guides to try, by name, such as "runs/small-1@raw"; by default "@guide", if the
            run has one. For a run with labels or vectors, classifier-free guidance is also tried.
        progress: called while validation images are prepared, then with "settings" while samples are made.
        announce: called with a sentence about the work before it begins.

    Raises:
        UserError: if there is nothing to guide with, a guide does not fit, or an argument is not allowed.

    Example:
        >>> ddim.search_guidance("runs/photos-fast-1")
        >>> ddim.sample("runs/photos-fast-1")
    """
    check_count("n", n, LEAST)
    loaded = open_searched_run(run)
    for name in loaded.list_changed("grid", "sampled_on", "clip"):
        raise UserError(f"{name} must be that of the run, because the guidance is saved for it: leave it out")
    found = choose_label(loaded.recipe) if label is None else find_label(label, loaded.recipe, loaded.classes)
    setup = choose_sampling(loaded, steps, found, {}, guidance=OFF)
    opened, steps = setup.pipeline, setup.steps
    extractor = load_extractor().to(loaded.runtime.exact_device)
    search = _Search(loaded, found, steps, n, extractor, progress)
    # If the file of searched values cannot be read, this fails now and not after the search.
    find_searched_guidance(opened, found, steps)
    if guides is None:
        guides = [f"@{GUIDE}"] if (opened.checkpoint.run / GUIDE).is_dir() else []
    named = [guides] if isinstance(guides, str | Path | LoadedRun) else guides
    if any(isinstance(guide, LoadedRun) for guide in named):
        raise UserError(
            'guides must be names, which are saved with the run, such as "runs/small-1@raw", got a loaded run'
        )
    result = search.find(_open_guides(opened, found, steps, named), announce)
    if found not in (None, choose_label(opened.recipe)):
        # Saved guidance holds for all labels.
        return replace(result, saved=False)
    _save(opened, steps, result.chosen, found)
    return result


def _save(run: LoadedRun, steps: int, chosen: Guidance | None, label: Label) -> None:
    place = run.checkpoint.run, run.recipe.sampler, steps, run.checkpoint.weights
    save_guidance(*place, chosen, labelled=label is not None)


def _open_guides(run: LoadedRun, label: Label, steps: int, named: Sequence[str | Path]) -> list[Guidance]:
    """Return guidance of scale 2 by each guide, after a check of each guide.

    Classifier-free guidance is first, if it is possible.

    Raises:
        UserError: if there is no guide, or a guide does not fit.
    """
    data, lacks = run.recipe.data, "has no labels and no"
    itself = label is not None and data.conditional and data.unconditional
    names = [*([None] if itself else []), *named]
    if not names:
        if (run.checkpoint.run / GUIDE).is_dir():
            raise UserError('guides must name a weaker model, such as "@guide", or be left out, got none')
        if data.conditional:
            why = (
                "the samples have no label"
                if data.unlabelled
                else "no label was withheld (data.unlabelled 0)"
            )
            lacks = f"cannot guide itself, since {why}, and has no"
        raise UserError(
            f"run {run.checkpoint.run} {lacks} {GUIDE} checkpoint (report.guide): name weaker models as "
            "`guides` (--guide-with RUN)"
        )
    asked = [Guidance(2.0, guide=None if name is None else str(name)) for name in names]
    return [open_guidance(run, label, steps, each) for each in asked]


@dataclass
class _Search:
    """A search: the values that all its settings share, and its progress.

    Attributes:
        run: the run, with its sampler.
        label: the label of all samples.
        steps: sampling steps of settings with guidance.
        n: number of samples of each setting.
        extractor: the network of the features.
        progress: called with "settings".
        done: number of measured settings.
        total: number of settings.
    """

    run: LoadedRun
    label: Label
    steps: int
    n: int
    extractor: Extractor
    progress: Progress
    done: int = 0
    total: int = 0

    def find(self, guides: Sequence[Guidance], announce: Callable[[str], object]) -> SearchedGuidance:
        """Return the result of the search, after all settings were measured.

        First each guide is tried at each scale. Then the best of these settings is tried in each interval.
        Finally, the setting with the lowest KID is compared with no guidance, on fresh samples: at the same
        number of steps or at about the same NFE, whichever had the lower KID.
        """
        settings = [replace(guide, scale=scale) for guide in guides for scale in SCALES]
        intervals = self.list_intervals()
        most = self.at(self.steps, settings[0]).count_evaluations()
        self.total = 2 + len(settings) + len(intervals) + 2
        announce(self.describe_work(most))
        reference = compute_validation_features(self.run, self.extractor, self.progress)

        def measure(guidance: Guidance, steps: int) -> GuidanceTrial:
            return self.measure(guidance, steps, reference, FIRST_SEED)[0]

        trials = [measure(OFF, self.steps), measure(OFF, self.equal_steps(most))]
        guided = [(measure(setting, self.steps), setting) for setting in settings]
        _, best = min(guided, key=lambda pair: pair[0].kid)
        limited = [replace(best, interval=ends) for ends in intervals]
        guided += [(measure(setting, self.steps), setting) for setting in limited]
        found, best = min(guided, key=lambda pair: pair[0].kid)
        # Searched times can make few steps without guidance better than more steps.
        few = trials[0].kid < trials[1].kid
        steps, fresh = self.steps if few else self.equal_steps(found.nfe), FIRST_SEED + self.n
        one, mine = self.measure(best, self.steps, reference, fresh)
        other, theirs = self.measure(OFF, steps, reference, fresh)
        difference = compare_paired(mine, theirs, reference)
        return SearchedGuidance((*trials, *(trial for trial, _ in guided)), one, other, difference)

    def at(self, steps: int, guidance: Guidance = OFF) -> SamplingSetup:
        """Return the run with its grid for this number of steps, and with guidance."""
        return replace(choose_sampling(self.run, steps, self.label, {}, guidance=OFF), guidance=guidance)

    def measure(
        self, guidance: Guidance, steps: int, reference: np.ndarray, first: int
    ) -> tuple[GuidanceTrial, np.ndarray | None]:
        """Return the trial of a setting, and the features of its samples; `first` is their first seed.

        If a sample is NaN, KID is infinite and the features are None.
        """
        setup = self.at(steps, guidance)

        def report(what: str, done: float, total: int) -> None:
            self.progress("settings", self.done + done / total, self.total)

        features = sample_features(setup, range(first, first + self.n), self.extractor, report)
        values = (math.inf,) * 3
        if features is not None:
            found = kid(features, reference, subsets=1)
            values = found.value, found.low, found.high
        self.done += 1
        self.progress("settings", self.done, self.total)
        return GuidanceTrial(replace(guidance, run=None), steps, setup.count_evaluations(), *values), features

    def list_intervals(self) -> list[tuple[float, float]]:
        """Return intervals of log-SNR without the cleanest third of steps, the noisiest third, or both."""
        setup = self.at(self.steps)
        log_snr = setup.pipeline.recipe.sampling_schedule(setup.times).log_snr.tolist()
        if len(log_snr) < 3:
            return []
        # The ends lie between two steps, so rounding them to tenths moves no step out of an interval.
        thirds = (k * len(log_snr) // 3 for k in (1, 2))
        low, high = (round((log_snr[j - 1] + log_snr[j]) / 2, 1) for j in thirds)
        return [(-math.inf, high), (low, math.inf), (low, high)] if low < high else []

    def equal_steps(self, nfe: int) -> int:
        """Return the largest number of steps without guidance that costs at most `nfe`.

        Numbers of steps that the grid does not allow are skipped. If no number is left, the result is
        `self.steps`.
        """
        for steps in range(count_levels(self.run.recipe.sampler, nfe), 1, -1):
            with suppress(UserError):
                self.at(steps)
                return steps
        return self.steps

    def describe_work(self, most: int) -> str:
        """Return a sentence about the work of the search; `most` is the largest NFE of a setting."""
        evaluations = self.total * self.n * most
        minutes = format_count(max(1, round(evaluations * _time_evaluation(self.run) / 60)), "minute")
        return (
            f"{self.total} settings of {self.n:,} samples, compared with the validation images: at most "
            f"{evaluations:,} network evaluations, about {minutes}"
        )


@torch.no_grad()
def _time_evaluation(run: LoadedRun) -> float:
    """Return the seconds that a network evaluation takes for one image.

    The first of two micro-batches is a warm-up, and the second is timed.
    """
    size = run.runtime.micro_batch
    x, seconds = run.runtime.images(run.model.blank(size)), 0.0
    with run.runtime.precise():
        for _ in range(2):
            began = time.monotonic()
            # On an accelerator, reading a value waits for the result.
            run.model(x, 0.5).x0.sum().item()
            seconds = time.monotonic() - began
    return seconds / size
