"""The entries of the record of an evaluation as typed values. This module does not import torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import PureWindowsPath
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ddim.errors import UserError, format_count
from ddim.evaluation.guidance_name import name_recorded_guidance
from ddim.metrics.catalogue import METRICS
from ddim.recipe.options import labels_by_default

T = TypeVar("T")

_find_types = cache(get_type_hints)


WeightsIdentity = tuple[str, str, str | None]
"""The SHA-256 of a checkpoint, the name of its weights, and the SHA-256 of an average or None."""


@dataclass(frozen=True)
class Measured:
    """A metric: its value, and the ends of its 95 % confidence interval if it has one.

    The other fields belong to KID; see `ddim.metrics.kid.KID`.
    """

    value: float
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None
    subsets: int | None = None
    size: int | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval, None if there is none."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class Yardstick:
    """The metrics of real images in place of samples, and the number and the part of these images."""

    images: int
    part: str
    metrics: Mapping[str, Measured]


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
    """The real images that samples are compared with.

    Two sets are equal if they are the same part of the same data, with equal image sizes and numbers of
    images. `source` and `sha256` are not compared: repeats with different seeds draw different validation
    images, and the spread over repeats includes this variation.
    """

    source: str = field(compare=False)
    fingerprint: str
    part: str
    size: tuple[int, ...]
    images: int
    sha256: str = field(compare=False)

    @property
    def name(self) -> str:
        """The images in words, without the folders of the source, such as "30 held-out images of photos"."""
        # The path may be from Windows, where both / and \ separate folders.
        return describe_part(self.images, self.part, PureWindowsPath(self.source).name)

    @property
    def description(self) -> str:
        """The fields that equality compares, in words."""
        return f"{self.images:,} images of part {self.part}, {'x'.join(map(str, self.size))}"

    def __str__(self) -> str:
        return f"{self.description}, from {self.source} ({shorten_hash(self.sha256)})"


@dataclass(frozen=True)
class Generated:
    """The images that are evaluated: their number, their source and the SHA-256 of the file of features.

    `kept` of the images, or their features, were kept from earlier.
    """

    images: int
    source: str
    sha256: str
    kept: int = 0


@dataclass(frozen=True)
class SamplingRecord:
    """How images were sampled; see `ddim.sampling.record.sampling_record`.

    `record` has all entries, as JSON. Recipe, sampler, grid and guide are JSON too.
    """

    record: Mapping[str, Any]
    recipe: Mapping[str, Any]
    sampler: Mapping[str, Any]
    grid: Mapping[str, Any]
    times: tuple[float, ...]
    nfe: int
    seeds: tuple[int, ...]
    weights: str
    step: int
    sampler_name: str | None = None
    label: Any = None
    guidance: float = 1.0
    guidance_interval: Sequence[float | None] | None = None
    guide: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """A short name, such as "edm, 10 steps, 19 NFE"; the run and the defaults are not named."""
        words = [self.sampler_name or self.sampler.get("kind", "sampler")]
        words += [f"{len(self.times)} steps", f"{self.nfe} NFE"]
        if self.weights != "ema":
            words.append(f"{self.weights} weights")
        if (label := self.changed_label(self.recipe)) is not None:
            words.append(f"label {self.record.get('class') or label}")
        return ", ".join([*words, *filter(None, [self.guidance_name])])

    @property
    def guidance_name(self) -> str:
        """The guidance in words, "" without guidance; see `name_recorded_guidance`."""
        return name_recorded_guidance(self.record)

    @property
    def weights_identity(self) -> WeightsIdentity | None:
        """The identity of the weights; None if the record does not say."""
        return identify_weights(self.record)

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


def parse_sampling(table: object) -> SamplingRecord:
    """Return how images were sampled, from the record of the samples; see `parse_entry`."""
    return parse_entry(SamplingRecord, table, "sampling", record=table)


def identify_weights(record: Mapping[str, Any]) -> WeightsIdentity | None:
    """Return the identity of the weights that made samples, from their record; None if it does not say."""
    if not (checkpoint := record.get("checkpoint")):
        return None
    return checkpoint["sha256"], record["weights"], (record.get("average") or {}).get("sha256")


def parse_entry(kind: type[T], table: Any, path: str, **known: Any) -> T:  # noqa: ANN401  (JSON)
    """Return a dataclass from the entries of a table in a record, and from fields that are `known`.

    Raises:
        UserError: if an entry for a field without a default is missing or of another type.
    """
    if not isinstance(table, dict):
        raise UserError(f"{path} is not a table")
    for name, wanted in _find_types(kind).items():
        value: Any = table.get(name)
        optional = hasattr(kind, name)
        if name in known or (optional and name not in table):
            continue
        if wanted == Mapping[str, Measured]:
            value = parse_metrics(value, f"{path}.{name}")
        elif not optional and not _is(value, wanted):
            fault = "is not a table" if get_origin(wanted) is Mapping else "is missing or of another type"
            raise UserError(f"{path}.{name} {fault}")
        known[name] = tuple(value) if get_origin(wanted) is tuple else value
    return kind(**known)


def parse_metrics(table: Any, path: str) -> dict[str, Measured]:  # noqa: ANN401  (JSON)
    """Return the metrics of a record, keyed by name.

    In the record, FID and FID-infinity share one entry, whose interval belongs to FID-infinity.
    """
    if not isinstance(table, dict):
        raise UserError(f"{path} is not a table")
    found = {}
    for name in METRICS:
        key, first = ("fid", "infinity") if name == "fid_infinity" else (name, "value")
        if key not in table or (first == "infinity" and table[key].get(first) is None):
            continue
        ends = ("low", "high") if name in ("kid", "fid_infinity") else ()
        more = ("mean", "std", "subsets", "size") if name == "kid" else ()
        entry = table[key] if isinstance(table[key], dict) else {}
        for each in (first, *ends):
            if not _is(entry.get(each), float) or not math.isfinite(entry[each]):
                raise UserError(f"{path}.{key}.{each} is not a number")
        found[name] = Measured(entry[first], **{each: entry.get(each) for each in (*ends, *more)})
    return found


def _is(value: Any, kind: Any) -> bool:  # noqa: ANN401  (JSON, and a type)
    if get_origin(kind) is Mapping:
        return isinstance(value, dict)
    values = [value]
    if get_origin(kind) is tuple:
        kind, _ = get_args(kind)
        values = value if isinstance(value, list) else [None]
    # In Python True is an int, but in JSON true is not a number.
    kinds = (int, float) if kind is float else (kind,)
    return all(isinstance(each, kinds) and not isinstance(each, bool) for each in values)
