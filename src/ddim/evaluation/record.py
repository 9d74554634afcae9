"""The record of an evaluation: find it, read it, and say in words what it holds.

An evaluation is a folder with ``record.json``, ``features.npy`` (one float32 row for each image, in the order
of the seeds) and ``grid.png``. The evaluations of a run are ``RUN/evaluations/1``, ``2``, ... This module
does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path, PureWindowsPath
from typing import Any

from ddim.errors import UserError, format_count, quote
from ddim.evaluation.guidance_name import name_recorded_guidance
from ddim.files import read_sealed
from ddim.metrics.catalogue import METRICS, metric_name
from ddim.metrics.estimate import Estimate
from ddim.plots.table import Tabular, format_interval
from ddim.recipe.options import labels_by_default
from ddim.runs.folder import list_numbered_folders

SCHEMA = 1
"""The version of the layout of a record."""

FOLDER, RECORD, FEATURES, GRID = "evaluations", "record.json", "features.npy", "grid.png"

FEW = 100
"""With fewer images, precision and the other shares of neighbours say little."""

CLOSE = 0.8
"""Samples are called close to real images if their precision and coverage reach this share of theirs."""

MEANINGS = {
    "kid": "distance; lower is better",
    "fid": "distance, biased upwards; lower is better",
    "fid_infinity": "FID of unlimited samples; lower is better",
    "precision": "share of samples that look real",
    "recall": "share of real images that are covered",
    "density": "real images near a sample, about 1 if real",
    "coverage": "share of real images with a sample nearby",
}
"""What each metric means."""


# The entries of a record


@dataclass(frozen=True)
class Features:
    """How features are computed: extractor, SHA-256 of its weights, resizing, number of dimensions."""

    extractor: str
    weights: str
    resize: str
    dimensions: int

    def __str__(self) -> str:
        return f"{self.extractor} (weights {shorten_hash(self.weights)}, {self.resize})"


@dataclass(frozen=True)
class ReferenceSet:
    """The real images that samples are compared with: the part of a source, at a size.

    Two sets are equal if they are the same part of the same data, with equal sizes and numbers of images.
    `source` and `sha256` are not compared: repeats with different seeds draw different validation images, and
    the spread over repeats includes this variation.
    """

    source: str = field(compare=False)
    fingerprint: str
    part: str
    size: tuple[int, ...]
    images: int
    sha256: str = field(compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))

    def __str__(self) -> str:
        return f"{self.description}, from {self.source} ({shorten_hash(self.fingerprint)})"

    @property
    def name(self) -> str:
        """The images in words, without the folders of the source, such as "30 held-out images of photos"."""
        # The path may be from Windows, where both / and \ separate folders.
        return describe_part(self.images, self.part, PureWindowsPath(self.source).name)

    @property
    def description(self) -> str:
        """The images in words, without their source, which differs between machines."""
        return f"{self.images:,} images of part {self.part}, {'x'.join(map(str, self.size))}"


@dataclass(frozen=True)
class SamplingRecord:
    """How images were sampled; see `ddim.sampling.record.sampling_record`.

    `record` has all entries, as JSON. Recipe, sampler, grid and guide are JSON too.
    """

    record: Mapping[str, Any]
    recipe: Mapping[str, Any]
    sampler: Mapping[str, Any]
    grid: Mapping[str, Any]
    times: Sequence[float]
    nfe: int
    seeds: Sequence[int]
    weights: str
    step: int
    sampler_name: str = "sampler"
    label: Any = None
    guidance: float = 1.0
    guide: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """A short name, such as "edm, 10 steps, 19 NFE"; the run and the defaults are not named."""
        words = [self.sampler_name, f"{len(self.times)} steps", f"{self.nfe} NFE"]
        words += [f"{self.weights} weights"] * (self.weights != "ema")
        if (label := self.changed_label(self.recipe)) is not None:
            words.append(f"label {self.record.get('class') or label}")
        return ", ".join([*words, *[self.guidance_name] * bool(self.guidance_name)])

    @property
    def guidance_name(self) -> str:
        """The guidance in words, "" without guidance; see `name_recorded_guidance`."""
        return name_recorded_guidance(self.record)

    def changed_label(self, recipe: Mapping[str, Any]) -> Any:  # noqa: ANN401  (JSON)
        """Return the label if it is not the default of runs with this recipe (as JSON), else None.

        Clusters and vectors have the frequencies of training by default, and no label is then "none".
        """
        if labels_by_default(recipe.get("data", {})) and isinstance(self.label, str | None):
            return {"natural": None, None: "none"}.get(self.label, self.label)
        return self.label


def describe_part(count: int, part: str, source: str) -> str:
    """Return the images of a part of a source in words, such as "30 held-out images of photos"."""
    kind = {"valid": "held-out ", "train": "training "}.get(part, "")
    return f"{format_count(count, f'{kind}image')} of {source}"


def shorten_hash(text: str) -> str:
    """Return the first eight letters of a SHA-256; return any other text unchanged."""
    return f"{text[:8]}..." if len(text) == 64 else text


# Metrics and evaluations


@dataclass(frozen=True, repr=False)
class Metrics(Tabular):
    """KID, FID, precision, recall, density and coverage of images, keyed by name in `metrics`.

    `remarks` are about numbers that are missing or easily misread.
    """

    metrics: Mapping[str, Estimate]
    remarks: Sequence[str]

    @property
    def kid(self) -> float | None:
        """The kernel inception distance; it is unbiased, and may be below 0."""
        return self.value("kid")

    @property
    def fid(self) -> float | None:
        """The Fréchet inception distance."""
        return self.value("fid")

    @property
    def notes(self) -> list[str]:
        """Return the remarks as the lines below a table."""
        return [f"note: {remark}" for remark in self.remarks]

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each metric: its value and the ends of its 95 % interval.

        The ends are None if there is no interval for the metric.
        """
        return [
            {"metric": METRICS[name].title, "value": found.value, "low": found.low, "high": found.high}
            for name, found in self.metrics.items()
        ]

    def value(self, metric: str) -> float | None:
        """Return the value of a metric, None if it was not measured.

        Raises:
            UserError: if there is no metric of this name.
        """
        found = self.metrics.get(metric_name(metric))
        return found.value if found else None

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the 95 % confidence interval of a metric, None if it has none.

        Raises:
            UserError: if there is no metric of this name.
        """
        found = self.metrics.get(metric_name(metric))
        return None if found is None or found.low is None else (found.low, found.high)


@dataclass(frozen=True, repr=False)
class Yardstick(Metrics):
    """The metrics of real images in place of samples, and the number and the part of these images."""

    images: int
    part: str


@dataclass(frozen=True, repr=False)
class Evaluation(Metrics):
    """An evaluation: its folder and its record. A notebook shows it as a table of metrics.

    `record` is the whole record as JSON. `sampling` is None if it is not known how the images were sampled.
    `count` is the number of images, and `source` what they come from.
    """

    folder: Path
    record: dict[str, Any]
    count: int
    source: str
    features: Features
    reference: ReferenceSet
    sampling: SamplingRecord | None
    yardstick: Yardstick | None
    time: str

    @property
    def verdict(self) -> str:
        """Whether the images are close to real images, as far as their number allows to say."""
        mine, real = self.metrics, self.yardstick
        share = f"{mine['precision'].value:.0%} of these images look like one of the real images"
        if real is None:
            return f"{share}; how many other real images would is not known: none are left to compare"
        theirs = real.metrics
        halves = [each["kid"].value - each["kid"].low for each in (mine, theirs)]
        apart = mine["kid"].value - theirs["kid"].value > math.hypot(*halves)
        if not apart and (few := min(self.count, self.reference.images)) < FEW:
            return f"{few} images are too few to say whether these images differ from real ones"
        # Coverage grows with the number of images, and precision does not.
        names = ["precision", *["coverage"] * (real.images >= self.count)]
        near = not apart or all(mine[name].value >= CLOSE * theirs[name].value for name in names)
        judged = "close to real images" if near else "still clearly different from real images"
        return f"{judged}: {share}, and {theirs['precision'].value:.0%} of other real images do"

    @property
    def name(self) -> str:
        """A short name of the images, such as "edm, 10 steps, 19 NFE"; the run is not named."""
        return self.sampling.name if self.sampling else f"images of {Path(self.source).name}"

    @property
    def conditions(self) -> str:
        """The images and the features in words, without the folders of the images."""
        return f"{self.count:,} samples against {self.reference.name}, features {self.features.extractor}"

    @property
    def title(self) -> str:
        return f"{self.name}: {self.conditions}; {self.folder}"

    @property
    def notes(self) -> list[str]:
        """The remarks, the intervals, the reference, the features and the seconds."""
        notes, theirs = [*super().notes], self.yardstick.metrics if self.yardstick else {}
        for name, of in self.metrics.items():
            shown = [
                format_interval(each.value, each.low, each.high) for each in (of, theirs.get(name)) if each
            ]
            if of.low is not None:
                notes.append(f"{METRICS[name].title} {', other real images '.join(shown)}")
        notes.append(f"reference: {self.reference.source}, features {self.features}")
        if self.yardstick:
            notes.append(f"other real images: {self.yardstick.images:,}, part {self.yardstick.part}")
        seconds = (f"{seconds:.0f} s of {part}" for part, seconds in self.record["seconds"].items())
        return [*notes, f"{', '.join(seconds)}; {self.record['generated'].get('kept', 0):,} images were kept"]

    def to_json(self) -> dict[str, Any]:
        """Return the folder, the verdict and the whole record as plain values."""
        return {"folder": self.folder, "verdict": self.verdict, **self.record}

    def _shown_rows(self) -> list[dict[str, Any]]:
        theirs = self.yardstick.metrics if self.yardstick else {}
        return [
            {
                "metric": METRICS[name].title,
                "measured": found.value,
                "real images": theirs[name].value if name in theirs else None,
                "meaning": MEANINGS[name],
            }
            for name, found in self.metrics.items()
        ]

    def _picture(self) -> bytes | None:
        """Return the sheet of the first samples."""
        path = self.folder / GRID
        return path.read_bytes() if path.is_file() else None


# Read records


def read_evaluation(path: Path) -> Evaluation:
    """Return the evaluation at a path: a record, the folder of a record, or a run (its newest evaluation).

    Raises:
        UserError: if there is no evaluation, or the record is damaged, of another type or of another version.
    """
    file = path / RECORD if (path / RECORD).is_file() else path
    if file.is_dir() and (whole := list_evaluations(path)):
        file = whole[-1] / RECORD
    if not file.is_file():
        there = f"holds no evaluation: make one with `ddim evaluate {quote(path)}`"
        raise UserError(f"{path} {there if path.exists() else 'does not exist: name a run or an evaluation'}")
    record = read_sealed(file)
    if (record.get("kind"), record.get("schema")) != ("evaluation", SCHEMA):
        what = f"the record of an evaluation of this version (schema {SCHEMA})"
        raise UserError(f"{file} is not {what}: make one with `ddim evaluate`")
    try:
        return parse_evaluation(file.parent, record)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error!r}): evaluate again") from None


def parse_evaluation(folder: Path, record: dict[str, Any]) -> Evaluation:
    """Return the evaluation with a folder and a record."""
    sampling, real = record["sampling"], record.get("yardstick")
    generated = record["generated"]
    return Evaluation(
        parse_metrics(record["metrics"]),
        record.get("notes", ()),
        folder,
        record,
        generated["images"],
        generated["source"],
        Features(**record["features"]),
        ReferenceSet(**record["reference"]),
        sampling and parse_sampling(sampling),
        real and Yardstick(parse_metrics(real["metrics"]), (), real["images"], real["part"]),
        record.get("time", ""),
    )


def parse_metrics(table: Mapping[str, Any]) -> dict[str, Estimate]:
    """Return the metrics of a record, keyed by name.

    In the record, FID and FID-infinity share one entry, whose interval belongs to FID-infinity.
    """
    found = {}
    for name in METRICS:
        entry = table.get("fid" if name == "fid_infinity" else name) or {}
        value = entry.get("infinity" if name == "fid_infinity" else "value")
        ends = (entry.get("low"), entry.get("high")) if name != "fid" else (None, None)
        if value is not None:
            found[name] = Estimate(value, *ends)
    return found


def parse_sampling(table: Mapping[str, Any]) -> SamplingRecord:
    """Return how images were sampled, from the record of the samples."""
    known = {each.name: table[each.name] for each in fields(SamplingRecord) if each.name in table}
    return SamplingRecord(table, **known)


def list_evaluations(run: Path) -> list[Path]:
    """Return the folders of a run's evaluations, oldest first.

    Folders without a record, which stopped evaluations leave, are not listed.
    """
    return [folder for folder in list_numbered_folders(run / FOLDER) if (folder / RECORD).exists()]


def describe_verdict(record: Mapping[str, Any]) -> str:
    """Return the verdict of a memorisation test, and the guidance of its samples, from its record."""
    guidance = name_recorded_guidance(record["sampling"])
    return f"{record['verdict']} Samples: {guidance}." if guidance else str(record["verdict"])
