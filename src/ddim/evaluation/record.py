"""The record of an evaluation: find it, read it and check it. This module does not import torch.

An evaluation is a folder with ``record.json``, ``features.npy`` (one float32 row for each image, in the order
of the seeds) and ``grid.png``. The evaluations of a run are ``RUN/evaluations/1``, ``2``, ...
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim.errors import UserError, format_count
from ddim.files.documents import read_sealed
from ddim.files.own_files import is_own_file, read_picture
from ddim.metrics.catalogue import METRICS, metric_name
from ddim.plots.tabular import Tabular, embed_png
from ddim.runs.flat import labels_by_default
from ddim.runs.folder import list_numbered_folders
from ddim.runs.guidance_name import name_guidance

SCHEMA = 1
"""The version of the layout of a record."""

FOLDER, RECORD, FEATURES, GRID = "evaluations", "record.json", "features.npy", "grid.png"


_FIELDS: dict[str, Any] = {
    "metrics": {},
    "features": {"extractor": str, "weights": str, "resize": str, "dimensions": int},
    "reference": {
        "source": str,
        "fingerprint": str,
        "part": str,
        "size": [int],
        "images": int,
        "sha256": str,
    },
    "generated": {"images": int, "source": str, "sha256": str},
}
"""The fields that a comparison needs, with their types; [type] stands for a list of that type."""

_SAMPLING: dict[str, Any] = {
    "recipe": {},
    "sampler": {},
    "grid": {},
    "times": [int | float],
    "nfe": int,
    "seeds": [int],
    "weights": str,
    "step": int,
}


@dataclass(frozen=True, repr=False)
class Evaluation(Tabular):
    """An evaluation: its folder and its record. A notebook shows it as a table of metrics."""

    folder: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """A short name of the images, such as "edm, 10 steps, 19 NFE"; see `evaluation_name`."""
        return evaluation_name(self.record)

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each metric: its value and the ends of its 95 % interval.

        The ends are None if the record has no interval for the metric.
        """
        entries = {metric.title: metric_entry(self.record, name) for name, metric in METRICS.items()}
        return [
            {"metric": title, "value": entry["value"], "low": entry.get("low"), "high": entry.get("high")}
            for title, entry in entries.items()
            if entry
        ]

    def _picture(self) -> str:
        """Return the sheet of the first samples."""
        sheet = self.folder / GRID
        return embed_png(read_picture(self.folder, sheet)) if is_own_file(self.folder, sheet) else ""

    @property
    def title(self) -> str:
        generated, of = self.record["generated"], self.record["reference"]
        reference = describe_part(of["images"], of["part"], of["source"])
        return f"{self.name}: {generated['images']:,} images against {reference}; {self.folder}"

    @property
    def notes(self) -> list[str]:
        """Return the notes of the record, such as one about the bias of FID."""
        return [f"note: {note}" for note in self.record.get("notes", [])]

    def value(self, metric: str) -> float | None:
        """Return the value of a metric, None if the metric is not in the record.

        Raises:
            UserError: if there is no metric of this name.
        """
        return metric_entry(self.record, metric_name(metric)).get("value")

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the 95 % confidence interval of a metric, None if the record has no interval for it.

        Raises:
            UserError: if there is no metric of this name.
        """
        found = metric_entry(self.record, metric_name(metric))
        return (found["low"], found["high"]) if "low" in found else None


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
    fault = _fault(record, _FIELDS) or _fault_of_metrics(record["metrics"])
    if fault is None and record.get("sampling") is not None:
        fault = _fault(record, {"sampling": _SAMPLING})
    if fault:
        raise UserError(f"{file} is damaged: {fault}")
    return Evaluation(file.parent, record)


def is_sampling(found: object) -> bool:
    """Return whether a value from a JSON file is a complete record of how images were sampled."""
    return isinstance(found, dict) and _fault(found, _SAMPLING) is None


def list_evaluations(run: Path) -> list[Path]:
    """Return the folders of a run's evaluations, oldest first.

    Folders without a record, which stopped evaluations leave, are not listed.
    """
    return [folder for folder in list_numbered_folders(run / FOLDER) if (folder / RECORD).exists()]


def metric_entry(record: Mapping[str, Any], metric: str) -> Mapping[str, Any]:
    """Return {"value": ...} of a metric, with "low" and "high" if it has an interval; {} if it is missing.

    In the record, FID and FID-infinity share one entry, whose interval belongs to FID-infinity.
    """
    metrics = record["metrics"]
    fid = metrics.get("fid", {})
    if metric == "fid":
        return {"value": fid["value"]} if fid else {}
    if metric == "fid_infinity":
        known = fid.get("infinity") is not None
        return {"value": fid["infinity"], "low": fid["low"], "high": fid["high"]} if known else {}
    return metrics.get(metric, {})


def describe_part(count: int, part: str, source: str) -> str:
    """Return the images of a part of a source in words, such as "30 held-out images of photos"."""
    kind = {"valid": "held-out ", "train": "training "}.get(part, "")
    return f"{format_count(count, f'{kind}image')} of {source}"


def evaluation_name(record: Mapping[str, Any]) -> str:
    """Return a short name of the samples that a record is about, such as "edm, 10 steps, 19 NFE".

    Weights, label and guidance are named if they are not the defaults. The run is not named.
    """
    sampling = record.get("sampling")
    if not sampling:
        return f"images of {Path(record['generated']['source']).name}"
    words = [sampling.get("sampler_name") or sampling["sampler"].get("kind", "sampler")]
    words += [f"{len(sampling['times'])} steps", f"{sampling['nfe']} NFE"]
    if sampling["weights"] != "ema":
        words.append(f"{sampling['weights']} weights")
    if (label := find_changed_label(sampling, sampling.get("recipe") or {})) is not None:
        words.append(f"label {sampling.get('class') or label}")
    return ", ".join([*words, *filter(None, [name_guidance(sampling)])])


def find_changed_label(sampling: Mapping[str, Any], recipe: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return the label of samples if it is not the default of their run, else None.

    Clusters and vectors have the frequencies of training by default, and no label is then "none".

    Args:
        sampling: the record of the samples.
        recipe: the recipe of the run, as JSON.
    """
    label = sampling.get("label")
    if labels_by_default(recipe.get("data", {})):
        return {"natural": None, None: "none"}.get(label, label) if isinstance(label, str | None) else label
    return label


