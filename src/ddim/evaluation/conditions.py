"""The conditions of an evaluation, which decide what may be compared. This module does not import torch.

There are two rules. Numbers may stand in one column of a table, and be averaged over repeats, if their
conditions are equal. Two evaluations may be ranked by a metric if `why_not_comparable` returns None; their
sampling may differ, because rankings compare ways of sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ddim.evaluation.guidance_name import name_guide, name_interval
from ddim.evaluation.record import Evaluation, Features, ReferenceSet, SamplingRecord, shorten_hash
from ddim.metrics.catalogue import METRICS
from ddim.recipe.options import SAMPLING_FIELDS, flatten_as_text

UNITS = ("schedule", "pixels")
"""Parts of a recipe that define the unit of a denoising error: noise levels, and the scaling of pixels."""

VALIDATION_FIELDS = (
    *("data.source", "data.size", "data.channels", "data.validation"),
    *("data.split_seed", "seed"),
)
"""Fields of a recipe that decide which images a run is validated and evaluated against."""


class Mismatch(NamedTuple):
    """One aspect in which two conditions differ, such as "reference", and its two values."""

    aspect: str
    one: object
    other: object


class Conditions(NamedTuple):
    """The conditions under which a number was measured.

    Attributes:
        features: the features that a metric compares; for a denoising error, its unit as text.
        reference: the real images.
        images: the number of samples; for a denoising error, the number of validation images.
        sampling: how sampling differs from the run's recipe, in words; all grids that `ddim search` found are
            equal.
    """

    features: Features | str
    reference: ReferenceSet
    images: int
    sampling: str

    def mismatches(self, other: Conditions) -> list[Mismatch]:
        """Return the aspects in which these conditions differ from `other` conditions."""
        names = ("features", "reference", "number of samples", "sampling")
        found = map(Mismatch, names, self, other)
        return [each for each in found if each.one != each.other]

    def shortage(self, metric: str) -> str | None:
        """Return a sentence if a metric needs more samples or reference images, else None."""
        if metric not in METRICS or not isinstance(self.features, Features):
            return None
        title, least = METRICS[metric].title, METRICS[metric].least or self.features.dimensions
        if (few := min(self.images, self.reference.images)) >= least:
            return None
        short = self.reference.part == "valid" and self.reference.images < least
        advice = '; evaluate with part="all" to compare with all images' if short else ""
        return f"{few:,} images are too few to rank by {title}, which needs at least {least:,}{advice}"


def evaluation_conditions(evaluation: Evaluation, recipe: Mapping[str, Any] | None = None) -> Conditions:
    """Return the conditions of an evaluation.

    Args:
        evaluation: the evaluation.
        recipe: the run's recipe as JSON, with which the sampling is compared. The default is the recipe of
            the record, so that no field counts as changed.
    """
    sampling = evaluation.sampling
    how = ", ".join(_describe_sampling(sampling, recipe or sampling.recipe)) if sampling else "unknown"
    return Conditions(evaluation.features, evaluation.reference, evaluation.count, how)


def error_conditions(recipe: Mapping[str, Any], fingerprint: str) -> Conditions:
    """Return the conditions of the denoising errors that a run logs for its validation images.

    Args:
        recipe: the recipe of the run, as JSON.
        fingerprint: the fingerprint of the run's images.
    """
    units = flatten_as_text({name: recipe.get(name) for name in UNITS})
    count, size = recipe["report"]["validation_images"], recipe["data"]["size"]
    return Conditions(str(units), ReferenceSet("", fingerprint, "valid", size, count, ""), count, "")


def why_not_comparable(one: Evaluation, other: Evaluation, metric: str = "kid") -> str | None:
    """Return why two evaluations may not be ranked by a metric, as a sentence; None if they may."""
    if one.features != other.features:
        return f"different features: {one.features} and {other.features}"
    mine, theirs = one.reference, other.reference
    if mine.sha256 != theirs.sha256:
        if mine == theirs:
            return f'different images of {mine}: evaluate both with part="all", or with one reference'
        return f"different reference: {mine} and {theirs}"
    for each in (one, other):
        if metric not in each.metrics:
            return f"{each.source} has no {METRICS[metric].title}"
    if METRICS[metric].biased and one.count != other.count:
        return f"different numbers of samples: {one.count:,} and {other.count:,}"
    return evaluation_conditions(one).shortage(metric) or evaluation_conditions(other).shortage(metric)


def _describe_sampling(sampling: SamplingRecord, recipe: Mapping[str, Any]) -> Iterator[str]:
    """Yield how images were sampled, relative to a run's recipe."""
    yield f"{len(sampling.times)} steps, weights {sampling.weights}"
    if (label := sampling.changed_label(recipe)) is not None:
        yield f"label {label}"
    if sampling.guidance != 1:
        interval, guide = sampling.record.get("guidance_interval"), sampling.guide
        yield f"guidance {sampling.guidance:g}" + (f", log-SNR {name_interval(interval)}" if interval else "")
        if guide:
            own = guide["name"].startswith("@")
            which = "" if own else f", {guide.get('weights', 'ema')} weights, {shorten_hash(guide['sha256'])}"
            yield f"guide {name_guide(guide['name'])}{which}"
    for part in SAMPLING_FIELDS:
        before, after = (flatten_as_text({part: each.get(part)}) for each in (recipe, sampling.recipe))
        # `ddim search` finds different times for each run. Without the times, all its grids are equal.
        after = {part: "listed"} if after.get(part) == "listed" else after
        # The run's recipe may lack fields that a newer version of ddim has added; these count as equal.
        same_kind = after.get(part) == before.get(part)
        changed = {k: v for k, v in after.items() if not same_kind or v != before.get(k, v)}
        yield from (f"{name} {value}" for name, value in changed.items())
