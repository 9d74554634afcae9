"""Choose the width of a run's average of weights after training.

Averages of any width are reconstructed from the snapshots of the run (Karras et al. 2024, appendix C).
Those of several widths can be measured, and the best is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ddim.errors import UserError, check_count, suggest, to_float
from ddim.evaluation.grid_search import FIRST_SEED
from ddim.evaluation.reference import compute_validation_features
from ddim.evaluation.run_folder import load_given_run
from ddim.files import is_locked
from ddim.machine.progress import Progress, ignore_progress, with_bar
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
from ddim.sampling.searched import FILE as SEARCHED
from ddim.training.validation import denoise_validation_images

WIDTHS = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25)
"""The widths that `list_averages` lists and `pick_average` tries."""

LARGEST_ERROR = 0.1
"""Largest error of a reconstruction that `pick_average` tries; see `Combination`."""


Measure = Literal["validation", "kid"]
COLUMNS: dict[Measure, str] = {"validation": "validation_error", "kid": "kid"}
"""The name of the measured value in the rows of an `AverageChoice`, for each measure."""

SAMPLES = 500
"""The default number of samples whose KID is measured for each width."""


@dataclass(frozen=True)
class Averages:
    """The averages of a checkpoint and of earlier snapshots, from which other widths are reconstructed.

    Attributes:
        run: the run folder.
        path: the checkpoint.
        step: the step of the checkpoint.
        names: the names of the checkpoint's power-function averages, keyed by power.
        snapshots: the snapshots of earlier steps, the oldest first.
    """

    run: Path
    path: Path
    step: int
    names: dict[float, str]
    snapshots: tuple[Snapshot, ...]

    @property
    def widths(self) -> list[float]:
        """The widths that the run tracks and the other widths in `WIDTHS`, sorted."""
        tracked = [relative_width(gamma) for gamma in self.names]
        others = [w for w in WIDTHS if not any(math.isclose(w, one, rel_tol=0.01) for one in tracked)]
        return sorted([*tracked, *others])

    def combine(self, width: float) -> Combination:
        """Return the combination of these averages that is nearest to an average with this width."""
        profiles = [Profile(one.step, gamma) for one in self.snapshots for gamma in one.gammas]
        profiles += [Profile(self.step, gamma) for gamma in self.names]
        return combine_profiles(profiles, Profile(self.step, power_of_width(width)))

    def reconstruct(self, width: float) -> tuple[dict[str, Tensor], StoredAverage]:
        """Return the average of a width, float32 and keyed by tensor name, and the facts stored with it.

        It is summed in float64. Each file is read once and checked by its hash.
        """
        combination = self.combine(width)
        files = [(one.path, f"{gamma}") for one in self.snapshots for gamma in one.gammas]
        files += [(self.path, f"ema/{name}") for name in self.names.values()]
        total: dict[str, Tensor] = {}
        for (path, file), coefficient in zip(files, combination.coefficients, strict=True):
            for name, value in checkpoint.read_tensors(path, file).items():
                part = value.double().mul_(coefficient)
                total[name] = total[name].add_(part) if name in total else part
        gamma, error, weights = power_of_width(width), combination.error, hash_weights(self.path)
        steps = tuple(one.step for one in self.snapshots)
        facts = StoredAverage(width, gamma, error, self.step, weights, steps)
        return {name: value.float() for name, value in total.items()}, facts


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
            "--report.snapshots 8 to keep them, from step 64 on"
        )
    tracked = track_averages(recipe.ema, recipe.report.snapshots)
    return Averages(folder, path, step, list_powers(tracked), snapshots)


@dataclass(frozen=True)
class ReconstructedAverage:
    """An average that was reconstructed and stored; `ddim.load(run, weights=name)` loads it.

    Attributes:
        name: its name.
        folder: its folder.
        facts: its width, its error and what it was made from.
    """

    name: str
    folder: Path
    facts: StoredAverage


def reconstruct_average(run: str | Path, width: float, *, name: str | None = None) -> ReconstructedAverage:
    """Reconstruct a weight average of this relative width from a run's snapshots; store it in RUN/averages.

    The width is the standard deviation of the profile of a power-function average, as a fraction of the run.
    The error of the reconstruction is small around the widths of the snapshots, 0.05 and 0.10, and grows for
    small widths; see docs/howto/averages.md. Averages that the run itself tracks are reconstructed exactly.

    Args:
        run: a run folder, for its newest checkpoint; RUN/best; or a checkpoint in a run folder.
        width: the relative width, above 0 and below 0.289, such as 0.05.
        name: the name under which the average is stored, by default "width-0.05" for the width 0.05.

    Raises:
        UserError: if the run has no snapshots or is still training, or the width or the name cannot be used.

    Example:
        >>> average = ddim.reconstruct_average("runs/photos-fast-1", 0.08)
        >>> ddim.sample(ddim.load("runs/photos-fast-1", weights=average.name))
    """
    width = to_float("width", width)
    name = check_average_name(f"width-{width:g}" if name is None else name)
    opened = open_averages(run, ended=True)
    tensors, facts = opened.reconstruct(width)
    return ReconstructedAverage(name, store_average(opened.run, name, tensors, facts), facts)


@dataclass(frozen=True, repr=False)
class AverageList(Tabular):
    """The widths that can be reconstructed for a run, and the averages that are stored with it.

    Attributes:
        run: the run folder.
        rows: one row for each width, with its power and the error of its reconstruction.
        stored: one row for each stored average.
        step: the step of the checkpoint whose averages the rows are. Averages that were stored for another
            step do not belong to this checkpoint.
        snapshots: the steps of the snapshots.
        size: the size of all snapshots in bytes.
    """

    run: Path
    rows: tuple[dict[str, Any], ...]
    stored: tuple[dict[str, Any], ...]
    step: int
    snapshots: tuple[int, ...]
    size: int

    def to_records(self) -> tuple[dict[str, Any], ...]:
        """Return a dictionary for each width, with its power and the error of its reconstruction."""
        return self.rows

    @property
    def title(self) -> str:
        """The run folder, and the steps and the size of its snapshots."""
        steps = ", ".join(map(str, self.snapshots))
        return f"{self.run}: snapshots of steps {steps}, {self.size / 1e6:.1f} MB"

    @property
    def notes(self) -> list[str]:
        names = ", ".join(row["weights"] for row in self.stored if row["step"] == self.step)
        return [f"stored averages: {names}"] if names else []


def list_averages(run: str | Path) -> AverageList:
    """Return the widths of the averages that can be reconstructed for a run, each width with its error.

    Raises:
        UserError: if the run has no snapshots.
    """
    opened = open_averages(run)
    rows = tuple(
        {"width": w, "gamma": power_of_width(w), "reconstruction_error": opened.combine(w).error}
        for w in opened.widths
    )
    stored = tuple(
        {"weights": name, "width": a.width, "gamma": a.gamma, "reconstruction_error": a.error, "step": a.step}
        for name, a in list_stored(opened.run).items()
    )
    steps, sizes = zip(*((one.step, one.size) for one in opened.snapshots), strict=True)
    return AverageList(opened.run, rows, stored, opened.step, steps, sum(sizes))


@dataclass(frozen=True, repr=False)
class AverageChoice(Tabular):
    """The result of `pick_average`: the average that was kept, and the measured value of each width.

    Attributes:
        average: the best average, as it is stored.
        rows: one row for each average, with its value and the difference from the default average.
        by: what was measured, "validation" or "kid".
        left_out: widths that were not tried, because their error of reconstruction is above `LARGEST_ERROR`.
        searched: whether `ddim search` has saved times or guidance with the run, for some of its weights.
    """

    average: ReconstructedAverage
    rows: tuple[dict[str, Any], ...]
    by: Measure
    left_out: tuple[float, ...]
    searched: bool = False

    @property
    def best(self) -> dict[str, Any]:
        """The row of the best average."""
        return min(self.rows, key=lambda row: row[COLUMNS[self.by]])

    def to_records(self) -> tuple[dict[str, Any], ...]:
        """Return one row for each average; the default average is the first."""
        return self.rows

    @property
    def title(self) -> str:
        """The best average, with its folder, and whether it is distinguishable from the default."""
        best = self.best
        if best is self.rows[0]:
            return f"the default average is the best: {self.average.folder}"
        doubt = ", not distinguishable from the default at 95 %" if best["low"] <= 0 <= best["high"] else ""
        return f"width {best['width']:.3g} is the best{doubt}: {self.average.folder}"

    @property
    def notes(self) -> list[str]:
        """Notes for the reader: what the values do not say, and which widths were not tried."""
        notes = ["the lowest of several values is biased downwards: evaluate the kept average anew"]
        if self.by == "validation":
            notes.append(
                'a lower validation error need not mean better samples: by="kid" (--by kid) measures samples'
            )
        if self.searched:
            notes.append(
                "times and guidance that `ddim search` saved hold for the weights of their search: search "
                f"again with --weights {self.average.name}"
            )
        if self.left_out:
            widths = ", ".join(f"{width:g}" for width in self.left_out)
            notes.append(
                f"not tried, because the error of their reconstruction is above {LARGEST_ERROR:.0%}: {widths}"
            )
        return notes


@with_bar
def pick_average(
    run: str | Path | LoadedRun,
    by: Measure = "validation",
    *,
    widths: Sequence[float] | None = None,
    n: int = SAMPLES,
    name: str = "picked",
    progress: Progress = ignore_progress,
) -> AverageChoice:
    """Reconstruct averages of several widths, measure each, and store the best in RUN/averages.

    The default average of the run is always compared too, so the kept average never has a worse value. The
    validation error is the mean absolute error of denoised images (`image_mae`). It is measured on the same
    images, times and noise as the validations during training. KID is measured without guidance, at the times
    of the recipe's grid. Afterwards `ddim.load(run, weights="picked")`
    loads the kept average.

    Args:
        run: a run folder or RUN/best, or the result of `ddim.load`.
        by: "validation" for the validation error, or "kid" for the KID of samples against held-out images.
        widths: relative widths to try; by default all in `WIDTHS` whose error of reconstruction is at most
            `LARGEST_ERROR`.
        n: number of samples for "kid", from the same seeds for each width.
        name: the name under which the best average is stored.
        progress: called with "averages" after each average.

    Raises:
        UserError: if an argument is not allowed, or the run has no snapshots, has too few held-out images, is
            still training, or was loaded with torch.compile. Also if the run is a student of `ddim distill`
            and `by` is "validation".

    Example:
        >>> ddim.pick_average("runs/photos-fast-1")
        >>> ddim.sample(ddim.load("runs/photos-fast-1", weights="picked"))
    """
    if by not in get_args(Measure):
        raise UserError(f"by must be validation or kid, got {by!r}{suggest(str(by), get_args(Measure))}")
    if by == "kid":
        check_count("n", n, LEAST)
    check_average_name(name)
    loaded = load_given_run(run)
    _check_measurable(loaded, by)
    averages = open_averages(loaded.checkpoint.path, ended=True)
    # If the run was loaded from one of its checkpoints, its images are still found from the run folder.
    loaded = replace(loaded, checkpoint=replace(loaded.checkpoint, run=averages.run))
    tried, left_out = _choose_widths(averages, widths)
    with loaded.runtime, _restored(loaded.model):
        measure = (
            _prepare_error(loaded, progress) if by == "validation" else _prepare_kid(loaded, n, progress)
        )
        tensors, facts = _try_all(loaded, averages, tried, measure, progress)
    folder = store_average(averages.run, name, tensors, facts)
    searched = (averages.run / SEARCHED).is_file()
    return AverageChoice(ReconstructedAverage(name, folder, facts), facts.choice, by, left_out, searched)


def _check_measurable(loaded: LoadedRun, by: Measure) -> None:
    """Check that the averages of a loaded run can be compared by this measure.

    Raises:
        UserError: if the run was loaded with torch.compile, or is a student and `by` is "validation".
    """
    if loaded.runtime.compile:
        raise UserError(
            "averages cannot be compared in a run that was loaded with torch.compile, because the compiled "
            "program keeps its first weights: load the run without compiling=True"
        )
    if by == "validation" and loaded.recipe.is_student:
        raise UserError(
            "a student cannot be judged by its validation error, which rises while it learns to give sharp "
            'images: give by="kid" (--by kid)'
        )


@dataclass(frozen=True)
class _Measurement:
    """The functions that measure and compare averages.

    Attributes:
        column: the name of the measured value.
        measure: measures the weights that the model has now, and returns a row for each image or seed.
        value: returns one number for these rows; lower is better.
        difference: returns the value of the first rows minus the value of the second rows.
    """

    column: str
    measure: Callable[[], np.ndarray]
    value: Callable[[np.ndarray], float]
    difference: Callable[[np.ndarray, np.ndarray], Estimate]


def _choose_widths(
    averages: Averages, widths: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the widths to try, and the left-out widths, whose error of reconstruction is too large."""
    if widths is not None:
        if isinstance(widths, Real | str):
            raise UserError(f"widths must be a list of numbers, such as [0.03, 0.08], got {widths!r}")
        given = tuple(float(width) for width in widths)
        # A width that no average can have is reported now, and not when its turn comes.
        for width in given:
            power_of_width(width)
        return given, ()
    # The default average is always measured, so it needs no width here.
    own = {relative_width(gamma) for gamma, name in averages.names.items() if name == "default"}
    possible = [width for width in averages.widths if width not in own]
    errors = {width: averages.combine(width).error for width in possible}
    tried = tuple(width for width in possible if errors[width] <= LARGEST_ERROR)
    return tried, tuple(width for width in possible if width not in tried)


