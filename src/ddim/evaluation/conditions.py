"""The conditions of a measurement, which decide what may be compared.

This module does not import torch.

There are two rules. Numbers may stand in one column of a table, and be averaged over repeats, if their
conditions are equal. Two evaluations may be ranked by a metric if `why_not_comparable` returns None; their
sampling may differ, because rankings compare ways of sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ddim.evaluation.guidance_name import name_guide, name_interval
from ddim.evaluation.record import Evaluation, Features, ReferenceSet, SamplingRecord, shorten_hash
from ddim.metrics.catalogue import METRICS
from ddim.recipe.options import SAMPLING_FIELDS, flatten_as_text

UNITS = ("schedule", "pixels")
"""Parts of a recipe that define the unit of a denoising error: noise levels, and the scaling of pixels."""

VALIDATION_FIELDS = (
    "data.source",
    "data.size",
    "data.channels",
    "data.validation",
    "data.split_seed",
    "seed",
)
"""Fields of a recipe that decide which images a run is validated and evaluated against."""


@dataclass(frozen=True)
class Sampling:
    """How images were sampled, relative to the run's own recipe.

    If `label` is None, the samples have no class. For clusters and vectors, None means that they are as
    frequent as in training. `guide` names the weaker model that guides: a version of the run itself, such as
    "@guide", or the path and hash of another run. `interval` is the lowest and the highest log-SNR with
    guidance; None means all noise levels. `changes` lists the fields of sampler, grid, schedule and clipping
    that differ from the run's recipe, with their values. All grids that `ddim search` found are equal in
    comparisons.
    """

    steps: int
    weights: str
    label: str | int | None
    guidance: float
    changes: tuple[tuple[str, str], ...]
    interval: tuple[float | None, ...] | None = None
    guide: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.steps} steps", f"weights {self.weights}"]
        if self.label is not None:
            parts.append(f"label {self.label}")
        if self.label is not None or self.guidance != 1:
            parts.append(f"guidance {self.guidance:g}")
        if self.interval is not None:
            parts.append(f"log-SNR {name_interval(self.interval)}")
        if self.guide is not None:
            parts.append(f"guide {self.guide}")
        return ", ".join([*parts, *(f"{name} {value}" for name, value in self.changes)])


class Mismatch(NamedTuple):
    """One aspect in which two conditions differ, such as "reference", and its two values."""

    aspect: str
    one: Any
    other: Any

    def __str__(self) -> str:
        return f"different {self.aspect}: {self.one} and {self.other}"


@dataclass(frozen=True)
class Conditions:
    """The conditions under which a number was measured.

    Attributes:
        measure: the features that a metric compares; for a denoising error, its unit: the fields of the
            recipe that define noise levels and the scaling of pixels, as text.
        reference: the real images.
        images: the number of samples; for a denoising error, the number of validation images.
        sampling: how the images were sampled; None for denoising errors and for images of unknown origin.
    """

    measure: Features | str
    reference: ReferenceSet
    images: int
    sampling: Sampling | None = None

    def mismatches(self, other: Conditions) -> list[Mismatch]:
        """Return the aspects in which these conditions differ from `other` conditions."""
        names = ("features", "reference", "number of samples", "sampling")
        pairs = ((getattr(self, each.name), getattr(other, each.name)) for each in fields(self))
        return [Mismatch(name, *pair) for name, pair in zip(names, pairs, strict=True) if pair[0] != pair[1]]

    def shortage(self, metric: str) -> str | None:
        """Return a sentence if a metric needs more samples or reference images, else None."""
        if metric not in METRICS or not isinstance(self.measure, Features):
            return None
        least, title = METRICS[metric].least or self.measure.dimensions, METRICS[metric].title
        images, advice = min(self.images, self.reference.images), ""
        if self.reference.images < min(least, self.images) and self.reference.part == "valid":
            advice = '; evaluate with part="all" to compare with all images'
        few = f"{images:,} images are too few to rank by {title}, which needs at least {least:,}{advice}"
        return few if images < least else None


def evaluation_conditions(evaluation: Evaluation, recipe: Mapping[str, Any] | None = None) -> Conditions:
    """Return the conditions of an evaluation.

    Args:
        evaluation: the evaluation.
        recipe: the run's recipe as JSON, with which the sampling is compared. The default is the recipe of
            the record, so that no field counts as changed.
    """
    sampling, images = _sampling(evaluation.sampling, recipe), evaluation.generated.images
    return Conditions(evaluation.features, evaluation.reference, images, sampling)


def error_conditions(recipe: Mapping[str, Any], fingerprint: str) -> Conditions:
    """Return the conditions of the denoising errors that a run logs for its validation images.

    Args:
        recipe: the recipe of the run, as JSON.
        fingerprint: the fingerprint of the run's images, "" if the run has not opened them yet.
    """
    units = flatten_as_text({name: recipe.get(name) for name in UNITS})
    count = recipe["report"]["validation_images"]
    reference = ReferenceSet("", fingerprint, "valid", recipe["data"]["size"], count, "")
    return Conditions(", ".join(f"{name} {value}" for name, value in units.items()), reference, count)


def why_not_comparable(one: Evaluation, other: Evaluation, metric: str = "kid") -> str | None:
    """Return why two evaluations may not be ranked by a metric, as a sentence; None if they may."""
    mine, theirs = evaluation_conditions(one), evaluation_conditions(other)
    found = {mismatch.aspect: str(mismatch) for mismatch in mine.mismatches(theirs)}
    if "features" in found:
        return found["features"]
    if mine.reference.sha256 != theirs.reference.sha256:
        return str(Mismatch("reference", mine.reference, theirs.reference))
    for each in (one, other):
        if metric not in each.metrics:
            return f"{each.generated.source} has no {METRICS[metric].title}"
    if METRICS[metric].biased and "number of samples" in found:
        return found["number of samples"]
    return mine.shortage(metric) or theirs.shortage(metric)


def _sampling(sampling: SamplingRecord | None, recipe: Mapping[str, Any] | None) -> Sampling | None:
    if sampling is None:
        return None
    recipe = recipe or sampling.recipe
    interval, guide, label = sampling.guidance_interval, sampling.guide, sampling.changed_label(recipe)
    return Sampling(
        len(sampling.times),
        sampling.weights,
        label if isinstance(label, str | int | None) else str(label),  # given vectors
        sampling.guidance,
        tuple(_changes(recipe, sampling.recipe)),
        tuple(interval) if interval else None,
        _name_guide(guide) if guide else None,
    )


def _name_guide(guide: Mapping[str, Any]) -> str:
    """Return the name of a guide, with its weights and the hash of its checkpoint if it is another run."""
    name, weights = name_guide(guide["name"]), guide.get("weights", "ema")
    if name.startswith("@"):
        return name
    named = name if weights == "ema" or name.endswith(f"@{weights}") else f"{name}@{weights}"
    return f"{named} ({shorten_hash(guide['sha256'])})"


def _changes(own: Mapping[str, Any], used: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, value in `used`) of each sampling field in which `used` differs from the run's recipe."""
    for part in SAMPLING_FIELDS:
        before, after = (flatten_as_text({part: recipe.get(part)}) for recipe in (own, used))
        if after.get(part) == "listed":
            # `ddim search` finds different times for each run. Without the times, all its grids are equal.
            after = {part: "listed"}
        # The run's recipe may lack fields that a newer version of ddim has added; these count as equal.
        same_kind = after.get(part) == before.get(part)
        for name, value in after.items():
            if not same_kind or value != before.get(name, value):
                yield name, value
