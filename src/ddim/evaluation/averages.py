"""Choose the width of a run's average of weights after training.

Averages of any width are reconstructed from the snapshots of the run (Karras et al. 2024, appendix C). Those
of several widths can be measured, and the best is kept.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ddim.errors import UserError, quote
from ddim.evaluation.search import Search, Trials
from ddim.files import is_locked
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.metrics.statistics import Estimate, estimate_mean
from ddim.nn import power_averages as powers
from ddim.nn.power_averages import GAMMAS, Profile
from ddim.runs import averages as stores, checkpoint
from ddim.runs.names import find_run_folder
from ddim.sampling.images import open_run_images
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import LoadedRun, load
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training.validation import choose_times, denoise_validation_images

WIDTHS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25)
"""The widths that `ema` lists and tries."""

LARGEST_ERROR = 0.1
"""Largest error of a reconstruction that is tried by default; see `Combination`."""


Measured = tuple[dict[str, float], Estimate]
"""A measured value by name, and its difference from that of the default average."""


@dataclass(frozen=True)
class Average:
    """An average of weights that can be computed as a sum of stored averages.

    Attributes:
        facts: its width, and the error of the sum.
        terms: the coefficient, the folder and the name of each stored average.
    """

    facts: stores.StoredAverage
    terms: Sequence[tuple[float, Path, str]]

    def compute(self) -> dict[str, Tensor]:
        """Return the average, float32 and keyed by tensor name; it is summed in float64.

        The file of each stored average is read once and checked by its hash.
        """
        total: dict[str, Tensor] = {}
        for coefficient, folder, stored in self.terms:
            for name, value in checkpoint.read_tensors(folder, stored).items():
                total[name] = total.get(name, 0) + coefficient * value.double()
        return {name: value.float() for name, value in total.items()}


class Averages:
    """The averages of a checkpoint and of earlier snapshots, from which other widths are reconstructed.

    Args:
        run: a run folder, for its newest checkpoint; RUN/best; or a checkpoint in a run folder.

    Attributes:
        loaded: the run, whose model may get other weights.
        folder: the run folder.
        path: the checkpoint.
        step: the step of the checkpoint.
        names: the names of the checkpoint's power-function averages, keyed by power.
        snapshots: the snapshots of earlier steps, the oldest first.

    Raises:
        UserError: if the run has no checkpoint or snapshots.
    """

    def __init__(self, run: str | Path) -> None:
        self.loaded = load(run)
        at = self.loaded.checkpoint
        self.folder, self.path, self.step = find_run_folder(at.path), at.path, at.state.step
        self.names = powers.list_powers(powers.track_averages(at.recipe.ema, at.recipe.report.snapshots))
        self.snapshots = stores.list_snapshots(self.folder, self.step)
        if not self.snapshots:
            advice = "train with report.snapshots 8 to keep them, from step 64 on"
            raise UserError(f"run {self.folder} has no snapshots before step {self.step}: {advice}")

    @property
    def default(self) -> Average:
        """The default average of the run, which may have no width."""
        gamma = next((gamma for gamma, name in self.names.items() if name == "default"), None)
        width = None if gamma is None else powers.relative_width(gamma)
        facts = stores.StoredAverage(width, gamma, 0.0, self.step, stores.hash_weights(self.path))
        return Average(facts, [(1.0, self.path, "ema/default")])

    def reconstruct(self, width: float) -> Average:
        """Return the average of a width, reconstructed from the others."""
        files = {Profile(k, g): (path, f"{g}") for k, path in self.snapshots.items() for g in GAMMAS}
        files |= {Profile(self.step, gamma): (self.path, f"ema/{n}") for gamma, n in self.names.items()}
        gamma = powers.power_of_width(width)
        coefficients, error = powers.combine_profiles([*files], Profile(self.step, gamma))
        steps = tuple(self.snapshots)
        facts = stores.StoredAverage(width, gamma, error, self.step, stores.hash_weights(self.path), steps)
        return Average(facts, [(c, *file) for c, file in zip(coefficients, files.values(), strict=True)])

    def list_widths(self) -> list[float]:
        """Return the widths that the run tracks and the other widths in `WIDTHS`, sorted."""
        tracked = [powers.relative_width(gamma) for gamma in self.names]
        others = [w for w in WIDTHS if not any(math.isclose(w, one, rel_tol=0.01) for one in tracked)]
        return sorted([*tracked, *others])


@with_bar
def ema(
    run: str | Path,
    width: float | Sequence[float] | None = None,
    *,
    pick: Literal["validation", "kid"] | None = None,
    n: int = 500,
    progress: Progress = ignore_progress,
) -> Search:
    """Choose the width of the average of the weights (EMA) after training.

    The relative width says over which part of the run the weights are averaged: it is the standard deviation
    of the profile of the average, as a fraction of the run. A run that was trained with report.snapshots 8
    keeps snapshots of two averages, from which others are reconstructed (Karras et al. 2024, appendix C).

    A run alone, or with several widths, lists the errors of reconstructions. With one width, this average is
    stored in RUN/averages, and RUN@width-0.05 is the run with the average of width 0.05. With pick, several
    widths are measured, and RUN@picked is the run with the best of them. The default average is among them.
    The lowest of several values is partly low by chance: the interval by which it is called better is
    corrected for their number (Bonferroni). Evaluate the kept average anew.

    Args:
        run: a run folder, for its newest checkpoint; RUN/best; or a checkpoint.
        width: relative width to reconstruct, such as 0.05. With pick: widths to try (default: all whose error
            of reconstruction is at most 10 %).
        pick: "validation" compares the error of denoised held-out images, measured as in the training; "kid"
            compares samples, without guidance, at the times of the recipe's grid.
        n: samples of each width for KID.

    Other Parameters:
        progress: True shows a bar in a notebook cell, False nothing. It can be a function, see `Progress`.

    Example:
        >>> ddim.ema("runs/photos-fast-1", pick="validation")
        >>> ddim.sample("runs/photos-fast-1@picked")

    Commands:
        ddim ema runs/photos-fast-1 --pick validation
        ddim ema runs/photos-fast-1 --width 0.08
    """
    averages = Averages(run)
    widths = averages.list_widths() if width is None else [float(each) for each in np.atleast_1d(width)]
    tried, rows = [averages.reconstruct(each) for each in widths], []
    if pick is None and (width is None or len(tried) > 1):
        return _list_averages(averages, tried)
    if is_locked(averages.folder):
        # The training would remove the checkpoint and the snapshots.
        raise UserError(f"run {averages.folder} is still training: wait until it ends, or stop it")
    chosen, name, verdict = tried[0], f"width-{widths[0]:g}", f"width {widths[0]:g} is stored"
    if pick is not None:
        if width is None:
            tried = [average for average in tried if average.facts.error <= LARGEST_ERROR]
        name = "picked"
        verdict, chosen, rows = _pick_average(averages, tried, pick, n, progress)
    facts = replace(chosen.facts, choice=tuple(rows))
    folder = stores.store_average(averages.folder, name, chosen.compute(), facts)
    stored = {"name": name, **asdict(facts), "folder": folder}
    model, shown = f"{averages.loaded.checkpoint.run}@{name}", rows or [_to_row(facts)]
    return Search(verdict, {"model": model}, shown, f"to use it: ddim sample {quote(model)}", facts=stored)


def _to_row(facts: stores.StoredAverage) -> dict[str, Any]:
    return {"width": facts.width, "gamma": facts.gamma, "reconstruction_error": facts.error}


def _list_averages(averages: Averages, known: Sequence[Average]) -> Search:
    """Return the widths that can be reconstructed for a run, and the averages that are stored with it."""
    rows = [_to_row(average.facts) for average in known]
    run = averages.loaded.checkpoint.run
    verdict = f"{len(rows)} widths can be reconstructed; `ddim ema {quote(run)} --pick kid` chooses one"
    for name, facts in stores.list_stored(averages.folder).items():
        rows.append(_to_row(facts) | {"stored": name, "step": facts.step})
    steps = ", ".join(map(str, averages.snapshots))
    return Search(verdict, {}, rows, f"{run}: snapshots of steps {steps}")


def _pick_average(
    averages: Averages, others: Sequence[Average], pick: str, n: int, progress: Progress
) -> tuple[str, Average, list[dict[str, Any]]]:
    """Return a verdict, the best of the default average and others, and a row for each of them."""
    default = averages.default
    tried = [default, *(average for average in others if average.facts.width != default.facts.width)]
    measure = {"kid": _measure_kid, "validation": _measure_errors}[pick]
    rows, differences = [], []
    for average, (value, difference) in zip(tried, measure(averages.loaded, tried, n, progress), strict=True):
        ends = {"difference": difference.value, "low": difference.low, "high": difference.high}
        rows.append(_to_row(average.facts) | value | {name: float(end) for name, end in ends.items()})
        differences.append(difference)
    best = min(range(len(tried)), key=lambda k: differences[k].value)
    verdict = "the default average is the best"
    if best:
        words = "not distinguishable from"
        if differences[best].distinguishable_among(len(tried) - 1):
            words = "distinguishably better than"
        width = f"width {tried[best].facts.width:.3g} is the best of {len(tried)}"
        verdict = f"{width}; it is {words} the default at 95 %, corrected for their number"
    return verdict, tried[best], rows


def _load_each(loaded: LoadedRun, averages: Sequence[Average], progress: Progress) -> Iterator[None]:
    """Load one average after another into the model."""
    for k, average in enumerate(averages):
        progress("averages", k, len(averages))
        loaded.model.load_state_dict(average.compute(), strict=False)
        yield


def _measure_errors(
    loaded: LoadedRun, averages: Sequence[Average], n: int, progress: Progress
) -> Iterator[Measured]:
    """Yield the validation error of each average, and its difference from that of the first average."""
    if loaded.recipe.is_student:
        raise UserError("the validation error of a student rises while it learns sharp images: pick by kid")
    split, default = open_run_images(loaded, progress), None
    if len(choose_times(loaded.recipe, split)) < 2:
        raise UserError("averages are compared on at least 2 held-out images (report.validation_images)")
    for _ in _load_each(loaded, averages, progress):
        errors = denoise_validation_images(loaded, split)
        found = torch.cat([error["image_mae"] for error in errors]).numpy()
        default = found if default is None else default
        yield {"validation_error": float(found.mean())}, estimate_mean(found - default)


def _measure_kid(
    loaded: LoadedRun, averages: Sequence[Average], n: int, progress: Progress
) -> Iterator[Measured]:
    """Yield the KID of `n` samples of each average, and its difference from that of the first average."""
    trials, default = Trials(loaded, n, len(averages), progress), None
    setup = SamplingSetup(loaded, loaded.recipe.steps, choose_label(loaded.recipe))
    for _ in _load_each(loaded, averages, ignore_progress):
        found = trials.measure("average", setup, cached=False)
        default = found if default is None else default
        yield {"kid": found.kid}, trials.compare(found, default)
