"""Look up the errors that the user's runs and recorded runs had after a number of training images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddim.evaluation.record import Evaluation
from ddim.experiments.evaluations import is_plain, mark_comparable
from ddim.experiments.index import Run, find_runs
from ddim.experiments.recorded_runs import RECORDED
from ddim.recipe.codec import dump, override
from ddim.recipe.named import find_recipe
from ddim.recipe.options import SAMPLING_FIELDS, flatten_as_text
from ddim.recipe.recipe import Recipe
from ddim.runs.log import read_metrics

NEAR = 1.15
"""If a number of images is outside the measured range by at most this factor, the end of the range is used.

The number of images itself is a forecast, and is no more exact than this factor.
"""

WIDE = 10
"""Values are not interpolated between two runs if one saw over this many times as many images as the other.

The error falls fast at first and slowly later, so the end of a short trial says little about long runs.
"""

IRRELEVANT = ("seed", "minutes", "images", "report", "data.source", "data.split_seed")
"""Fields of a recipe, with their subfields, that do not change the error after a given number of images."""

SAMPLING = (*SAMPLING_FIELDS, "steps")
"""Fields that change the samples of a run, and so its KID, but not its validation error."""


@dataclass(frozen=True)
class LearningCurve:
    """The errors of one finished run.

    Attributes:
        name: the run folder, or where a recorded run is published.
        data: a word for the images of a recorded run; "" for a run of the user, which has the images
            of the planned run.
        images: number of training images that the run saw.
        points: (images seen, validation error), sorted by the images.
        kid: KID of the finished run; None if it was not measured.
        same_samples: whether the run samples in the same way as the planned run. If not, its KID is not used.
    """

    name: str
    data: str
    images: int
    points: tuple[tuple[int, float], ...]
    kid: float | None
    same_samples: bool = True


def list_own_curves(runs: str | Path, recipe: Recipe, fingerprint: str) -> list[LearningCurve]:
    """Return the curves of finished runs on the same images with the same recipe, sorted by path.

    Runs that started from the weights of another run are left out. KID is that of samples as the run makes
    them by default, without guidance, against its held-out images.

    Args:
        runs: the folder of the runs; the result is empty if it does not exist.
        recipe: the recipe of the planned run.
        fingerprint: the fingerprint of the planned run's images; see `ddim.data.Images`.
    """
    if not Path(runs).is_dir():
        return []
    wanted, curves = _relevant(dump(recipe)), []

    def fits(run: Run) -> bool:
        same = run.facts.get("data", {}).get("fingerprint") == fingerprint and not run.facts.get("source")
        if run.state != "finished" or not same:
            return False
        return _without_sampling(_relevant(run.recipe)) == _without_sampling(wanted)

    # Only runs that fit decide which evaluations are comparable.
    own = [_keep_plain_evaluations(run, fingerprint) for run in find_runs(runs) if fits(run)]
    for run in mark_comparable(own):
        like = _relevant(run.recipe)
        lines = read_metrics(run.path)
        points = {line["images"]: line["image_mae"] for line in lines if line.get("image_mae") is not None}
        kid = run.metrics.get("kid") if run.comparable else None
        curves.append(
            LearningCurve(str(run.path), "", run.images, tuple(sorted(points.items())), kid, like == wanted)
        )
    return curves


def list_recorded_curves(recipe: Recipe) -> list[LearningCurve]:
    """Return the curves of `RECORDED` runs with the same recipe and size, but with other images."""
    wanted, curves = _relevant(dump(recipe)), []
    for run in RECORDED:
        like = _relevant(
            dump(override(find_recipe(run.recipe, run.size), {"data.size": run.size, **run.fields}))
        )
        if _without_sampling(like) == _without_sampling(wanted):
            curves.append(
                LearningCurve(run.source, run.data, run.images, run.points, run.kid, like == wanted)
            )
    return curves


def interpolate_error(curves: Sequence[LearningCurve], images: int) -> float | None:
    """Return the expected validation error after a number of images; None if it was not measured.

    If some runs are shorter than `images` and others longer, the last errors of the two nearest ones are
    interpolated, if these runs are not too far apart (`WIDE`). The last errors are preferred, because the
    learning rate has decayed there. Otherwise the result is the error that the shortest of the longer runs
    had after this number of images. A run that ends after this number may differ slightly: its learning rate
    has decayed, and with `objective.finish` its loss has changed. All
    interpolation is linear in log(images).
    """
    ends = sorted(curve.points[-1] for curve in curves if curve.points)
    if (found := _interpolate(ends, images, WIDE)) is not None:
        return found
    longer = [curve for curve in curves if curve.points and curve.points[-1][0] >= images]
    return _interpolate(min(longer, key=lambda curve: curve.points[-1]).points, images) if longer else None


def interpolate_kid(curves: Sequence[LearningCurve], images: int) -> float | None:
    """Return the expected KID of a run that ends after a number of images; None if it was not measured.

    The KID of finished runs is interpolated linearly in log(images), but not between runs of very different
    lengths (`WIDE`).
    """
    ends = [(c.images, c.kid) for c in curves if c.kid is not None and c.same_samples]
    return _interpolate(sorted(ends), images, WIDE)


def interpolate_recorded(
    interpolate: Callable[[Sequence[LearningCurve], int], float | None],
    curves: Sequence[LearningCurve],
    images: int,
) -> float | None:
    """Return the result of `interpolate` on the runs of the first data set that gives a result, or None.

    Runs on different data sets are never combined.
    """
    for data in dict.fromkeys(curve.data for curve in curves):
        if (found := interpolate([curve for curve in curves if curve.data == data], images)) is not None:
            return found
    return None


def _keep_plain_evaluations(run: Run, fingerprint: str) -> Run:
    """Return a run with the evaluations of its default sampling, default features and held-out images."""

    def fits(evaluation: Evaluation) -> bool:
        return evaluation.reference.fingerprint == fingerprint and is_plain(run, evaluation)

    return replace(run, evaluations=tuple(filter(fits, run.evaluations)))


def _interpolate(points: Sequence[tuple[int, float]], images: int, widest: float = math.inf) -> float | None:
    """Return the value at a number of images, interpolated between (images, value) points.

    If several points have the same number of images, such as runs with different seeds, their mean is used.
    Return None if the number is outside the range of the points by more than the factor `NEAR`, or if the
    next larger number of a point is more than `widest` times the next smaller one.
    """
    groups: dict[int, list[float]] = {}
    for seen, value in points:
        groups.setdefault(seen, []).append(value)
    known = {seen: sum(values) / len(values) for seen, values in sorted(groups.items())}
    if not known or not min(known) / NEAR <= images <= max(known) * NEAR:
        return None
    images = min(max(images, min(known)), max(known))
    low = max(seen for seen in known if seen <= images)
    high = min(seen for seen in known if seen >= images)
    if high > widest * low:
        return None
    part = 0.0 if low == high else math.log(images / low) / math.log(high / low)
    return known[low] + part * (known[high] - known[low])


def _relevant(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a recipe that can change the errors or samples of its runs, as {path: text}."""
    return _leave_out(flatten_as_text(recipe), IRRELEVANT)


def _without_sampling(relevant: Mapping[str, str]) -> dict[str, str]:
    return _leave_out(relevant, SAMPLING)


def _leave_out(fields: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {
        path: value
        for path, value in fields.items()
        if not any(path == name or path.startswith(f"{name}.") for name in names)
    }