def _try_all(
    loaded: LoadedRun,
    averages: Averages,
    widths: Sequence[float],
    measurement: _Measurement,
    progress: Progress,
) -> tuple[dict[str, Tensor], StoredAverage]:
    """Measure the default average and the averages of all widths; return the best, with the rows of all."""
    default: np.ndarray | None = None
    best = _make_average(averages, None)
    rows: list[dict[str, Any]] = []
    for done, width in enumerate([None, *widths]):
        tensors, facts = _make_average(averages, width) if rows else best
        loaded.model.load_state_dict(tensors, strict=False)
        found = measurement.measure()
        default = found if default is None else default
        difference = measurement.difference(found, default).to_json()
        row = {"width": facts.width, "gamma": facts.gamma, "reconstruction_error": facts.error}
        column, value = measurement.column, measurement.value(found)
        if rows and value < min(other[column] for other in rows):
            best = tensors, facts
        rows.append({**row, column: value, "difference": difference.pop("value"), **difference})
        progress("averages", done + 1, len(widths) + 1)
    tensors, facts = best
    return tensors, replace(facts, choice=tuple(rows))


def _make_average(averages: Averages, width: float | None) -> tuple[dict[str, Tensor], StoredAverage]:
    """Return the average of a width, or the default average for None, with its facts."""
    if width is not None:
        return averages.reconstruct(width)
    gamma = next((gamma for gamma, name in averages.names.items() if name == "default"), None)
    own = None if gamma is None else relative_width(gamma)
    facts = StoredAverage(own, gamma, 0.0, averages.step, hash_weights(averages.path))
    return checkpoint.read_tensors(averages.path, "ema/default"), facts


