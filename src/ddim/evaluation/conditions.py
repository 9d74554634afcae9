"""The conditions of an evaluation, which decide what may be compared. This module does not import torch.

There are two rules. Numbers may stand in one column of a table, and be averaged over repeats, if their
conditions are equal. Two evaluations may be ranked by a metric if `why_not_comparable` returns None; their
sampling may differ, because rankings compare ways of sampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ddim.evaluation.guidance_name import name_guide, name_interval
from ddim.evaluation.record import Evaluation, SamplingRecord, shorten_hash
from ddim.metrics.catalogue import METRICS
from ddim.recipe.options import SAMPLING_FIELDS, flatten_as_text

UNITS = ("schedule", "pixels")
"""Parts of a recipe that define the unit of a denoising error: noise levels, and the scaling of pixels."""

VALIDATION_FIELDS = (
    *("data.source", "data.size", "data.channels", "data.validation"),
    *("data.split_seed", "seed"),
)
"""Fields of a recipe that decide which images a run is validated and evaluated against."""


class Conditions(NamedTuple):
    """The conditions under which a run was evaluated, in words.

    Repeats with different seeds have equal conditions, although they draw different validation images: the
    spread over repeats includes this variation. `sampling` says how sampling differs from the run's recipe;
    all grids that `ddim search` found are equal.
    """

    features: str
    reference: str
    samples: int
    sampling: str

    def describe_differences(self, other: Conditions) -> str:
        """Return the conditions that differ from `other` conditions, in words and without paths."""
        pairs = zip(self._fields, self, other, strict=True)
        return ", ".join(f"different {name} ({mine})" for name, mine, theirs in pairs if mine != theirs)


def evaluation_conditions(evaluation: Evaluation, recipe: Mapping[str, Any] | None = None) -> Conditions:
    """Return the conditions of an evaluation.

    Args:
        evaluation: the evaluation.
        recipe: the run's recipe as JSON, with which the sampling is compared. The default is the recipe of
            the record, so that no field counts as changed.
    """
    sampling = evaluation.sampling
    how = ", ".join(_describe_sampling(sampling, recipe or sampling.recipe)) if sampling else "unknown"
    return Conditions(str(evaluation.features), evaluation.reference.description, evaluation.count, how)


def why_not_comparable(one: Evaluation, other: Evaluation, metric: str = "kid") -> str | None:
    """Return why two evaluations may not be ranked by a metric, as a sentence; None if they may."""
    if one.features != other.features:
        return f"different features: {one.features} and {other.features}"
    if one.reference.sha256 != other.reference.sha256:
        pair = [f"{each.description} from {each.source}" for each in (one.reference, other.reference)]
        if one.reference.fingerprint == other.reference.fingerprint:
            return f'different images of {pair[0]}: evaluate both with part="all", or with one reference'
        return f"different reference: {' and '.join(pair)}"
    if METRICS[metric].biased and one.count != other.count:
        return f"different numbers of samples: {one.count:,} and {other.count:,}"
    return why_not_ranked(one, metric) or why_not_ranked(other, metric)


def why_not_ranked(evaluation: Evaluation, metric: str) -> str | None:
    """Return a sentence if an evaluation lacks a metric, or has too few images to be ranked, else None."""
    title, reference = METRICS[metric].title, evaluation.reference
    if metric not in evaluation.metrics:
        return f"{evaluation.source} has no {title}"
    least = METRICS[metric].least or evaluation.features.dimensions
    if (images := min(evaluation.count, reference.images)) >= least:
        return None
    few = reference.part == "valid" and reference.images < least
    advice = '; evaluate with part="all" to compare with all images' if few else ""
    return f"{images:,} images are too few to rank by {title}, which needs at least {least:,}{advice}"


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
