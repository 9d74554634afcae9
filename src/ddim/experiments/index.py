"""Read the runs in a folder, and the planned trials of its sweeps. It imports neither torch nor Optuna.

A sweep is a folder with ``sweep.json``. Its trials are listed as runs as soon as they are planned.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddim.errors import UserError
from ddim.evaluation.record import RECORD, Evaluation, list_evaluations, read_evaluation
from ddim.experiments.sweep import SWEEP, list_trials, read_outcome
from ddim.files import is_locked, read_sealed, shorten_paths
from ddim.recipe.options import ERRORS, flatten_as_text
from ddim.runs.checkpoint import read_document
from ddim.runs.folder import CHECKPOINTS, RUN, list_checkpoints, list_numbered_folders
from ddim.runs.log import METRICS, measure_pace, read_metrics


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
            evaluations.append(read_evaluation(folder / RECORD))
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


def find_newest_folder(parent: Path) -> Path | None:
    """Return the folder in `parent` with the highest number, or None; see `list_numbered_folders`."""
    return next(reversed(list_numbered_folders(parent)), None)
