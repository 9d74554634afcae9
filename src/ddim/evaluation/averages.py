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
    hash_weights,
    list_snapshots,
    list_stored,
    store_average,
)
from ddim.runs.names import find_checkpoint, find_run_folder, parse_place
from ddim.sampling.generate import sample_uint8
from ddim.sampling.images import open_run_images
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import LoadedRun, load_given_run
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training.validation import denoise_validation_images

WIDTHS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25)
"""The widths that `ema` lists and tries."""

LARGEST_ERROR = 0.1
"""Largest error of a reconstruction that is tried by default; see `Combination`."""

Measure = tuple[Callable[[], np.ndarray], Callable[[np.ndarray, np.ndarray], tuple[float, Estimate]]]
"""Two functions. The first measures the weights that the model has now, with a row for each image or seed.

The second returns a number for the first rows, lower is better, and its difference from that of other rows.
"""


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

    def reconstruct(self, width: float | None) -> tuple[dict[str, Tensor], StoredAverage]:
        """Return the average of a width, float32 and keyed by tensor name, and the facts stored with it.

        None stands for the default average of the run. Others are summed in float64. Each file is read once
        and checked by its hash.
        """
        facts = StoredAverage(width, None, 0.0, self.step, hash_weights(self.path))
        if width is None:
            gamma = next((gamma for gamma, name in self.names.items() if name == "default"), None)
            width = None if gamma is None else relative_width(gamma)
            return checkpoint.read_tensors(self.path, "ema/default"), replace(facts, width=width, gamma=gamma)
        combination, steps = self.combine(width), tuple(one.step for one in self.snapshots)
        total: dict[str, Tensor] = {}
        for place, coefficient in zip(self.files.values(), combination.coefficients, strict=True):
            for name, value in checkpoint.read_tensors(*place).items():
                part = value.double().mul_(coefficient)
                total[name] = total[name].add_(part) if name in total else part
        facts = replace(facts, gamma=power_of_width(width), error=combination.error, snapshots=steps)
        return {name: value.float() for name, value in total.items()}, facts


def open_averages(run: str | Path, *, ended: bool = False) -> Averages:
    """Return the averages of a run from which averages of other widths can be reconstructed.

    Args:
        run: a run folder, for its newest checkpoint; RUN/best; or a checkpoint in a run folder.
        ended: whether an average is to be stored, so that the training must have ended.

    Raises:
        UserError: if the run has no checkpoint or snapshots, or should have ended and is still training.
    """
    path = find_checkpoint(parse_place(str(run))[0])
    folder = find_run_folder(path)
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
    progress: bool | Progress = True,
) -> AverageTable:
    """Choose the width of the average of the weights (EMA) after training.

    The relative width says over which part of the run the weights are averaged: it is the standard deviation
    of the profile of the average, as a fraction of the run. A run that was trained with report.snapshots 8
    keeps snapshots of two averages, from which others are reconstructed (Karras et al. 2024, appendix C).

    A run alone lists the widths with the errors of their reconstructions. With a width, this average is
    stored in RUN/averages, and RUN@width-0.05 is the run with the average of width 0.05. With pick, several
    widths are measured, and RUN@picked is the run with the best of them. The default average is among them.

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
    if pick is not None:
        with open_progress(progress) as shown:
            return _pick_average(run, width, pick, n, shown)
    given = run.checkpoint.run if isinstance(run, LoadedRun) else run
    if width is None:
        return _list_averages(given)
    opened, width = open_averages(given, ended=True), to_float("width", width)
    average = store_average(opened.run, f"width-{width:g}", *opened.reconstruct(width))
    verdict = f"width {width:g} is stored, with a reconstruction error of {average.error:.2%}"
    return AverageTable(verdict, _name_use(given, average), (_describe_width(average),), average)


def _name_use(run: str | Path, average: StoredAverage) -> str:
    return f"to use it: ddim sample {quote(f'{run}@{average.folder.name}')}"


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
    size = sum(file.stat().st_size for one in opened.snapshots for file in one.path.iterdir()) / 1e6
    return AverageTable(verdict, f"{run}: snapshots of steps {steps}, {size:.1f} MB", rows)


def _pick_average(
    run: str | Path | LoadedRun,
    widths: float | Sequence[float] | None,
    pick: Literal["validation", "kid"],
    n: int,
    progress: Progress,
) -> AverageTable:
    """Measure the default average and averages of several widths, and store the best."""
    if pick not in ("validation", "kid"):
        raise UserError(f"pick must be validation or kid, got {pick!r}")
    loaded = load_given_run(run)
    if loaded.runtime.compile:
        raise UserError("a compiled model keeps its first weights: load the run without compiling=True")
    averages = open_averages(loaded.checkpoint.path, ended=True)
    # If the run was loaded from one of its checkpoints, its images are still those of the run folder.
    loaded = replace(loaded, checkpoint=replace(loaded.checkpoint, run=averages.run))
    tried, before = [None, *_choose_widths(averages, widths)], deepcopy(loaded.model.state_dict())
    rows: list[dict[str, Any]] = []
    default = np.empty(0)
    column, prepare = ("kid", _prepare_kid) if pick == "kid" else ("validation_error", _prepare_error)
    with loaded.runtime:
        measure, compare = prepare(loaded, n, progress)
        try:
            for width in tried:
                tensors, facts = averages.reconstruct(width)
                loaded.model.load_state_dict(tensors, strict=False)
                found = measure()
                default = found if width is None else default
                value, difference = compare(found, default)
                interval = difference.to_json()
                measured = {column: value, "difference": interval.pop("value"), **interval}
                rows.append(_describe_width(facts) | measured)
                progress("averages", len(rows), len(tried))
        finally:
            loaded.model.load_state_dict(before)
    best = min(rows, key=lambda row: row[column])
    verdict = "the default average is the best"
    if best is not rows[0]:
        doubt = "" if best["high"] < 0 else ", but not distinguishably, at 95 %"
        verdict = f"width {best['width']:.3g} is better than the default{doubt}"
    tensors, facts = averages.reconstruct(tried[rows.index(best)])
    average = store_average(averages.run, "picked", tensors, replace(facts, choice=tuple(rows)))
    notes = ["the lowest of several values is biased downwards: evaluate the kept average anew"]
    if pick == "validation":
        notes.append("a lower validation error need not mean better samples: --pick kid measures samples")
    use = _name_use(run.checkpoint.run if isinstance(run, LoadedRun) else run, average)
    return AverageTable(verdict, use, average.choice, average, notes)


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


def _prepare_error(loaded: LoadedRun, n: int, progress: Progress) -> Measure:
    if loaded.recipe.is_student:
        raise UserError("the validation error of a student rises while it learns sharp images: pick by kid")
    split = open_run_images(loaded, progress)
    if min(len(split.validation), loaded.recipe.report.validation_images) < 2:
        raise UserError("averages are compared on at least 2 held-out images (report.validation_images)")

    def measure() -> np.ndarray:
        errors = denoise_validation_images(loaded, split)
        return torch.cat([error["image_mae"] for error in errors]).numpy()

    return measure, lambda found, default: (float(found.mean()), estimate_mean(found - default))


def _prepare_kid(loaded: LoadedRun, n: int, progress: Progress) -> Measure:
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
