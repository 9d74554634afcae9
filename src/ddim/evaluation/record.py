"""The record of an evaluation: find it, read it and check it. This module does not import torch.

An evaluation is a folder with ``record.json``, ``features.npy`` (one float32 row for each image, in the order
of the seeds) and ``grid.png``. The evaluations of a run are ``RUN/evaluations/1``, ``2``, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim.errors import UserError, quote
from ddim.evaluation.guidance_name import name_recorded_guidance
from ddim.evaluation.record_entries import (
    Features,
    Generated,
    Measured,
    ReferenceSet,
    SamplingRecord,
    Yardstick,
    describe_part,
    parse_entry,
    parse_metrics,
    parse_sampling,
)
from ddim.files import read_sealed
from ddim.metrics.catalogue import METRICS, metric_name
from ddim.plots.table import Tabular
from ddim.runs.folder import list_numbered_folders

SCHEMA = 1
"""The version of the layout of a record."""

FOLDER, RECORD, FEATURES, GRID = "evaluations", "record.json", "features.npy", "grid.png"


@dataclass(frozen=True, repr=False)
class Evaluation(Tabular):
    """An evaluation: its folder and its record. A notebook shows it as a table of metrics.

    `record` is the whole record as JSON, and the other fields are its entries. `sampling` is None if it is
    not known how the images were sampled. `remarks` are about numbers that are missing or easily misread.
    """

    folder: Path
    record: dict[str, Any]
    features: Features
    reference: ReferenceSet
    generated: Generated
    metrics: Mapping[str, Measured]
    sampling: SamplingRecord | None
    yardstick: Yardstick | None
    remarks: Sequence[str]
    seconds: Mapping[str, float]
    time: str

    @property
    def name(self) -> str:
        """A short name of the images, such as "edm, 10 steps, 19 NFE"; the run is not named."""
        return self.sampling.name if self.sampling else f"images of {Path(self.generated.source).name}"

    @property
    def conditions(self) -> str:
        """The images and the features in words, without the folders of the images."""
        samples, extractor = self.generated.images, self.features.extractor
        return f"{samples:,} samples against {self.reference.name}, features {extractor}"

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each metric: its value and the ends of its 95 % interval.

        The ends are None if the record has no interval for the metric.
        """
        return [
            {"metric": METRICS[name].title, "value": found.value, "low": found.low, "high": found.high}
            for name, found in self.metrics.items()
        ]

    def _picture(self) -> bytes | None:
        """Return the sheet of the first samples."""
        path = self.folder / GRID
        return path.read_bytes() if path.is_file() else None

    @property
    def title(self) -> str:
        of = self.reference
        reference = describe_part(of.images, of.part, of.source)
        return f"{self.name}: {self.generated.images:,} images against {reference}; {self.folder}"

    @property
    def notes(self) -> list[str]:
        """Return the remarks as the lines below a table."""
        return [f"note: {remark}" for remark in self.remarks]

    def value(self, metric: str) -> float | None:
        """Return the value of a metric, None if the metric is not in the record.

        Raises:
            UserError: if there is no metric of this name.
        """
        found = self.metrics.get(metric_name(metric))
        return found.value if found else None

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the 95 % confidence interval of a metric, None if the record has no interval for it.

        Raises:
            UserError: if there is no metric of this name.
        """
        found = self.metrics.get(metric_name(metric))
        return found.interval if found else None


def read_evaluation(path: Path) -> Evaluation:
    """Return the evaluation at a path: a record, the folder of a record, or a run (its newest evaluation).

    Raises:
        UserError: if there is no evaluation, or the record is damaged, of another type or of another schema.
    """
    file = _record_of(path)
    record = read_sealed(file)
    if record.get("kind") != "evaluation":
        raise UserError(f"{file} is not the record of an evaluation: make one with `ddim evaluate`")
    schema = record.get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        mend = "a newer ddim wrote it and can read it" if newer else "evaluate again"
        raise UserError(f"{file} has schema {schema!r}, but this version reads schema {SCHEMA}: {mend}")
    try:
        return parse_evaluation(file.parent, record)
    except UserError as error:
        raise UserError(f"{file} is damaged: {error}") from None


def parse_evaluation(folder: Path, record: dict[str, Any]) -> Evaluation:
    """Return the evaluation with a folder and a record; see `parse_entry`."""
    sampling, real = record.get("sampling"), record.get("yardstick")
    return Evaluation(
        folder,
        record,
        parse_entry(Features, record.get("features"), "features"),
        parse_entry(ReferenceSet, record.get("reference"), "reference"),
        parse_entry(Generated, record.get("generated"), "generated"),
        parse_metrics(record.get("metrics"), "metrics"),
        None if sampling is None else parse_sampling(sampling),
        parse_entry(Yardstick, real, "yardstick") if real else None,
        record.get("notes", ()),
        record.get("seconds", {}),
        str(record.get("time", "")),
    )


def list_evaluations(run: Path) -> list[Path]:
    """Return the folders of a run's evaluations, oldest first.

    Folders without a record, which stopped evaluations leave, are not listed.
    """
    return [folder for folder in list_numbered_folders(run / FOLDER) if (folder / RECORD).exists()]


def _record_of(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} does not exist: name a record, the folder of an evaluation, or a run")
    if path.is_file():
        return path
    if (path / RECORD).is_file():
        return path / RECORD
    whole = list_evaluations(path)
    if not whole:
        raise UserError(f"{path} holds no evaluation: make one with `ddim evaluate {quote(path)}`")
    return whole[-1] / RECORD


def describe_verdict(record: Mapping[str, Any]) -> str:
    """Return the verdict of a memorisation test, and the guidance of its samples, from its record."""
    guidance = name_recorded_guidance(record["sampling"])
    return f"{record['verdict']} Samples: {guidance}." if guidance else str(record["verdict"])