def _record_of(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} does not exist: name a record, the folder of an evaluation, or a run")
    if path.is_file():
        return path
    if (path / RECORD).is_file():
        return path / RECORD
    whole = list_evaluations(path)
    if not whole:
        raise UserError(f"{path} holds no evaluation: make one with `ddim evaluate {shlex.quote(str(path))}`")
    return whole[-1] / RECORD


def _fault(record: dict[str, Any], wanted: dict[str, Any], path: str = "") -> str | None:
    """Return a sentence about the first field that is missing or of another type, or None."""
    for name, kind in wanted.items():
        value, inner = record.get(name), f"{path}{name}"
        if isinstance(kind, dict):
            if not isinstance(value, dict):
                return f"{inner} is not a table"
            if fault := _fault(value, kind, f"{inner}."):
                return fault
        elif not _is(value, kind):
            return f"{inner} is missing or of another type"
    return None


def _is(value: object, kind: Any) -> bool:  # noqa: ANN401  (a type, or [type])
    if isinstance(kind, list):
        return isinstance(value, list) and all(_is(item, kind[0]) for item in value)
    # In Python True is an int, but in JSON true is not a number, so it is refused.
    return isinstance(value, kind) and not isinstance(value, bool)


def _fault_of_metrics(metrics: dict[str, Any]) -> str | None:
    for name, values in metrics.items():
        wanted = ("value", "low", "high") if name == "kid" else ("value",)
        if name == "fid" and isinstance(values, dict) and values.get("infinity") is not None:
            wanted = ("value", "infinity", "low", "high")
        for field in wanted:
            value = values.get(field) if isinstance(values, dict) else None
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                return f"metrics.{name}.{field} is not a number"
    return None


def describe_verdict(record: Mapping[str, Any]) -> str:
    """Return the verdict of a memorisation test, and the guidance of its samples, from its record."""
    guidance = name_guidance(record["sampling"])
    return f"{record['verdict']} Samples: {guidance}." if guidance else str(record["verdict"])
