"""Search for the best noise level of a student's last sampling step.

Noise levels are compared by the KID of their samples against the validation images. In `grid_search`, the
reference is samples with more steps. This is not possible for a student, which adds fresh noise at each step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ddim.diffusion.grids import Karras
from ddim.errors import UserError
from ddim.evaluation.reference import compute_validation_features
from ddim.evaluation.sample_features import compare_paired, sample_features
from ddim.machine.progress import Progress
from ddim.metrics.features import Extractor
from ddim.metrics.kid import kid
from ddim.plots.table import Tabular
from ddim.sampling.generate import find_grid_ends
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import LoadedRun
from ddim.sampling.sampling_setup import SamplingSetup

FACTOR = 1.6
"""Ratio of two neighbouring noise levels that are tried."""

TRIED = range(-4, 4)
"""Exponents k: a tried level is `FACTOR` to the power k, times the last level of the student's own grid."""


@dataclass(frozen=True, repr=False)
class SearchedGrid(Tabular):
    """The result of a search: decreasing times (N,) and their sampling error.

    `named` holds the errors of the other grids that were tried, keyed by name. `measure` is the name of the
    error: the mean squared error, or the KID for the sampler multistep.
    """

    times: tuple[float, ...]
    error: float
    named: dict[str, float]
    measure: str = "mean_squared_error"

    def to_records(self) -> list[dict[str, Any]]:
        """Return the error of the searched times and of each other grid."""
        errors = {"searched": self.error, **self.named}
        return [{"grid": name, self.measure: error} for name, error in errors.items()]

    @property
    def title(self) -> str:
        return f"times {', '.join(f'{t:.4g}' for t in self.times)}"


def search_levels(
    run: LoadedRun, steps: int, seeds: range, extractor: Extractor, progress: Progress
) -> SearchedGrid:
    """Return the times whose samples have the lowest KID against the validation images.

    The tried noise levels lie around the last noise level of the run's own grid, which must be `Karras`. The
    first step keeps its noise level. The lowest of several noisy KIDs is partly low by chance. So the best
    level is compared with the run's own level on fresh samples, and the own level is returned if no gain is
    distinguishable at 95 %.

    Args:
        run: the student.
        steps: number of sampling steps.
        seeds: the seeds of the samples.
        extractor: the network of the features.
        progress: called while the validation images are prepared, then with "grids" while samples are made.

    Raises:
        UserError: if `steps` is below 2, the run's own grid is not `Karras`, or samples are not finite.
    """
    own = run.recipe.grid
    if steps < 2 or not isinstance(own, Karras):
        raise UserError(
            "a search for the sampler multistep needs at least 2 steps and the grid karras, got "
            f"{steps} and {type(own).__name__}"
        )
    schedule = run.recipe.sampling_schedule
    most = schedule(find_grid_ends(run.recipe, steps)[0]).noise_to_signal.item()
    levels = [own.sigma_min * FACTOR**k for k in TRIED]
    grids = [
        replace(own, sigma_min=level) for level in levels if level < most / FACTOR or level == own.sigma_min
    ]
    reference = compute_validation_features(run, extractor, progress)
    label, total = choose_label(run.recipe), len(grids) + 2

    def measure(grid: Karras, seeds: range, place: int) -> np.ndarray | None:
        def report(what: str, done: float, of: int) -> None:
            progress("grids", place + done / of, total)

        setup = SamplingSetup(run.with_recipe(grid=grid), steps, label)
        return sample_features(setup, seeds, extractor, report)

    values = [math.inf] * len(grids)
    for k, grid in enumerate(grids):
        if (found := measure(grid, seeds, k)) is not None:
            values[k] = kid(found, reference, subsets=1).value
    errors = {f"sigma_min {grid.sigma_min:.3g}": value for grid, value in zip(grids, values, strict=True)}
    best = values.index(min(values))
    usual = grids.index(own)
    fresh = range(seeds.stop, seeds.stop + len(seeds))
    if best != usual and math.isfinite(values[best]):
        mine, theirs = (measure(grids[which], fresh, len(grids) + k) for k, which in enumerate((best, usual)))
        lower = theirs is None or compare_paired(mine, theirs, reference).high < 0
        best = best if mine is not None and lower else usual
    if math.isinf(values[best]):
        raise UserError("the samples of the student are not finite: it cannot be used")
    progress("grids", total, total)
    return SearchedGrid(tuple(grids[best](steps, schedule).tolist()), values[best], errors, "kid")
