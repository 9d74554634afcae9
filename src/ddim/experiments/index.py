"""Read the runs in a folder, and the planned trials of its sweeps. It imports neither torch nor Optuna.

A sweep is a folder with ``sweep.json``. Its trials are listed as runs as soon as they are planned.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddim.errors import UserError, escape, suggest
from ddim.evaluation.record import (
    Conditions,
    Evaluation,
    evaluation_conditions,
    list_evaluations,
    read_evaluation,
)
from ddim.experiments.trials import SWEEP, list_trials, read_outcome
from ddim.files import is_locked, read_sealed, shorten_paths
from ddim.metrics.catalogue import METRICS as EVALUATED
from ddim.plots.table import Table, Tabular, format_cell
from ddim.recipe.options import ERRORS, flatten_as_text
from ddim.runs.checkpoint import read_document
from ddim.runs.folder import CHECKPOINTS, RUN, list_checkpoints, list_numbered_folders
from ddim.runs.log import METRICS, measure_pace, read_metrics

SHOWN = ("name", "recipe", "data", "size", "images", "state", "left", "image_mae", "kid", "age", "note")
"""The columns of the table."""


@dataclass(frozen=True)
class Run:
    """The content of a run folder when it was read.

    Attributes:
        path: the folder.
        state: "waiting" (a trial that no worker has started), "running", "stopped", "finished", "failed" (a
            trial) or "damaged".
        recipe: the recipe as JSON.
        facts: the content of ``run.json``.
        images: training images seen so far.
        total: training budget in images; None while a budget in minutes is not yet converted to images.
        errors: the latest values of the metrics in `ERRORS`, keyed by name.
        evaluations: the evaluations of the run, oldest first.
        changed: when the run last wrote its log, in seconds since 1970.
        why: the last line that a failed trial printed, or the reason why the run cannot be read.
        seconds_left: the estimated time that a running run still needs; None if it is not known.
        comparable: whether its metrics may be ranked with those of other runs; see `mark_comparable`.
    """

    path: Path
    state: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    images: int = 0
    total: int | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    evaluations: Sequence[Evaluation] = ()
    changed: float | None = None
    why: str = ""
    seconds_left: float | None = None
    comparable: bool = True

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the latest evaluation, such as {"kid": 0.01, ...}; empty without an evaluation."""
        newest = self.evaluations[-1].metrics if self.evaluations else {}
        return {name: measured.value for name, measured in newest.items()}


@dataclass(frozen=True)
class Place:
    """Where a run is; for a trial of a sweep, where it is or will be.

    Attributes:
        path: the run folder; the folder of the sweep if `fault` is given.
        sweep: the folder of the sweep of a trial, else None.
        recipe: the recipe of a trial.
        fault: why a sweep cannot be read, else "".
    """

    path: Path
    sweep: Path | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""


def find_runs(folder: str | Path) -> list[Run]:
    """Return every run and every planned trial in a folder and its subfolders, sorted by path.

    Raises:
        UserError: if `folder` is not a folder.
    """
    return [read_place(place) for place in list_places(folder)]


def list_places(folder: str | Path) -> list[Place]:
    """Return the places of the runs that `find_runs` finds, sorted by path; sweeps are read, but not runs.

    Raises:
        UserError: if `folder` is not a folder.
    """
    home, places = Path(folder).resolve(), dict[Path, Place]()
    if not home.is_dir():
        raise UserError(f"{str(folder)!r} is not a folder of runs; `ddim train` creates runs, in runs/")
    for name, inner, files in os.walk(folder):
        path = Path(name)
        trials = _list_trials(path) if SWEEP in files else []
        places |= {trial.path: trial for trial in trials}
        if RUN in files and not trials:
            inner.clear()  # a run holds checkpoints, samples and evaluations, but no runs
            places.setdefault(path, Place(path))
        # A large run may have been moved to another drive, with a link in its place.
        links = (path / each for each in inner if (path / each / RUN).exists() and (path / each).is_symlink())
        places |= {link: Place(link) for link in links if not link.resolve().is_relative_to(home)}
    return [places[path] for path in sorted(places)]