def _prepare_error(loaded: LoadedRun, progress: Progress) -> _Measurement:
    split = open_run_images(loaded, progress)
    if (count := min(len(split.validation), loaded.recipe.report.validation_images)) < 2:
        raise UserError(
            f"averages are compared on at least 2 held-out images, and run {loaded.checkpoint.run} has "
            f"{count} (data.validation, report.validation_images)"
        )

    def measure() -> np.ndarray:
        errors = denoise_validation_images(loaded, split)
        return torch.cat([error["image_mae"] for error in errors]).numpy()

    return _Measurement(
        COLUMNS["validation"],
        measure,
        lambda found: float(found.mean()),
        lambda found, default: estimate_mean(found - default),
    )


def _prepare_kid(loaded: LoadedRun, n: int, progress: Progress) -> _Measurement:
    extractor = load_extractor().to(loaded.runtime.exact_device)
    reference = compute_validation_features(loaded, extractor, progress)
    setup = SamplingSetup(loaded, loaded.recipe.steps, choose_label(loaded.recipe))

    def measure() -> np.ndarray:
        parts = sample_uint8(setup, range(FIRST_SEED, FIRST_SEED + n))
        return np.concatenate([extractor(images).numpy() for images, _ in parts])

    return _Measurement(
        COLUMNS["kid"],
        measure,
        lambda found: kid(found, reference, subsets=1).value,
        lambda found, default: kid_difference(found, default, reference, paired=True),
    )


@contextmanager
def _restored(model: nn.Module) -> Generator[None]:
    """Restore the weights of a model at the end of the block."""
    before: Mapping[str, Tensor] = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        yield
    finally:
        model.load_state_dict(before)
