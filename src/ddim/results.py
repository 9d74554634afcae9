"""What came of runs: configurations, each with its repeats, where they differ, and which numbers compare.

Runs that differ in their seed alone are repeats of one configuration. An evaluation counts beside others
where it was made in the same way: by the same features, against the same kind of reference, of as many
pictures.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddim import runs, scores
from ddim.codec import completed
from ddim.runs import Run

METRICS = {
    "image_mae": ("Image MAE", -1),
    "noise_mae": ("Noise MAE", -1),
    **{
        name: (metric.title[0].upper() + metric.title[1:], -1 if metric.lower_is_better else 1)
        for name, metric in scores.METRICS.items()
    },
}
"""Title of each metric, and whether it is good that it is small (-1) or large (1)."""

MISSING = "–"
"""The value of a field that a configuration does not have."""


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in their seed alone; `choice` is where they differ from the other configurations."""

    choice: Mapping[str, str]
    runs: tuple[Run, ...]

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


@dataclass(frozen=True)
class Way:
    """How an evaluation was made; numbers compare where all of it is equal.

    The reference is not told by its hash: each seed draws a validation part of its own from the same images,
    and the spread over repeats holds what that does.
    """

    extractor: str
    weights: str
    resize: str
    dimensions: int
    reference: tuple[str, str, tuple[int, ...], int]
    pictures: int

    def ranks(self, metric: str) -> bool:
        """Whether there are images enough to rank by a metric."""
        least = scores.METRICS[metric].needs(self.dimensions) if metric in scores.METRICS else 0
        return min(self.pictures, self.reference[-1]) >= least


def configurations(found: Iterable[Run]) -> list[Configuration]:
    """The runs by configuration, in the order of the first of each; those without a recipe are left out."""
    planned = [(run, runs.fields(completed(run.recipe))) for run in found if run.recipe]
    names = differences([fields for _, fields in planned])
    if same_images([run for run, _ in planned]):
        # The same images may have lain in different places.
        names = [name for name in names if name != "data.source"]
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run, fields in planned:
        groups.setdefault(tuple(fields.get(name, MISSING) for name in names), []).append(run)
    return [
        Configuration(dict(zip(names, values, strict=True)), tuple(group)) for values, group in groups.items()
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


def way(record: Mapping[str, Any]) -> Way:
    """How the evaluation of a record was made."""
    features, reference = record["features"], record["reference"]
    against = reference["fingerprint"], reference["part"], tuple(reference["size"]), reference["images"]
    names = features["extractor"], features["weights"], features["resize"], features["dimensions"]
    return Way(*names, against, record["generated"]["images"])


def standard(found: Iterable[Run]) -> Way | None:
    """The way in which most runs were judged; of two, that of more pictures. None where none was judged."""
    counts = Counter(each for run in found for each in {way(record) for record in run.records})
    return max(counts, key=lambda each: (counts[each], each.pictures), default=None)


def unlike(one: Way, other: Way) -> str:
    """In what two ways differ: "other extractor (inception-2015)", of the first."""
    said = []
    if (one.extractor, one.weights, one.resize) != (other.extractor, other.weights, other.resize):
        said.append(f"other extractor ({one.extractor}, weights {one.weights[:8]}, {one.resize})")
    if one.reference != other.reference:
        _, part, size, images = one.reference
        said.append(f"other reference ({images} images of part {part}, {'x'.join(map(str, size))})")
    if one.pictures != other.pictures:
        said.append(f"other count ({one.pictures} pictures)")
    return ", ".join(said)


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
    missed = [run for run in configuration.counted if run.records and _latest(run, judged) is None]
    return list(dict.fromkeys(way(run.records[-1]) for run in missed))


def _differs(name: str, recipes: Sequence[Mapping[str, str]]) -> bool:
    part = name.rpartition(".")[0]
    values: dict[str | None, set[str | None]] = {}
    for recipe in recipes:
        values.setdefault(recipe.get(part), set()).add(recipe.get(name))
    return any(len(alike) > 1 for alike in values.values())


def _latest(run: Run, judged: Way | None) -> Mapping[str, Any] | None:
    return next((record for record in reversed(run.records) if way(record) == judged), None)


def _entry(run: Run, name: str, judged: Way | None) -> tuple[float, tuple[float, float] | None] | None:
    """The value of a metric for a run and its 95 % interval: that of FID belongs to what it tends to."""
    if name in runs.ERRORS:
        return (run.errors[name], None) if name in run.errors else None
    record = _latest(run, judged)
    metrics = record["metrics"] if record is not None else {}
    if name == "fid_infinity":
        fid = metrics.get("fid", {})
        return (fid["infinity"], (fid["low"], fid["high"])) if fid.get("infinity") is not None else None
    if name not in metrics:
        return None
    entry = metrics[name]
    return entry["value"], (entry["low"], entry["high"]) if name == "kid" else None
