"""Summarise runs: group them into configurations, find how these differ, and average their metrics.

Runs are repeats of one configuration if their recipes, apart from the seed, and their numbers of planned
images are equal. Only evaluations under the same conditions are averaged (`ddim.experiments.evaluations`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ddim.evaluation.conditions import Conditions, evaluation_conditions
from ddim.evaluation.guidance_name import name_guide
from ddim.evaluation.record import Evaluation
from ddim.experiments.evaluations import newest_evaluation
from ddim.experiments.index import Run
from ddim.metrics import catalogue
from ddim.metrics.catalogue import Metric
from ddim.recipe.options import ERRORS, flatten_as_text

METRICS = {
    "image_mae": Metric("Image MAE", lower_is_better=True, biased=False, least=1),
    "noise_mae": Metric("Noise MAE", lower_is_better=True, biased=False, least=1),
    **{
        name: replace(metric, title=metric.title[0].upper() + metric.title[1:])
        for name, metric in catalogue.METRICS.items()
    },
}
"""The metrics of a report: the errors in the logs, and those of `ddim.metrics.catalogue`."""

MISSING = "–"
"""The value of a field that a configuration does not have."""


@dataclass(frozen=True)
class Configuration:
    """Runs that differ only in their seed, and that train on equally many images.

    Attributes:
        choice: the fields, with their values, in which this configuration differs from the others.
        runs: one run for each seed.
        duplicates: further runs that have the same seed as one of `runs`; they do not count as repeats.
    """

    choice: Mapping[str, str]
    runs: tuple[Run, ...]
    duplicates: tuple[Run, ...] = ()

    @property
    def name(self) -> str:
        """A short name: the values in which this configuration differs from the others."""
        return " ".join(self.choice.values()) or self.runs[0].recipe.get("name", "run")

    @property
    def counted(self) -> tuple[Run, ...]:
        """The runs that are averaged: the finished runs, or all runs if none is finished."""
        return tuple(run for run in self.runs if run.state == "finished") or self.runs


@dataclass(frozen=True)
class Spread:
    """The mean of a metric over `n` repeats.

    `deviation` is the sample standard deviation, if there are several values. `interval` is the 95 %
    confidence interval, if there is a single value.
    """

    mean: float
    n: int
    deviation: float | None = None
    interval: tuple[float, float] | None = None


def group_runs(found: Iterable[Run]) -> list[Configuration]:
    """Return the configurations in the order of their first runs; runs without a recipe are left out."""
    known = [run for run in found if run.recipe]
    described = [
        (run, flatten_as_text(run.recipe) | _extended_budget(run) | origins)
        for run, origins in zip(known, _origins(known), strict=True)
    ]
    names = differing_fields([fields for _, fields in described])
    if have_same_images(known):
        # The same images may have been read from different paths, so the path is no difference.
        names = [name for name in names if name != "data.source"]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run, fields in described:
        groups.setdefault(tuple(fields.get(name, MISSING) for name in names), []).append(run)
    choices = [dict(zip(names, values, strict=True)) for values in groups]
    return [
        Configuration(choice, *_split_duplicates(group))
        for choice, group in zip(choices, groups.values(), strict=True)
    ]


def _extended_budget(run: Run) -> dict[str, str]:
    """Return {"images": the budget} of a run that was extended, in place of its recipe's budget; else {}."""
    return {"images": str(run.total)} if run.facts.get("extended") else {}


def _origins(found: Sequence[Run]) -> list[dict[str, str]]:
    """Return, for each run, what its recipe does not say: where its initial weights and images come from.

    The hash of the source checkpoint is returned only if runs have the same source but different checkpoints.
    The fingerprint of the images is returned only if runs have the same path but different images.
    """
    facts = [run.facts for run in found]
    # Folders are left out, because other people may see the names.
    sources = [name_guide(each.get("source") or MISSING) if each else None for each in facts]
    digests = [each.get("source_sha256") for each in facts]
    seen = [each.get("data", {}).get("fingerprint") for each in facts]
    # A fingerprint also depends on size and channels, so it is compared only among runs with equal ones.
    places = [tuple(str(run.recipe["data"].get(n)) for n in ("source", "size", "channels")) for run in found]
    columns = {
        "from": _values_that_differ([None] * len(found), sources),
        "checkpoint": [text[:8] for text in _values_that_differ(sources, digests)],
        "fingerprint": [text[:8] for text in _values_that_differ(places, seen)],
    }
    return [{name: values[k] for name, values in columns.items()} for k in range(len(found))]


