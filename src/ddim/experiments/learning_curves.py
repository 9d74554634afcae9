"""The errors that finished runs reached after a number of images: the user's own runs, and recorded ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim.experiments.evaluations import mark_comparable
from ddim.experiments.index import find_runs
from ddim.experiments.recorded_runs import RECORDED
from ddim.runs.codec import dump, override
from ddim.runs.flat import flatten_as_text
from ddim.runs.log import read_metrics
from ddim.runs.named_recipes import find_recipe
from ddim.runs.recipe import Recipe

NEAR = 1.15
"""A number of images outside the measured range counts as its end if it is at most this factor away.

The forecast of the images is no more exact than this.
"""

IRRELEVANT = ("seed", "minutes", "images", "report", "data.source")
"""Fields of a recipe, with all that they hold, that do not change the error after a number of images."""

SAMPLING = ("sampler", "grid", "steps", "sampled_on", "clip")
"""Fields that change the samples of a run, and so its KID, but not its validation error."""


@dataclass(frozen=True)
class LearningCurve:
    """The errors of one finished run.

    Attributes:
        name: the run folder, or where a recorded run is published.
        data: the images of a recorded run, in a word; "" for a run of the user on the same images.
        images: number of training images that the run saw.
        points: (images seen, validation error), increasing.
        kid: KID of the finished run; None if it was not measured.
        same_samples: whether its samples were made as those of the planned run would be.
    """

    name: str
    data: str
    images: int
    points: tuple[tuple[int, float], ...]
    kid: float | None
    same_samples: bool = True


def list_own_curves(runs: str | Path, recipe: Recipe, fingerprint: str) -> list[LearningCurve]:
    """Return the curves of finished runs on the same images with the same recipe, sorted by path.

    Runs that started from the weights of another run are left out.

    Args:
        runs: the folder of the runs; the result is empty if it does not exist.
        recipe: the recipe of the planned run.
        fingerprint: the SHA-256 of its images at their size.
    """
    if not Path(runs).is_dir():
        return []
    wanted, curves = _relevant(dump(recipe)), []
    for run in mark_comparable(find_runs(runs)):
        same = run.facts.get("data", {}).get("fingerprint") == fingerprint and not run.facts.get("source")
        if run.state != "finished" or not same or _without_sampling(run.recipe) != _without_sampling(wanted):
            continue
        lines = read_metrics(run.path)
        points = {line["images"]: line["image_mae"] for line in lines if line.get("image_mae") is not None}
        kid = run.metrics.get("kid") if run.comparable else None
        sampled = _relevant(run.recipe) == wanted
        curves.append(
            LearningCurve(str(run.path), "", run.images, tuple(sorted(points.items())), kid, sampled)
        )
    return curves


def list_recorded_curves(recipe: Recipe) -> list[LearningCurve]:
    """Return the curves of `RECORDED` runs with the same recipe and size; their images are other ones."""
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
    """Return the validation error that runs like these had after a number of images; None if not measured.

    The ends of runs count first, because the learning rate has decayed there: between two runs of which one
    was shorter and one longer, their last errors are interpolated. If all were longer, the error that the
    shortest of them had on its way is returned; a run that ends there is usually a little better. All
    interpolation is linear in log(images).
    """
    ends = sorted(curve.points[-1] for curve in curves if curve.points)
    if (found := _interpolate(ends, images)) is not None:
        return found
    longer = [curve for curve in curves if curve.points and curve.points[-1][0] >= images]
    return _interpolate(min(longer, key=lambda curve: curve.points[-1]).points, images) if longer else None


def interpolate_kid(curves: Sequence[LearningCurve], images: int) -> float | None:
    """Return the KID that such runs had at their end, interpolated as by `interpolate_error`, or None."""
    ends = [(c.images, c.kid) for c in curves if c.kid is not None and c.same_samples]
    return _interpolate(sorted(ends), images)


def interpolate_recorded(
    interpolate: Callable[[Sequence[LearningCurve], int], float | None],
    curves: Sequence[LearningCurve],
    images: int,
) -> float | None:
    """Return the result of `interpolate` for the first data set that has one; runs of two are not mixed."""
    for data in dict.fromkeys(curve.data for curve in curves):
        if (found := interpolate([curve for curve in curves if curve.data == data], images)) is not None:
            return found
    return None


def _interpolate(points: Sequence[tuple[int, float]], images: int) -> float | None:
    """Return the value at a number of images; None if it lies outside the points by more than `NEAR`.

    If several points have the same number of images, as runs with different seeds do, their mean counts.
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
    part = 0.0 if low == high else math.log(images / low) / math.log(high / low)
    return known[low] + part * (known[high] - known[low])


def _relevant(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a recipe that matter for its errors, as text."""
    return _leave_out(flatten_as_text(recipe), IRRELEVANT)


def _without_sampling(recipe: Mapping[str, Any]) -> dict[str, str]:
    flat = recipe if all(isinstance(value, str) for value in recipe.values()) else _relevant(recipe)
    return _leave_out(flat, SAMPLING)


def _leave_out(fields: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {
        path: value
        for path, value in fields.items()
        if not any(path == name or path.startswith(f"{name}.") for name in names)
    }
