"""The rows of the page's list of runs."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ddim.data.clusters import Clusters
from ddim.evaluation.record import Evaluation
from ddim.experiments.index import Run
from ddim.files import shorten_paths
from ddim.runs.folder import list_sheets


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % confidence interval, if it has one."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """A run in the list of runs.

    Attributes:
        id: the id of the run, see `name_id`.
        name: the name that the page shows.
        sweep: the id of its sweep, or None.
        state: see `ddim.experiments.index.Run`.
        why: why it failed, cannot be read or cannot be compared, or "".
        recipe: the name of the recipe.
        data: the name of the images.
        size: height and width in pixels.
        classes: number of classes in the training, 0 without labels.
        parameters: number of weights of the network.
        images: training images seen so far.
        total: training budget in images, None if it is not known yet.
        seconds_left: estimated seconds of training that remain, None if they are not known.
        errors: the latest validation errors, keyed by name.
        metrics: the metrics of the latest comparable evaluation, else of the latest one, keyed by name.
        comparable: whether the metrics can be ranked with those of most other runs.
        changed: when the run last wrote, in seconds since 1970.
        sheet: the address of its latest sheet of samples, or None.
    """

    id: str
    name: str
    state: str
    sweep: str | None = None
    why: str = ""
    recipe: str | None = None
    data: str | None = None
    size: list[int] | None = None
    classes: int = 0
    parameters: int | None = None
    images: int = 0
    total: int | None = None
    seconds_left: float | None = None
    errors: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Interval] = field(default_factory=dict)
    comparable: bool = True
    changed: float | None = None
    sheet: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep: its id, its name and the ids of its trials."""

    id: str
    name: str
    runs: list[str]


def name_id(path: Path, folder: Path) -> str:
    """Return the id of a run or sweep: its path below `folder`, with ~ in place of /.

    A path with unusual characters gets a hash as its id, so that every id can stand in an address.
    """
    parts = Path(os.path.relpath(path, folder)).parts or (folder.resolve().name or "runs",)
    if all(re.fullmatch(r"[\w.,=+@ -]+", part) and part.isprintable() and part.isascii() for part in parts):
        return "~".join(parts)
    return f"run-{hashlib.sha256(os.fsencode(os.sep.join(parts))).hexdigest()[:16]}"


def show_text(text: str) -> str:
    """Return a text in which characters that UTF-8 cannot encode are replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def api_address(*parts: str | int) -> str:
    """Return an address below /api."""
    return "/api/" + "/".join(quote(str(part), safe="") for part in parts)


def make_row(run: Run, folder: Path) -> Row:
    """Return the row of a run. If its files contain unexpected values, the row says that the run
    is damaged.
    """
    own = name_id(run.path, folder)
    path = run.path.relative_to(folder)
    name = show_text(str(path) if path.parts else folder.resolve().name)
    sweep = None if run.sweep is None else name_id(run.sweep, folder)
    try:
        return _describe_run(Row(own, name, run.state, sweep), run)
    except (TypeError, ValueError, KeyError, AttributeError, LookupError, OverflowError) as error:
        why = f"run.json or metrics.jsonl has unexpected values: {type(error).__name__}"
        return Row(own, name, "damaged", sweep, why)


def _describe_run(row: Row, run: Run) -> Row:
    why = show_text(shorten_paths(run.why, run.path))[:2000]
    if run.state == "damaged" or not run.recipe:
        return Row(row.id, row.name, run.state, row.sweep, why, changed=run.changed)
    data: Mapping[str, Any] = run.recipe["data"]
    images: Mapping[str, Any] = run.facts.get("data") or {}
    sheets = list_sheets(run.path)
    parameters = run.facts.get("parameters")
    return Row(
        row.id,
        row.name,
        run.state,
        row.sweep,
        why,
        show_text(str(run.recipe.get("name"))),
        show_text(Path(str(data["source"])).name),
        [int(side) for side in data["size"]][:2],
        _count_classes(run.recipe, images),
        None if parameters is None else int(parameters),
        int(run.images),
        None if run.total is None else int(run.total),
        _number(run.seconds_left),
        {name: float(value) for name, value in run.errors.items()},
        list_intervals(run.evaluations[-1]) if run.evaluations else {},
        run.comparable,
        run.changed,
        api_address("runs", row.id, "sheets", sheets[-1][0]) if sheets else None,
    )


def _number(value: Any) -> float | None:  # noqa: ANN401 (JSON)
    return None if value is None else float(value)


def _count_classes(recipe: Mapping[str, Any], images: Mapping[str, Any]) -> int:
    labels = recipe["data"].get("labels")
    if not labels:
        return 0
    if isinstance(labels, str):
        return Clusters.parse(labels).count
    return len(images.get("classes") or ())


def list_intervals(evaluation: Evaluation) -> dict[str, Interval]:
    """Return the metrics of an evaluation with their intervals, keyed by name."""
    return {
        name: Interval(float(found.value), _number(found.low), _number(found.high))
        for name, found in evaluation.metrics.items()
    }
