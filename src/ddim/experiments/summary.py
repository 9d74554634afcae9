"""A summary of runs: configurations with their repeats, where they differ, and their numbers.

Runs that differ in nothing but their seed are repeats of one configuration. Evaluations are summarised
together if they were made under the same conditions (`ddim.experiments.evaluations`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddim.evaluation.conditions import Conditions, evaluation_conditions
from ddim.evaluation.record import metric_entry
from ddim.experiments.evaluations import newest_record
from ddim.experiments.index import Run
from ddim.metrics import catalogue
from ddim.runs.flat import ERRORS, flatten_as_text

METRICS = {
    "image_mae": ("Image MAE", -1),
    "noise_mae": ("Noise MAE", -1),
    **{
        name: (metric.title[0].upper() + metric.title[1:], -1 if metric.lower_is_better else 1)
        for name, metric in catalogue.METRICS.items()
    },
}
"""The title of each metric, and whether small (-1) or large (1) values are good."""

MISSING = "–"
"""The value of a field that a configuration does not have."""


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in their seed alone.

    Attributes:
        choice: the fields, with their values, in which this configuration differs from the others.
        runs: one run for each seed.
        duplicates: further runs with a seed that is among `runs`; they are no repeats.
    """

    choice: Mapping[str, str]
    runs: tuple[Run, ...]
    duplicates: tuple[Run, ...] = ()

    @property
    def name(self) -> str:
        """A short name, made of the values that differ."""
        return " ".join(self.choice.values()) or self.runs[0].recipe.get("name", "run")

    @property
    def counted(self) -> tuple[Run, ...]:
        """The runs whose numbers count: the finished ones, or all if none is finished."""
        return tuple(run for run in self.runs if run.state == "finished") or self.runs


@dataclass(frozen=True)
class Spread:
    """A number over `n` repeats.

    `deviation` is the sample deviation of several values, `interval` the 95 % interval of a single one.
    """

    mean: float
    n: int
    deviation: float | None = None
    interval: tuple[float, float] | None = None


def group_runs(found: Iterable[Run]) -> list[Configuration]:
    """Group runs by configuration, in the order of the first run of each; leave out runs without a recipe."""
    known = [run for run in found if run.recipe]
    described = [
        (run, flatten_as_text(run.recipe) | origins)
        for run, origins in zip(known, _origins(known), strict=True)
    ]
    names = differing_fields([fields for _, fields in described])
    if have_same_images(known):
        # The same images may have been read from different places.
        names = [name for name in names if name != "data.source"]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run, fields in described:
        groups.setdefault(tuple(fields.get(name, MISSING) for name in names), []).append(run)
    choices = [dict(zip(names, values, strict=True)) for values in groups]
    return [
        Configuration(choice, *_split_duplicates(group))
        for choice, group in zip(choices, groups.values(), strict=True)
    ]


def _origins(found: Sequence[Run]) -> list[dict[str, str]]:
    """Return two facts of each run that are not in its recipe: the source of its weights, its exact images.

    The checkpoint and the fingerprint of the images are named only if one name stands for several of them.
    """
    facts = [run.facts for run in found]
    sources = [each.get("source") or MISSING if each else None for each in facts]
    digests = [each.get("source_sha256") for each in facts]
    seen = [each.get("data", {}).get("fingerprint") for each in facts]
    # A fingerprint depends on the size and the number of channels of the images.
    places = [tuple(str(run.recipe["data"].get(n)) for n in ("source", "size", "channels")) for run in found]
    columns = {
        "from": _values_that_differ([None] * len(found), sources),
        "checkpoint": [text[:8] for text in _values_that_differ(sources, digests)],
        "fingerprint": [text[:8] for text in _values_that_differ(places, seen)],
    }
    return [{name: values[k] for name, values in columns.items()} for k in range(len(found))]


def _values_that_differ(places: Sequence[Hashable], values: Sequence[str | None]) -> list[str]:
    """Return each value if those of its place differ, else `MISSING`; an unknown one counts as the first."""
    known: dict[Hashable, list[str]] = {}
    for place, value in zip(places, values, strict=True):
        known.setdefault(place, []).extend([] if value is None else [value])
    return [
        (value or known[place][0]) if len(set(known[place])) > 1 else MISSING
        for place, value in zip(places, values, strict=True)
    ]


def differing_fields(recipes: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the fields in which flattened recipes differ, but for the seed and the number of classes.

    A run counts its classes when it reads its images, so a waiting trial has none yet. Fields of a part are
    compared among recipes with the same kind of that part: a linear schedule has other fields than a cosine
    schedule, which adds nothing to the difference of the kinds.
    """
    ignored = ("seed", "net.classes")
    names = dict.fromkeys(name for recipe in recipes for name in recipe if name not in ignored)
    return [name for name in names if _differs(name, recipes)]


def have_same_images(found: Sequence[Run]) -> bool:
    """Whether all runs are known to have seen the same images."""
    fingerprints = {run.facts.get("data", {}).get("fingerprint") for run in found}
    return len(fingerprints) == 1 and None not in fingerprints


def summarise_values(values: Sequence[float], interval: tuple[float, float] | None = None) -> Spread:
    """Return mean and sample deviation (n - 1) of the values; a single value has the given interval."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Spread(mean, 1, None, interval)
    return Spread(mean, n, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)))


def summarise_metrics(configuration: Configuration, common: Conditions | None) -> dict[str, Spread]:
    """Return each metric over the counted runs, from evaluations under the common conditions."""
    found = {}
    for name in METRICS:
        entries = [_entry(run, name, common) for run in configuration.counted]
        known = [entry for entry in entries if entry is not None]
        if known:
            found[name] = summarise_values([value for value, _ in known], known[0][1])
    return found


def other_conditions(configuration: Configuration, common: Conditions) -> list[Conditions]:
    """Return the conditions under which counted runs were evaluated that have no common evaluation."""
    missed = [run for run in configuration.counted if newest_record(run, common) is None]
    found = (evaluation_conditions(rec, run.recipe) for run in missed if (rec := newest_record(run)))
    return list(dict.fromkeys(found))


def _split_duplicates(group: Sequence[Run]) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """Return the first run of each seed, preferring a finished run; and the remaining runs."""
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


def _entry(run: Run, name: str, common: Conditions | None) -> tuple[float, tuple[float, float] | None] | None:
    """Return the value of a metric for a run, and its 95 % interval if it has one."""
    if name in ERRORS:
        return (run.errors[name], None) if name in run.errors else None
    record = newest_record(run, common) if common else None
    found = {} if record is None else metric_entry(record, name)
    if not found:
        return None
    return found["value"], (found["low"], found["high"]) if "low" in found else None
