"""Choose the width of a run's average of weights after training.

Averages of any width are reconstructed from the snapshots of the run (Karras et al. 2024, appendix C). Those
of several widths can be measured, and the best is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ddim.errors import UserError, check_count, quote, to_float
from ddim.evaluation.reference import compute_validation_features
from ddim.evaluation.run_folder import load_given_run
from ddim.evaluation.search import FIRST_SEED
from ddim.files import is_locked
from ddim.machine.progress import Progress, open_progress
from ddim.metrics.catalogue import LEAST
from ddim.metrics.features import load_extractor
from ddim.metrics.kid import kid, kid_difference
from ddim.metrics.statistics import Estimate, estimate_mean
from ddim.nn.power_averages import (
    Combination,
    Profile,
    combine_profiles,
    list_powers,
    power_of_width,
    relative_width,
    track_averages,
)
from ddim.plots.table import Tabular
from ddim.recipe.codec import load_recipe
from ddim.recipe.recipe import Recipe
from ddim.runs import checkpoint
from ddim.runs.averages import (
    Snapshot,
    StoredAverage,
    check_average_name,
    hash_weights,
    list_snapshots,
    list_stored,
    store_average,
)
from ddim.runs.names import resolve
from ddim.sampling.generate import sample_uint8
from ddim.sampling.images import open_run_images
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import LoadedRun
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training.validation import denoise_validation_images

WIDTHS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25)
"""The widths that `ema` lists and tries."""

LARGEST_ERROR = 0.1
"""Largest error of a reconstruction that is tried by default; see `Combination`."""

COLUMNS = {"validation": "validation_error", "kid": "kid"}
"""The name of the measured value in the rows, for each measure."""

_Measure = Callable[[], np.ndarray]
"""Measures the weights that the model has now; returns a row for each image or seed."""

_Compare = Callable[[np.ndarray, np.ndarray], tuple[float, Estimate]]
"""Returns a number for the first rows, lower is better, and its difference from that of the second rows."""


@dataclass(frozen=True)
class Averages:
    """The averages of a checkpoint and of earlier snapshots, from which other widths are reconstructed.

    Attributes:
        run: the run folder.
        path: the checkpoint.
        step: the step of the checkpoint.
        recipe: the recipe of the checkpoint.
        names: the names of the checkpoint's power-function averages, keyed by power.
        snapshots: the snapshots of earlier steps, the oldest first.
    """

    run: Path
    path: Path
    step: int
    recipe: Recipe
    names: dict[float, str]
    snapshots: tuple[Snapshot, ...]

    @property
    def widths(self) -> list[float]:
        """The widths that the run tracks and the other widths in `WIDTHS`, sorted."""
        tracked = [relative_width(gamma) for gamma in self.names]
        others = [w for w in WIDTHS if not any(math.isclose(w, one, rel_tol=0.01) for one in tracked)]
        return sorted([*tracked, *others])

    @property
    def files(self) -> dict[Profile, tuple[Path, str]]:
        """The folder and the name of each average, keyed by its profile."""
        files = {Profile(s.step, gamma): (s.path, f"{gamma}") for s in self.snapshots for gamma in s.gammas}
        return files | {Profile(self.step, g): (self.path, f"ema/{name}") for g, name in self.names.items()}

    def combine(self, width: float) -> Combination:
        """Return the combination of these averages that is nearest to an average with this width."""
        return combine_profiles([*self.files], Profile(self.step, power_of_width(width)))

    def reconstruct(self, width: float) -> tuple[dict[str, Tensor], StoredAverage]:
        """Return the average of a width, float32 and keyed by tensor name, and the facts stored with it.

        It is summed in float64. Each file is read once and checked by its hash.
        """
        combination = self.combine(width)
        total: dict[str, Tensor] = {}
        for place, coefficient in zip(self.files.values(), combination.coefficients, strict=True):
            for name, value in checkpoint.read_tensors(*place).items():
                part = value.double().mul_(coefficient)
                total[name] = total[name].add_(part) if name in total else part
        gamma, error, weights = power_of_width(width), combination.error, hash_weights(self.path)
        steps = tuple(one.step for one in self.snapshots)
        facts = StoredAverage(width, gamma, error, self.step, weights, steps)
        return {name: value.float() for name, value in total.items()}, facts

    def read_default(self) -> tuple[dict[str, Tensor], StoredAverage]:
        """Return the default average of the checkpoint, with its facts."""
        gamma = next((gamma for gamma, name in self.names.items() if name == "default"), None)
        width = None if gamma is None else relative_width(gamma)
        facts = StoredAverage(width, gamma, 0.0, self.step, hash_weights(self.path))
        return checkpoint.read_tensors(self.path, "ema/default"), facts


def open_averages(run: str | Path, *, ended: bool = False) -> Averages:
    """Return the averages of a run from which averages of other widths can be reconstructed.

    Args:
        run: a run folder, for its newest checkpoint; RUN/best; or a checkpoint in a run folder.
        ended: whether an average is to be stored, so that the training must have ended.

    Raises:
        UserError: if the run has no checkpoint or snapshots, or should have ended and is still training.
    """
    folder, path, _ = resolve(run)
    if ended and is_locked(folder):
        # The training would remove the checkpoint and the snapshots.
        raise UserError(f"run {folder} is still training: wait until it ends, or stop it and resume it later")
    recipe = load_recipe(checkpoint.read_document(path, "recipe"))
    step = checkpoint.read_manifest(path).step
    snapshots = tuple(list_snapshots(folder, step))
    if not snapshots:
        raise UserError(
            f"run {folder} has no snapshots of its averages before step {step}: train with "
            "report.snapshots 8 to keep them, from step 64 on"
        )
    tracked = track_averages(recipe.ema, recipe.report.snapshots)
    return Averages(folder, path, step, recipe, list_powers(tracked), snapshots)


@dataclass(frozen=True, repr=False)
class AverageTable(Tabular):
    """The averages of a run: one row for each.

    Attributes:
        verdict: what was found or stored, in one sentence.
        title: more about it, such as the command that uses a stored average.
        rows: the width of each average, its power, the error of its reconstruction, and what was measured.
        average: the average that was stored now, or None.
        notes: sentences for careful readers.
    """

    verdict: str = ""
    title: str = ""
    rows: Sequence[dict[str, Any]] = ()
    average: StoredAverage | None = None
    notes: Sequence[str] = ()

    @property
    def folder(self) -> Path | None:
        """The folder of the stored average, or None."""
        return None if self.average is None else self.average.folder

    def to_records(self) -> Sequence[dict[str, Any]]:
        """Return one row for each average."""
        return self.rows

    def to_json(self) -> dict[str, Any]:
        """Return the table, and the facts about the average that was stored."""
        stored = {} if self.average is None else {"name": self.average.folder.name, **asdict(self.average)}
        return {**super().to_json(), **stored}


def ema(
    run: str | Path | LoadedRun,
    width: float | Sequence[float] | None = None,
    *,
    pick: Literal["validation", "kid"] | None = None,
    n: int = 500,
    name: str | None = None,
    progress: bool | Progress = True,
) -> AverageTable:
    """Choose the width of the average of the weights (EMA) after training.

    The relative width says over which part of the run the weights are averaged: it is the standard deviation
    of the profile of the average, as a fraction of the run. A run that was trained with report.snapshots 8
    keeps snapshots of two averages, from which others are reconstructed (Karras et al. 2024, appendix C).

    A run alone lists the widths with the errors of their reconstructions. With a width, this average is
    stored in RUN/averages, and RUN@NAME is the run with this average. With pick, several widths are measured,
    and the best is stored. The default average is measured too, so the stored average is never worse.

    Args:
        run: a run folder, for its newest checkpoint; RUN/best; or a checkpoint.
        width: relative width to reconstruct, such as 0.05. With pick: widths to try (default: all whose error
            of reconstruction is at most 10 %).
        pick: "validation" compares the error of denoised held-out images, measured as in the training; "kid"
            compares samples, without guidance, at the times of the recipe's grid.
        n: samples of each width for KID.
        name: name of the stored average (default: width-0.05 for the width 0.05, or picked).

    Other Parameters:
        progress: True shows a bar in a notebook cell, False nothing. It can be a function, see `Progress`.

    Example:
        >>> ddim.ema("runs/photos-fast-1", pick="validation")
        >>> ddim.sample("runs/photos-fast-1@picked")

    Commands:
        ddim ema runs/photos-fast-1 --pick validation
        ddim ema runs/photos-fast-1 --width 0.08
    """
    if pick is not None:
        with open_progress(progress) as shown:
            return _pick_average(run, width, pick, n, name or "picked", shown)
    given = run.checkpoint.path if isinstance(run, LoadedRun) else run
    if width is None:
        return _list_averages(given)
    width = to_float("width", width)
    name = check_average_name(name or f"width-{width:g}")
    opened = open_averages(given, ended=True)
    average = store_average(opened.run, name, *opened.reconstruct(width))
    verdict = f"width {width:g}, with reconstruction error {average.error:.2%}, is stored: {average.folder}"
    return AverageTable(verdict, _name_use(given, name), (_describe_width(average),), average)


def _name_use(run: str | Path, name: str) -> str:
    return f"to use it: ddim sample {quote(f'{run}@{name}')}"


def _describe_width(average: StoredAverage) -> dict[str, Any]:
    return {"width": average.width, "gamma": average.gamma, "reconstruction_error": average.error}


def _list_averages(run: str | Path) -> AverageTable:
    """Return the widths that can be reconstructed for a run, and the averages that are stored with it."""
    opened = open_averages(run)
    rows = [
        {"width": w, "gamma": power_of_width(w), "reconstruction_error": opened.combine(w).error}
        for w in opened.widths
    ]
    pick = "kid" if opened.recipe.is_student else "validation"
    verdict = f"{len(rows)} widths can be reconstructed; `ddim ema {quote(run)} --pick {pick}` chooses one"
    for name, average in list_stored(opened.run).items():
        rows.append(_describe_width(average) | {"stored": name, "step": average.step})
    steps = ", ".join(str(one.step) for one in opened.snapshots)
    size = sum(one.size for one in opened.snapshots) / 1e6
    return AverageTable(verdict, f"{run}: snapshots of steps {steps}, {size:.1f} MB", rows)


def _pick_average(
    run: str | Path | LoadedRun,
    widths: float | Sequence[float] | None,
    pick: Literal["validation", "kid"],
    n: int,
    name: str,
    progress: Progress,
) -> AverageTable:
    """Reconstruct averages of several widths, measure each, and store the best."""
    if pick not in COLUMNS:
        raise UserError(f"pick must be validation or kid, got {pick!r}")
    check_average_name(name)
    loaded = load_given_run(run)
    if loaded.runtime.compile:
        raise UserError("a compiled model keeps its first weights: load the run without compiling=True")
    averages = open_averages(loaded.checkpoint.path, ended=True)
    # If the run was loaded from one of its checkpoints, its images are still those of the run folder.
    loaded = replace(loaded, checkpoint=replace(loaded.checkpoint, run=averages.run))
    tried, before = _choose_widths(averages, widths), deepcopy(loaded.model.state_dict())
    rows: list[dict[str, Any]] = []
    best, lowest, default = averages.read_default(), math.inf, np.empty(0)
    verdict = "the default average is the best"
    with loaded.runtime:
        measure, compare = (_prepare_error if pick == "validation" else _prepare_kid)(loaded, n, progress)
        try:
            for width in [None, *tried]:
                tensors, facts = best if width is None else averages.reconstruct(width)
                loaded.model.load_state_dict(tensors, strict=False)
                found = measure()
                default = found if width is None else default
                value, difference = compare(found, default)
                if value < lowest:
                    best, lowest = (tensors, facts), value
                    if width is not None:
                        sure = difference.distinguishable
                        doubt = "" if sure else ", not distinguishable from the default at 95 %"
                        verdict = f"width {width:.3g} is the best{doubt}"
                interval = difference.to_json()
                measured = {COLUMNS[pick]: value, "difference": interval.pop("value"), **interval}
                rows.append(_describe_width(facts) | measured)
                progress("averages", len(rows), len(tried) + 1)
        finally:
            loaded.model.load_state_dict(before)
    tensors, facts = best
    average = store_average(averages.run, name, tensors, replace(facts, choice=tuple(rows)))
    notes = ["the lowest of several values is biased downwards: evaluate the kept average anew"]
    if pick == "validation":
        notes.append("a lower validation error need not mean better samples: --pick kid measures samples")
    given = run.checkpoint.run if isinstance(run, LoadedRun) else run
    return AverageTable(
        f"{verdict}: {average.folder}", _name_use(given, name), average.choice, average, notes
    )


def _choose_widths(averages: Averages, widths: float | Sequence[float] | None) -> list[float]:
    """Return the widths to try, by default those that can be reconstructed with a small error."""
    if widths is not None:
        given = [float(width) for width in np.atleast_1d(widths)]
        # A width that no average can have is reported now, and not when its turn comes.
        for width in given:
            power_of_width(width)
        return given
    # The default average is always measured, so it needs no width here.
    default = {relative_width(gamma) for gamma, name in averages.names.items() if name == "default"}
    return [w for w in averages.widths if w not in default and averages.combine(w).error <= LARGEST_ERROR]


def _prepare_error(loaded: LoadedRun, n: int, progress: Progress) -> tuple[_Measure, _Compare]:
    if loaded.recipe.is_student:
        raise UserError("the validation error of a student rises while it learns sharp images: pick by kid")
    split = open_run_images(loaded, progress)
    if (count := min(len(split.validation), loaded.recipe.report.validation_images)) < 2:
        raise UserError(
            f"averages are compared on at least 2 held-out images, and run {loaded.checkpoint.run} has "
            f"{count} (data.validation, report.validation_images)"
        )

    def measure() -> np.ndarray:
        errors = denoise_validation_images(loaded, split)
        return torch.cat([error["image_mae"] for error in errors]).numpy()

    return measure, lambda found, default: (float(found.mean()), estimate_mean(found - default))


def _prepare_kid(loaded: LoadedRun, n: int, progress: Progress) -> tuple[_Measure, _Compare]:
    check_count("n", n, LEAST)
    extractor = load_extractor().to(loaded.runtime.exact_device)
    reference = compute_validation_features(loaded, extractor, progress)
    setup = SamplingSetup(loaded, loaded.recipe.steps, choose_label(loaded.recipe))

    def measure() -> np.ndarray:
        parts = sample_uint8(setup, range(FIRST_SEED, FIRST_SEED + n))
        return np.concatenate([extractor(images).numpy() for images, _ in parts])

    def compare(found: np.ndarray, default: np.ndarray) -> tuple[float, Estimate]:
        value = kid(found, reference, subsets=1).value
        return value, kid_difference(found, default, reference, paired=True)

    return measure, compare
