"""List the runs in a folder as a table, sorted and filtered."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim.errors import UserError, escape, suggest
from ddim.experiments.evaluations import mark_comparable
from ddim.experiments.index import Run, find_runs, run_record, run_values
from ddim.metrics.catalogue import METRICS
from ddim.plots.table import Table, Tabular

SHOWN = ("name", "recipe", "data", "size", "images", "state", "left", "image_mae", "kid", "age")
"""The columns of the table."""


@dataclass(frozen=True, repr=False)
class RunTable(Tabular):
    """The runs in a folder, each with at most one evaluation; see `list_runs`."""

    runs: Sequence[Run]
    folder: Path

    def to_records(self) -> list[dict[str, Any]]:
        """Return one row for each run, as plain values."""
        return [run_record(run) for run in self.runs]

    def to_json(self) -> list[dict[str, Any]]:  # pyrefly: ignore[bad-override] (a list, as scripts expect)
        """Return the rows."""
        return self.to_records()

    @property
    def verdict(self) -> str:
        """How to get a first run; "" if there are runs."""
        return "" if self.runs else f"no runs in {self.folder}: `ddim train photos/` creates the first run"

    @property
    def title(self) -> str:
        return ""

    @property
    def faults(self) -> list[str]:
        """Why runs failed, cannot be read, or cannot be compared."""
        return [f"{self._name(run)}: {run.why}" for run in self.runs if run.why]

    @property
    def notes(self) -> list[str]:
        kid = [run.evaluations[-1].conditions for run in self.runs if run.comparable and "kid" in run.metrics]
        return [*self.faults, *(f"kid: {conditions}" for conditions in dict.fromkeys(kid))]

    def __str__(self) -> str:
        """Return the table with its faults; in a pipe, lines with tabs between the cells, for `cut`."""
        if sys.stdout.isatty() or not self.runs:
            return "\n".join([repr(self), *self.faults])
        rows = [(*row, run.why or "-") for row, run in zip(map(self._row, self.runs), self.runs, strict=True)]
        return "\n".join("\t".join(map(escape, row)) for row in [(*SHOWN, "note"), *rows])

    def _shown(self, notes: Sequence[str]) -> Table:
        return Table(SHOWN if self.runs else (), [self._row(run) for run in self.runs], notes)

    def _row(self, run: Run) -> tuple[str, ...]:
        error, kid = run.errors.get("image_mae"), run.metrics.get("kid")
        data = run.recipe.get("data", {})
        return (
            self._name(run),
            run.recipe.get("name") or "-",
            Path(data["source"]).name if data else "-",
            "x".join(map(str, data["size"])) if data else "-",
            f"{run.images}/{run.total or '-'}",
            run.state,
            "-" if run.seconds_left is None else _describe_duration(run.seconds_left),
            "-" if error is None else f"{error:.4f}",
            "-" if kid is None else f"{kid:.4f}{'' if run.comparable else '*'}",
            _describe_duration(time.time() - run.changed) if run.changed else "-",
        )

    def _name(self, run: Run) -> str:
        path = run.path.relative_to(self.folder)
        return str(path) if path.parts else run.path.name


def list_runs(
    folder: str | Path = "runs", *, sort: str | None = None, where: Mapping[str, str] | None = None
) -> RunTable:
    """List runs and the trials of sweeps.

    FIELD is name, recipe, images, total, state, age, noise_mae, image_mae, a metric such as kid or fid, or a
    field of a recipe such as optim.lr. States are waiting (a trial that no worker has started), running,
    stopped, finished, failed (a trial) and damaged. The time `left` is an estimate. A metric is marked with *
    if it was measured under other conditions than most runs on the same images, or at an earlier step of a
    finished run. In a pipe, tabs separate the columns, and - stands for a missing value.

    Args:
        folder: the folder to search, with its subfolders.
        sort: a FIELD, smallest first; for age, youngest first (default: the path). Runs without the value,
            or with a metric marked with *, come last.
        where: only runs with this value of a FIELD.

    Returns:
        A table; its `runs` are the runs.

    Raises:
        UserError: if `folder` is not a folder, or there is no such field.

    Example:
        >>> ddim.list_runs("runs", where={"state": "finished"}, sort="kid")

    Commands:
        ddim runs --sort image_mae
        ddim runs --where schedule=cosine --where state=finished | cut -f 1
    """
    folder, wanted = Path(folder), {name: str(value) for name, value in (where or {}).items()}
    # A new user has no runs yet. Another folder that is missing is a mistake.
    runs = [] if folder == Path("runs") and not folder.exists() else find_runs(folder)
    values = {run.path: run_values(run) for run in runs}
    known = {*METRICS, *(name for each in values.values() for name in each)}
    for name in [*wanted, *([sort] if sort else [])]:
        if runs and name not in known:
            hint = suggest(name, known)
            raise UserError(f"{name} is not a column, a metric or a field of a recipe{hint}")

    def fits(run: Run) -> bool:
        return all(_is_same(values[run.path].get(name), text) for name, text in wanted.items())

    def place(run: Run) -> tuple[bool, float, str]:
        value = values[run.path].get(sort)
        number = _to_number(value)
        last = value is None or (sort in METRICS and not run.comparable)
        return last, math.inf if number is None else -number if sort == "age" else number, str(value)

    kept = mark_comparable(list(filter(fits, runs)))
    return RunTable(sorted(kept, key=place) if sort else kept, folder)


def _to_number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _is_same(value: object, text: str) -> bool:
    """Return whether a value is that of a text; numbers are compared as numbers."""
    one, other = _to_number(value), _to_number(text)
    return str(value) == text if one is None or other is None else one == other


def _describe_duration(seconds: float) -> str:
    """Return a duration in whole units: 90 -> "1m", 7300 -> "2h"."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"