def _list_trials(sweep: Path) -> list[Place]:
    """Return the places of the trials of a sweep, or one place with a fault if sweep.json is damaged.

    The list is empty if another program wrote sweep.json.
    """
    try:
        trials = list_trials(sweep)
    except UserError as error:
        return [Place(sweep, fault=_describe_fault(sweep, error))]
    return [Place(sweep / "trials" / trial.name, sweep, trial.recipe or {}) for trial in trials]


def read_place(place: Place) -> Run:
    """Return the run or the trial at a place; see `read_run`."""
    path, result = place.path, outcome_file(place)
    if place.fault:
        return Run(path, "damaged", why=place.fault)
    if result is None:
        return read_run(path)
    run = read_run(path) if (path / RUN).exists() else Run(path, "waiting", place.recipe)
    try:
        outcome = read_outcome(result)
    except UserError as error:
        return replace(run, why=_describe_fault(result.parents[1], error))
    if outcome is None or not outcome.failed:
        return run
    return replace(run, state="failed", changed=run.changed or result.stat().st_mtime, why=outcome.message)


def outcome_file(place: Place) -> Path | None:
    """Return the file that says how a trial ended; None for a run that is not a trial."""
    return place.sweep and place.sweep / "results" / f"{place.path.name}.json"


def read_run(path: str | Path) -> Run:
    """Return the run in a folder; if it cannot be read, its state is "damaged" and `why` has the reason."""
    path = Path(path)
    try:
        return _read_run(path)
    # A file can contain any JSON, or be unreadable. One such run must not hide the others.
    except Exception as error:  # noqa: BLE001
        return Run(path, "damaged", why=_describe_fault(path, error))


def _read_run(path: Path) -> Run:
    facts, lines = read_sealed(path / RUN), read_metrics(path)
    recipe, (evaluations, why) = facts["recipe"], _read_evaluations(path)
    # The lock is checked before checkpoints are listed. In the other order, a run that saves its last
    # checkpoint and ends in between would look as if it had stopped early.
    locked = is_locked(path)
    step, newest = max(list_checkpoints(path), default=(0, None))
    total = facts.get("extended") or recipe["images"]
    if total is None and newest:
        total = read_document(newest, "state")["plan"]["total"]  # the budget is in minutes
    saved = step * recipe["optim"]["batch"]
    images = max(lines[-1]["images"] if lines else 0, saved)
    # The log of a stopped run can be ahead of its last checkpoint, so the checkpoint decides.
    seen = saved if (path / CHECKPOINTS).is_dir() else images
    state = "running" if locked else "stopped" if total is None or seen < total else "finished"
    errors = {name: line[name] for line in lines for name in ERRORS if line.get(name) is not None}
    changed = max(file.stat().st_mtime for file in (path / RUN, path / METRICS) if file.exists())
    pace = measure_pace(lines) if locked else None
    left = (total - images) * pace if pace and total is not None else None
    return Run(path, state, recipe, facts, images, total, errors, evaluations, changed, why, left)


def _read_evaluations(path: Path) -> tuple[tuple[Evaluation, ...], str]:
    """Return the evaluations of a run, oldest first, and a text about unreadable records, or ""."""
    evaluations, faults = [], []
    for folder in list_evaluations(path):
        try:
            evaluations.append(read_evaluation(folder))
        except UserError as error:
            faults.append(_describe_fault(path, error))
    return tuple(evaluations), "; ".join(faults)


def _describe_fault(folder: Path, error: Exception) -> str:
    """Return a text about an error in a file, without its folder's path, because others may see reports."""
    said = f"{RUN} or another file is damaged: {type(error).__name__} {error}"
    return shorten_paths(str(error) if isinstance(error, UserError) else said, folder)


def run_values(run: Run) -> dict[str, Any]:
    """Return all values of a run by which runs are sorted and filtered, keyed by name.

    These are its columns, its metrics, and the fields of its recipe as text. "age" is the time of the last
    change, in seconds since 1970.
    """
    return {**flatten_as_text(run.recipe), **run_record(run), **run.metrics, "age": run.changed}