def _values_that_differ(places: Sequence[Hashable], values: Sequence[str | None]) -> list[str]:
    """Return the values. If all values of a place are equal, `MISSING` stands for each of them.

    Entry k of `places` is the place of value k. An unknown value (None) counts as equal to the first known
    value of its place.
    """
    known: dict[Hashable, list[str]] = {}
    for place, value in zip(places, values, strict=True):
        known.setdefault(place, []).extend([] if value is None else [value])
    return [
        (value or known[place][0]) if len(set(known[place])) > 1 else MISSING
        for place, value in zip(places, values, strict=True)
    ]


def differing_fields(recipes: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the fields in which flattened recipes differ, except for the seed and the number of classes.

    The number of classes is left out because a waiting trial does not have it: a run counts its classes when
    it reads its images. Fields of a schedule, for example, are compared only among recipes with the same kind
    of schedule, because a linear and a cosine schedule have different fields anyway.
    """
    ignored = ("seed", "net.classes")
    names = dict.fromkeys(name for recipe in recipes for name in recipe if name not in ignored)
    return [name for name in names if _differs(name, recipes)]


def have_same_images(found: Sequence[Run]) -> bool:
    """Return whether all runs are known to be trained on the same images."""
    fingerprints = {run.facts.get("data", {}).get("fingerprint") for run in found}
    return len(fingerprints) == 1 and None not in fingerprints


def summarise_values(values: Sequence[float], interval: tuple[float, float] | None = None) -> Spread:
    """Return mean and sample standard deviation (n - 1) of values; `interval` is that of a single value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Spread(mean, 1, None, interval)
    return Spread(mean, n, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)))


def summarise_metrics(configuration: Configuration, common: Conditions | None) -> dict[str, Spread]:
    """Return the mean of each metric over the counted runs, from evaluations under the `common` conditions.

    Without a finished run, all runs count. If `common` is None, only the errors in the logs are averaged.
    """
    found = {}
    for name in METRICS:
        entries = [value_of_run(run, name, common) for run in configuration.counted]
        known = [entry for entry in entries if entry is not None]
        if known:
            found[name] = summarise_values([value for value, _ in known], known[0][1])
    return found


def earlier_evaluations(configuration: Configuration) -> list[tuple[Run, Evaluation]]:
    """Return (run, newest evaluation) for each finished run that was evaluated only before its last step."""
    missed = [run for run in configuration.counted if run.evaluations and newest_evaluation(run) is None]
    return [(run, run.evaluations[-1]) for run in missed]


def other_conditions(configuration: Configuration, common: Conditions) -> list[Conditions]:
    """Return the other conditions of counted runs that were not evaluated under `common`, without repeats.

    For each such run, these are the conditions of its newest evaluation.
    """
    missed = [run for run in configuration.counted if newest_evaluation(run, common) is None]
    found = (evaluation_conditions(e, run.recipe) for run in missed if (e := newest_evaluation(run)))
    return list(dict.fromkeys(found))


def _split_duplicates(group: Sequence[Run]) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """Return one run for each seed, a finished run if possible, and all other runs."""
    first: dict[Any, Run] = {}
    for run in sorted(group, key=lambda run: run.state != "finished"):
        first.setdefault(run.recipe.get("seed"), run)
    kept = tuple(run for run in group if run is first[run.recipe.get("seed")])
    return kept, tuple(run for run in group if run is not first[run.recipe.get("seed")])


def _differs(name: str, recipes: Sequence[Mapping[str, str]]) -> bool:
    part = name.rpartition(".")[0]
    values: dict[str | None, set[str | None]] = {}
    for recipe in recipes:
        values.setdefault(recipe.get(part), set()).add(recipe.get(name))
    return any(len(of_kind) > 1 for of_kind in values.values())


def value_of_run(
    run: Run, name: str, common: Conditions | None
) -> tuple[float, tuple[float, float] | None] | None:
    """Return (value, 95 % confidence interval or None) of a metric for a run; None if there is no value."""
    if name in ERRORS:
        return (run.errors[name], None) if name in run.errors else None
    evaluation = newest_evaluation(run, common) if common else None
    found = evaluation and evaluation.metrics.get(name)
    return (found.value, evaluation.interval(name)) if evaluation and found else None
