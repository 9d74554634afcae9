"""Choose the width of a run's average of weights after training.

Averages of several widths are reconstructed and measured, and the best average is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ddim.errors import UserError, check_count, suggest
from ddim.evaluation.grid_search import FIRST_SEED
from ddim.evaluation.reference import compute_validation_features
from ddim.evaluation.run_folder import load_given_run
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.metrics.catalogue import LEAST
from ddim.metrics.features import load_extractor
from ddim.metrics.kid import kid, kid_difference
from ddim.metrics.statistics import Estimate, estimate_mean
from ddim.nn.power_averages import power_of_width, relative_width
from ddim.plots.table import Tabular
from ddim.runs import checkpoint
from ddim.runs.averages import StoredAverage, check_average_name, hash_weights, store_average
from ddim.sampling.generate import sample_uint8
from ddim.sampling.images import open_run_images
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import LoadedRun
from ddim.sampling.reconstruction import (
    LARGEST_ERROR,
    Averages,
    ReconstructedAverage,
    check_ended,
    open_averages,
)
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.sampling.searched import FILE as SEARCHED
from ddim.training.validation import denoise_validation_images

Measure = Literal["validation", "kid"]
COLUMNS: dict[Measure, str] = {"validation": "validation_error", "kid": "kid"}
"""The name of the measured value in the rows of an `AverageChoice`, for each measure."""

SAMPLES = 500
"""The default number of samples whose KID is measured for each width."""


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
    averages = open_averages(loaded.checkpoint.path)
    check_ended(averages.run)
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