def run_record(run: Run) -> dict[str, Any]:
    """Return a run as plain values, with its newest errors and metrics."""
    data = run.recipe.get("data", {})
    return {
        "folder": run.path,
        "name": run.path.name,
        "recipe": run.recipe.get("name"),
        "images": run.images,
        "total": run.total,
        "state": run.state,
        **{name: run.errors.get(name) for name in ERRORS},
        **{name: data.get(name) for name in ("source", "size")},
        "changed": run.changed,
        "seconds_left": run.seconds_left,
        "metrics": run.metrics,
        "comparable": run.comparable,
        "note": run.why or None,
    }


def name_runs(runs: Sequence[Run], folder: Path | None = None) -> dict[Path, str]:
    """Return the path of each run below `folder`, keyed by the folder of the run.

    By default, `folder` is the one that holds all runs. If it is itself a run, it is named by its last part.
    """
    paths = {run.path: run.path.absolute() for run in runs}
    home = (
        os.path.commonpath([path.parent for path in paths.values()]) if folder is None else folder.absolute()
    )
    return {key: str(path.relative_to(home)) if path != home else path.name for key, path in paths.items()}


def find_newest_folder(parent: Path) -> Path | None:
    """Return the folder in `parent` with the highest number, or None; see `list_numbered_folders`."""
    return next(reversed(list_numbered_folders(parent)), None)


# Which evaluation counts


def training_images(run: Run) -> str:
    """Return the fingerprint of the training images of a run, else their source, size and channels."""
    data = run.recipe.get("data", {})
    known = run.facts.get("data", {}).get("fingerprint")
    return known or str([data.get(name) for name in ("source", "size", "channels")])


def mark_comparable(runs: Sequence[Run]) -> list[Run]:
    """Return copies of the runs with one evaluation each: the newest comparable one, else the newest one.

    An evaluation is comparable if it was made under the conditions under which most runs on the same images
    were evaluated. If several conditions are equally common, those with the most samples count, then those
    of the newest evaluation. A run that has evaluations, but no comparable one, is marked as not comparable;
    its `why` gives the reason unless it is taken.
    """
    groups = defaultdict[str, list[dict[Conditions, Evaluation]]](list)
    for run in runs:
        groups[training_images(run)].append(_list_conditions(run))
    common = {images: _find_common(group) for images, group in groups.items()}
    return [_mark_run(run, common[training_images(run)]) for run in runs]


def _list_conditions(run: Run) -> dict[Conditions, Evaluation]:
    """Return the newest evaluation of a run under each of its conditions; for a finished run, of its end."""
    ended, batch = run.state == "finished", run.recipe.get("optim", {}).get("batch", 0)
    return {
        evaluation_conditions(each, run.recipe): each
        for each in run.evaluations
        if not ended or each.sampling is None or each.sampling["step"] * batch >= run.images
    }


def _find_common(group: Sequence[Mapping[Conditions, Evaluation]]) -> Conditions | None:
    counts = Counter(conditions for evaluations in group for conditions in evaluations)
    newest = {each: max(found[each].record["time"] for found in group if each in found) for each in counts}
    return max(counts, key=lambda each: (counts[each], each.images, newest[each]), default=None)


def _mark_run(run: Run, common: Conditions | None) -> Run:
    evaluations = _list_conditions(run)
    if common in evaluations or not run.evaluations:
        return replace(run, evaluations=[evaluations[common]] if common in evaluations else ())
    shown, reason = run.evaluations[-1], "of an earlier step"
    if evaluations and common:
        conditions, shown = list(evaluations.items())[-1]
        differences = conditions.differences(common)
        reason = ", ".join(f"different {aspect} ({value})" for aspect, value in differences.items())
    why = run.why or f"its metrics are not comparable with those of most runs on these images: {reason}"
    return replace(run, evaluations=(shown,), why=why, comparable=False)


# The table of runs


