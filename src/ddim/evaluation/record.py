"""The record of an evaluation: read it, name what it holds, and say what may be compared with it.

An evaluation is a folder with ``record.json``, ``features.npy`` (one float32 row for each image, in the order
of the seeds) and ``grid.png``. The evaluations of a run are ``RUN/evaluations/1``, ``2``, ... This module
does not import torch.

Two rules say what may be compared. Two evaluations may be ranked by a metric if `why_not_comparable` returns
None; their sampling may differ, because rankings compare ways of sampling. Numbers of several runs may stand
in one column of a table, and be averaged over repeats, if their `Conditions` are equal.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from ddim.errors import UserError, format_count, quote
from ddim.files import read_sealed
from ddim.metrics.catalogue import METRICS, metric_name
from ddim.metrics.estimate import Estimate
from ddim.plots.table import Tabular, format_cell
from ddim.recipe.options import SAMPLING_FIELDS, flatten_as_text, labels_by_default
from ddim.runs.folder import list_numbered_folders

FOLDER, RECORD, FEATURES, GRID = "evaluations", "record.json", "features.npy", "grid.png"

FEW = 100
"""With fewer images, precision and the other shares of neighbours say little."""

CLOSE = 0.8
"""Samples are called close to real images if their precision and coverage reach this share of theirs."""

PLACE = r"hub:.*|[^/]*(?:/checkpoints/[^/]*|/best(?:@[^/]*)?)?$"
"""A pattern of the end of a path: a run, and the place of a checkpoint in it."""


# Features, reference and sampling in words


@dataclass(frozen=True)
class Features:
    """How features are computed: extractor, SHA-256 of its weights, resizing, number of dimensions."""

    extractor: str
    weights: str
    resize: str
    dimensions: int

    def __str__(self) -> str:
        return f"{self.extractor} (weights {self.weights[:8]}..., {self.resize})"


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
    size: Sequence[int] = field(hash=False)
    images: int
    sha256: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.name}, {'x'.join(map(str, self.size))} ({self.fingerprint[:8]}...)"

    @property
    def name(self) -> str:
        """The images in words, without the folders of the source, such as "30 held-out images of photos"."""
        # The path may be from Windows, where both / and \ separate folders.
        return describe_part(self.images, self.part, PureWindowsPath(self.source).name)


def describe_part(count: int, part: str, source: str) -> str:
    """Return the images of a part of a source in words, such as "30 held-out images of photos"."""
    kind = {"valid": "held-out ", "train": "training "}.get(part, "")
    return f"{format_count(count, f'{kind}image')} of {source}"


def _list_choices(sampling: Mapping[str, Any], recipe: Mapping[str, Any]) -> Iterator[str]:
    """Yield weights, label and guidance in words, if they are not the defaults of runs with this recipe."""
    if sampling["weights"] != "ema":
        yield f"{sampling['weights']} weights"
    label = sampling["label"]
    if labels_by_default(recipe["data"]) and isinstance(label, str | None):
        # Clusters and vectors have the frequencies of training by default, and no label is then "none".
        label = {"natural": None, None: "none"}.get(label, label)
    if label is not None:
        yield f"label {sampling.get('class') or label}"
    if guidance := name_recorded_guidance(sampling):
        yield guidance


def name_recorded_guidance(record: Mapping[str, Any]) -> str:
    """Return guidance in words, such as "guidance 2, log-SNR -2 to 5, guide @guide"; "" for scale 1.

    The entries "guidance", "guidance_interval" and "guide" of the record may be missing.
    """
    scale, interval, guide = (record.get(name) for name in ("guidance", "guidance_interval", "guide"))
    if scale in (None, 1):
        return ""
    limits = f", log-SNR {name_interval(interval)}" if interval else ""
    return f"guidance {scale:g}{limits}" + (f", guide {name_guide(guide['name'])}" if guide else "")


def name_guide(name: str) -> str:
    """Return the name of a guide without the folders of its run, which are those of one machine.

    A checkpoint keeps the name of its run: "/home/ada/runs/photos-1/best" becomes "photos-1/best".
    """
    # The path may be from Windows, where both / and \ separate folders.
    return re.findall(PLACE, name.replace("\\", "/").rstrip("/"))[0]


def name_interval(interval: Sequence[float | None]) -> str:
    """Return an interval in words, such as "-2 to 5" or "above -2"; None is an open end."""
    low, high = interval
    if low is None or high is None:
        return f"above {low:g}" if low is not None else f"below {high:g}"
    return f"{low:g} to {high:g}"


# Metrics and evaluations


@dataclass(frozen=True, repr=False)
class Recorded(Tabular):
    """A result that is kept in a folder.

    Attributes:
        record: the content of record.json in this folder.
        folder: the folder, which may hold pictures too.
    """

    record: Mapping[str, Any]
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """Return the folder, the verdict and the record."""
        return {"folder": self.folder, "verdict": self.verdict, **self.record}

    def _picture(self) -> bytes | None:
        return next((path.read_bytes() for path in self.folder.glob("*.png")), None)


@dataclass(frozen=True, repr=False)
class Metrics(Tabular):
    """KID, FID and the other metrics of images, keyed by name in `metrics`.

    `remarks` are about numbers that are missing or easily misread.
    """

    metrics: Mapping[str, Estimate]
    remarks: Sequence[str]

    @property
    def notes(self) -> list[str]:
        """Return the remarks as the lines below a table."""
        return [f"note: {remark}" for remark in self.remarks]

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each metric: its value and the ends of its 95 % interval.

        The ends are None if there is no interval for the metric.
        """
        return [{"metric": METRICS[name].title, **each.to_json()} for name, each in self.metrics.items()]

    def estimate(self, metric: str) -> Estimate:
        """Return a metric with its 95 % confidence interval; None stands for what was not measured.

        Raises:
            UserError: if there is no metric of this name.
        """
        return self.metrics.get(metric_name(metric), Estimate(None, None, None))

    def value(self, metric: str) -> float | None:
        """Return the value of a metric, None if it was not measured; see `estimate`."""
        return self.estimate(metric).value

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the 95 % confidence interval of a metric, None if it has none; see `estimate`."""
        estimate = self.estimate(metric)
        return None if estimate.low is None else (estimate.low, estimate.high)


@dataclass(frozen=True, repr=False)
class Yardstick(Metrics):
    """The metrics of real images in place of samples, and the number of these images."""

    images: int


@dataclass(frozen=True, repr=False)
class Evaluation(Metrics, Recorded):
    """An evaluation: its folder and its record. A notebook shows it as a table of metrics.

    `count` is the number of images, and `source` what they come from. `sampling` is the record of how they
    were sampled, None if this is not known.
    """

    count: int
    source: str
    features: Features
    reference: ReferenceSet
    sampling: Mapping[str, Any] | None
    yardstick: Yardstick | None

    @property
    def verdict(self) -> str:
        """Whether the images are close to real images, as far as their number allows to say."""
        mine, real = self.metrics, self.yardstick
        share = f"{mine['precision'].value:.0%} of these images look real"
        if real is None:
            # The KID of other images of the same kind is 0 on average.
            judged = "still different from real images: " if mine["kid"].low > 0 else ""
            return f"{judged}{share}; how many other real images do is not known, as none are left to compare"
        theirs = real.metrics
        few, kids = min(self.count, self.reference.images), [mine["kid"], theirs["kid"]]
        apart = kids[0].value - kids[1].value > math.hypot(*(each.value - each.low for each in kids))
        if few < FEW and not apart:
            return f"{few} images are too few to say whether these images differ from real ones"
        if few < FEW:
            values = " against ".join(format_cell(each.value) for each in kids)
            return f"still clearly different from real images: KID {values} of other real images"
        # Coverage grows with the number of images, and precision does not.
        names = ["precision", *["coverage"] * (real.images >= self.count)]
        lower = [name for name in names if mine[name].value < CLOSE * theirs[name].value]
        shares = f"{share}, and {theirs['precision'].value:.0%} of other real images do"
        if not apart or not lower:
            return f"close to real images: {shares}"
        if "precision" not in lower:
            shares = f"{mine['coverage'].value:.0%} of the real images have one of these images nearby"
            shares += f", and {theirs['coverage'].value:.0%} have another real image nearby"
        return f"still clearly different from real images: {shares}"

    @property
    def name(self) -> str:
        """A short name of the images, such as "edm, 10 steps, 19 NFE"; the run is not named."""
        if self.sampling is None:
            return f"images of {Path(self.source).name}"
        return f"{self.sampling['sampler_name']}, {len(self.sampling['times'])} steps, {self.effort}"

    @property
    def effort(self) -> str:
        """NFE, and what differs from the defaults of the run, such as "6 NFE, listed times, guidance 2".

        `ddim search` lists the times of its grids. The text is "" if it is not known how images were sampled.
        """
        if self.sampling is None:
            return ""
        listed = ["listed times"] * (self.sampling["grid"]["kind"] == "listed")
        choices = _list_choices(self.sampling, self.sampling["recipe"])
        return ", ".join([f"{self.nfe} NFE", *listed, *choices])

    @property
    def nfe(self) -> int | None:
        """Network evaluations per sample (NFE); None if it is not known how the images were sampled."""
        return self.sampling["nfe"] if self.sampling else None

    @property
    def conditions(self) -> str:
        """The images and the features in words, without the folders of the images."""
        return f"{self.count:,} samples against {self.reference.name}, features {self.features.extractor}"

    @property
    def title(self) -> str:
        return f"{self.name}: {self.conditions}; {self.folder}"

    @property
    def notes(self) -> list[str]:
        """The remarks, the intervals, the reference and the features."""
        notes, real = [*super().notes], self.yardstick
        for name, estimate in self.metrics.items():
            other = real and real.metrics.get(name)
            compared = f", other real images {format_estimate(other)}" if other else ""
            if estimate.low is not None:
                notes.append(f"{METRICS[name].title} {format_estimate(estimate)}{compared}")
        notes.append(f"reference: {self.reference.source}, features {self.features}")
        if runtime := (self.sampling or {}).get("runtime"):
            notes.append(f"sampled on {runtime['device']}, {runtime['precision']}")
        return notes

    def shortage(self, metric: str) -> str | None:
        """Return a sentence if a metric needs more samples or reference images to be ranked, else None."""
        title, least = METRICS[metric].title, METRICS[metric].least or self.features.dimensions
        if (few := min(self.count, self.reference.images)) >= least:
            return None
        short = self.reference.part == "valid" and self.reference.images < least
        advice = "; evaluate with part all to compare with all images" if short else ""
        return f"{few:,} images are too few to rank by {title}, which needs at least {least:,}{advice}"

    def _shown_rows(self) -> list[dict[str, Any]]:
        rows, theirs = [], self.yardstick.metrics if self.yardstick else {}
        for name, estimate in self.metrics.items():
            real = theirs.get(name)
            metric = METRICS[name]
            row = {"metric": metric.title, "measured": estimate.value, "real images": real and real.value}
            rows.append(row | {"meaning": metric.meaning + "; lower is better" * metric.lower_is_better})
        return rows


def format_estimate(estimate: Estimate, sign: str = "") -> str:
    """Return a value and half the width of its interval as text, such as "0.0123 ± 0.0011"; "" for None.

    The smaller of both numbers has two digits, but there are at least four decimals, or two if the value is
    10 or more. If `sign` is "+", positive values have a sign too.
    """
    value, low, high = estimate.value, estimate.low, estimate.high
    if value is None:
        return ""
    half = 0.0 if low is None else (high - low) / 2
    smallest = min((abs(number) for number in (value, half) if number), default=1.0)
    digits = min(max(4 if abs(value) < 10 else 2, 1 - math.floor(math.log10(smallest))), 10)
    return f"{value:{sign}.{digits}f}" + ("" if low is None else f" ± {half:.{digits}f}")


# Read records


def list_results(run: Path, home: str = FOLDER) -> list[Path]:
    """Return the folders of a run's evaluations, or of results in another folder of a run, oldest first.

    Folders without a record, which stopped commands leave, are not listed.

    Args:
        run: the run folder.
        home: the name of the folder of the results in the run folder, such as "memorisation".
    """
    return [folder for folder in list_numbered_folders(run / home) if (folder / RECORD).exists()]


def read_evaluation(path: Path) -> Evaluation:
    """Return the evaluation at a path: a record, the folder of a record, or a run (its newest evaluation).

    Raises:
        UserError: if there is no evaluation, or the record is damaged or of another type.
    """
    places = [path, path / RECORD, *(folder / RECORD for folder in reversed(list_results(path)))]
    file = next(filter(Path.is_file, places), None)
    if file is None:
        there = f"holds no evaluation: make one with `ddim evaluate {quote(path)}`"
        raise UserError(f"{path} {there if path.exists() else 'does not exist: name a run or an evaluation'}")
    record = read_sealed(file)
    if record.get("kind") != "evaluation":
        raise UserError(f"{file} is not the record of an evaluation: make one with `ddim evaluate`")
    return parse_evaluation(file.parent, record)


def parse_evaluation(folder: Path, record: Mapping[str, Any]) -> Evaluation:
    """Return the evaluation with a folder and a record."""
    generated, real = record["generated"], record["yardstick"]
    features, reference = Features(**record["features"]), ReferenceSet(**record["reference"])
    yardstick = real and Yardstick(parse_metrics(real["metrics"]), (), real["images"])
    facts = (generated["images"], generated["source"], features, reference, record["sampling"], yardstick)
    return Evaluation(record, folder, parse_metrics(record["metrics"]), record["notes"], *facts)


def parse_metrics(table: Mapping[str, Any]) -> dict[str, Estimate]:
    """Return the metrics of a record, keyed by name, in the order of `METRICS`; some have no interval."""
    found = {name: table[name] for name in METRICS if name in table}
    return {name: Estimate(each["value"], each.get("low"), each.get("high")) for name, each in found.items()}


# What may be compared


Conditions = tuple[tuple[str, Any], ...]
"""Pairs of a name and a value, on which the numbers of an evaluation depend."""


def evaluation_conditions(evaluation: Evaluation, recipe: Mapping[str, Any]) -> Conditions:
    """Return the conditions of an evaluation of a run with this recipe, as JSON.

    The last one says in words how sampling differs from the recipe. All grids that `ddim search` found are
    equal.
    """
    sampling = evaluation.sampling
    how = ", ".join(_describe_sampling(sampling, recipe)) if sampling else "unknown"
    measured = ("features", evaluation.features), ("reference", evaluation.reference)
    return (*measured, ("number of samples", evaluation.count), ("sampling", how))


def _describe_sampling(sampling: Mapping[str, Any], recipe: Mapping[str, Any]) -> Iterator[str]:
    """Yield how images were sampled, relative to a run's recipe."""
    yield f"{len(sampling['times'])} steps"
    yield from _list_choices(sampling, recipe)
    guide = sampling.get("guide")
    if guide and not guide["name"].startswith("@"):
        yield f"guide {guide['weights']} weights, {guide['sha256'][:8]}..."
    for part in SAMPLING_FIELDS:
        before = flatten_as_text({part: recipe.get(part)})
        after = flatten_as_text({part: sampling["recipe"].get(part)})
        # `ddim search` finds different times for each run. Without the times, all its grids are equal.
        after = {part: "listed"} if after.get(part) == "listed" else after
        # The run's recipe may lack fields that a newer version of ddim has added; these count as equal.
        same_kind = after.get(part) == before.get(part)
        for name, value in after.items():
            if not same_kind or value != before.get(name, value):
                yield f"{name} {value}"


def why_not_comparable(one: Evaluation, other: Evaluation, metric: str = "kid") -> str | None:
    """Return why two evaluations may not be ranked by a metric, as a sentence; None if they may."""
    if one.features != other.features:
        return f"different features: {one.features} and {other.features}"
    mine, theirs = one.reference, other.reference
    if mine.sha256 != theirs.sha256:
        if mine == theirs:
            why = f"the {mine.name} are not the same for both, because their seeds differ"
            return f"{why}: evaluate both with part all, or with one reference"
        return f"different reference: {mine} and {theirs}"
    for each in (one, other):
        if metric not in each.metrics:
            return f"{each.source} has no {METRICS[metric].title}"
    if METRICS[metric].biased and one.count != other.count:
        return f"different numbers of samples: {one.count:,} and {other.count:,}"
    return one.shortage(metric) or other.shortage(metric)
