"""What came of runs: configurations, each with its repeats, where they differ, and their numbers.

Runs that differ in their seed alone are repeats of one configuration. An evaluation counts beside others
where it was made in the same way (`ddim.experiments.conditions`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddim.evaluation import record as scores
from ddim.experiments.conditions import Way, latest, newest, way
from ddim.experiments.index import Run
from ddim.metrics import catalogue
from ddim.runs import flat
from ddim.runs.codec import completed

METRICS = {
    "image_mae": ("Image MAE", -1),
    "noise_mae": ("Noise MAE", -1),
    **{
        name: (metric.title[0].upper() + metric.title[1:], -1 if metric.lower_is_better else 1)
        for name, metric in catalogue.METRICS.items()
    },
}
"""Title of each metric, and whether it is good that it is small (-1) or large (1)."""

MISSING = "–"
"""The value of a field that a configuration does not have."""


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in their seed alone; `choice` is where they differ from the other configurations.

    `again` are further runs of seeds that are among them: the same runs once more, and no repeats.
    """

    choice: Mapping[str, str]
    runs: tuple[Run, ...]
    again: tuple[Run, ...] = ()

    @property
    def name(self) -> str:
        """A short name, of the values that make it different."""
        return " ".join(self.choice.values()) or self.runs[0].recipe.get("name", "run")

    @property
    def counted(self) -> tuple[Run, ...]:
        """The runs whose numbers count: the finished ones, or all while none is finished."""
        return tuple(run for run in self.runs if run.state == "finished") or self.runs


@dataclass(frozen=True)
class Spread:
    """A number over `n` repeats: their mean and sample deviation; of one, its own interval if it has one."""

    mean: float
    n: int
    deviation: float | None = None
    interval: tuple[float, float] | None = None


def configurations(found: Iterable[Run]) -> list[Configuration]:
    """The runs by configuration, in the order of the first of each; those without a recipe are left out."""
    known = [run for run in found if run.recipe]
    planned = [
        (run, flat.fields(completed(run.recipe)) | facts)
        for run, facts in zip(known, _beginnings(known), strict=True)
    ]
    names = differences([fields for _, fields in planned])
    if same_images([run for run, _ in planned]):
        # The same images may have lain in different places.
        names = [name for name in names if name != "data.source"]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run, fields in planned:
        groups.setdefault(tuple(fields.get(name, MISSING) for name in names), []).append(run)
    choices = [dict(zip(names, values, strict=True)) for values in groups]
    return [
        Configuration(choice, *_once(group)) for choice, group in zip(choices, groups.values(), strict=True)
    ]


def _beginnings(found: Sequence[Run]) -> list[dict[str, str]]:
    """What a recipe does not tell of each run: whose weights it began with, and which of its checkpoints and
    which images, where a name has stood for several.
    """
    facts = [run.facts for run in found]
    sources = [each.get("source") or MISSING if each else None for each in facts]
    digests = [each.get("source_sha256") for each in facts]
    seen = [each.get("data", {}).get("fingerprint") for each in facts]
    # A fingerprint is of images in a size and with channels.
    places = [tuple(str(run.recipe["data"].get(n)) for n in ("source", "size", "channels")) for run in found]
    told = {
        "from": _told([None] * len(found), sources),
        "checkpoint": [text[:8] for text in _told(sources, digests)],
        "fingerprint": [text[:8] for text in _told(places, seen)],
    }
    return [{name: values[k] for name, values in told.items()} for k in range(len(found))]


def _told(places: Sequence[Hashable], values: Sequence[str | None]) -> list[str]:
    """Of each run its value where those of its place are known to differ; one unknown counts as the first."""
    known: dict[Hashable, list[str]] = {}
    for place, value in zip(places, values, strict=True):
        known.setdefault(place, []).extend([] if value is None else [value])
    return [
        (value or known[place][0]) if len(set(known[place])) > 1 else MISSING
        for place, value in zip(places, values, strict=True)
    ]


def differences(recipes: Sequence[Mapping[str, str]]) -> list[str]:
    """The fields in which recipes differ, but for the seed and the number of classes.

    A run counts its classes when it has its images: a trial that waits has none yet. A field of a part counts
    among recipes with the same kind of that part: a linear schedule has other fields than a cosine one, and
    that says nothing new.
    """
    alike = ("seed", "net.classes")
    names = dict.fromkeys(name for recipe in recipes for name in recipe if name not in alike)
    return [name for name in names if _differs(name, recipes)]


def same_images(found: Sequence[Run]) -> bool:
    """Whether all of the runs are known to have seen the same images."""
    fingerprints = {run.facts.get("data", {}).get("fingerprint") for run in found}
    return len(fingerprints) == 1 and None not in fingerprints


def spread(values: Sequence[float], interval: tuple[float, float] | None = None) -> Spread:
    """Mean and sample deviation (n - 1) of one value or more; `interval` is that of a single one."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Spread(mean, 1, None, interval)
    return Spread(mean, n, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)))


def numbers(configuration: Configuration, judged: Way | None) -> dict[str, Spread]:
    """Each metric over the runs that count, of evaluations made in the one way `judged`."""
    found = {}
    for name in METRICS:
        entries = [_entry(run, name, judged) for run in configuration.counted]
        known = [entry for entry in entries if entry is not None]
        if known:
            found[name] = spread([value for value, _ in known], known[0][1])
    return found


def other_ways(configuration: Configuration, judged: Way) -> list[Way]:
    """The ways in which runs of a configuration were judged that were not judged in the one way."""
    missed = [run for run in configuration.counted if latest(run, judged) is None]
    return list(dict.fromkeys(way(run, record) for run in missed if (record := newest(run))))


def _once(group: Sequence[Run]) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """The first run of each seed, a finished one before others; and the rest."""
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
    return any(len(alike) > 1 for alike in values.values())


def _entry(run: Run, name: str, judged: Way | None) -> tuple[float, tuple[float, float] | None] | None:
    """The value of a metric for a run, and its 95 % interval where there is one."""
    if name in flat.ERRORS:
        return (run.errors[name], None) if name in run.errors else None
    record = latest(run, judged)
    found = {} if record is None else scores.entry(record, name)
    if not found:
        return None
    return found["value"], (found["low"], found["high"]) if "low" in found else None