@dataclass(frozen=True, repr=False)
class RunTable(Tabular):
    """The runs in a folder, each with at most one evaluation; see `list_runs`."""

    runs: Sequence[Run]
    home: Path

    def to_records(self) -> list[dict[str, Any]]:
        """Return one row for each run, as plain values."""
        return [run_record(run) for run in self.runs]

    def to_json(self) -> list[dict[str, Any]]:  # pyrefly: ignore[bad-override] (a list, as scripts expect)
        """Return the rows."""
        return self.to_records()

    @property
    def title(self) -> str:
        """How to get a first run; "" if there are runs."""
        return "" if self.runs else f"no runs in {self.home}: `ddim train photos/` creates the first run"

    @property
    def notes(self) -> list[str]:
        """The images and features with which KID was measured."""
        kid = [run.evaluations[-1].conditions for run in self.runs if run.comparable and "kid" in run.metrics]
        return [f"kid: {conditions}" for conditions in dict.fromkeys(kid)]

    def __str__(self) -> str:
        """Return the table; in a pipe, lines with tabs between the cells, for `cut`."""
        if sys.stdout.isatty() or not self.runs:
            return repr(self)
        table = self._shown(())
        return "\n".join("\t".join(map(escape, row)) for row in [table.columns, *table.rows])

    def _shown(self, notes: Sequence[str]) -> Table:
        names = name_runs(self.runs, self.home)
        rows = [[names[run.path], *_describe_run(run)] for run in self.runs]
        return Table(SHOWN if rows else (), rows, notes)


def _describe_run(run: Run) -> list[str]:
    """Return the cells of a row after the name of the run."""
    error, kid = run.errors.get("image_mae"), run.metrics.get("kid")
    data = run.recipe.get("data", {})
    return [
        run.recipe.get("name") or "-",
        Path(data["source"]).name if data else "-",
        "x".join(map(str, data["size"])) if data else "-",
        f"{run.images}/{run.total or '-'}",
        run.state,
        "-" if run.seconds_left is None else _describe_duration(run.seconds_left),
        "-" if error is None else f"{error:.4f}",
        "-" if kid is None else f"{format_cell(kid)}{'' if run.comparable else '*'}",
        "-" if run.changed is None else _describe_duration(time.time() - run.changed),
        run.why or "-",
    ]


def list_runs(
    folder: str | Path = "runs", *, sort: str | None = None, where: Mapping[str, str] | None = None
) -> RunTable:
    """List runs and the trials of sweeps.

    FIELD is name, recipe, images, total, state, age, noise_mae, image_mae, a metric such as kid or fid, or a
    field of a recipe such as optim.lr. States are waiting (a trial that no worker has started), running,
    stopped, finished, failed (a trial) and damaged. The time `left` is an estimate. A metric is marked with a
    star if it was measured under other conditions than most runs on the same images, or at an earlier step of
    a finished run. In a pipe, tabs separate the columns, and - stands for a missing value.

    Args:
        folder: the folder to search, with its subfolders.
        sort: a FIELD, smallest first; for age, youngest first (default: the path). Runs without the value,
            or with a metric marked with a star, come last.
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
    folder, wanted = Path(folder), where or {}
    # A new user has no runs yet. Another folder that is missing is a mistake.
    runs = [] if folder == Path("runs") and not folder.exists() else find_runs(folder)
    values = {run.path: run_values(run) for run in runs}
    known = {*EVALUATED, *(name for each in values.values() for name in each)}
    for name in [*wanted, *([sort] if sort else [])]:
        if runs and name not in known:
            hint = suggest(name, known)
            raise UserError(f"{name} is not a column, a metric or a field of a recipe{hint}")

    def fits(run: Run) -> bool:
        own = values[run.path]
        return all(_read_number(own.get(name)) == _read_number(value) for name, value in wanted.items())

    def place(run: Run) -> tuple[bool, float, str]:
        value = _read_number(values[run.path].get(str(sort)))
        last = value is None or (sort in EVALUATED and not run.comparable)
        number = value if isinstance(value, float) else math.inf
        return last, -number if sort == "age" else number, str(value)

    kept = mark_comparable(list(filter(fits, runs)))
    return RunTable(sorted(kept, key=place) if sort else kept, folder)


def _read_number(value: object) -> object:
    """Return a number as a float, so that 0.001 equals 1e-3, and any other value as it is."""
    with suppress(ValueError):
        return float(str(value))
    return value


def _describe_duration(seconds: float) -> str:
    """Return a duration in whole units: 90 -> "1m", 7300 -> "2h"."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"
