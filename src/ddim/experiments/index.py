"""Find, read, filter and sort the runs in a folder. This module imports neither torch nor Optuna.

A sweep is a folder with ``sweep.json``. Its trials are listed as runs as soon as they are planned.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddim.errors import UserError, suggest
from ddim.evaluation.record import RECORD, Evaluation, list_evaluations, read_evaluation
from ddim.experiments.sweep import SWEEP, list_trials, read_outcome
from ddim.files import is_locked, read_sealed, shorten_paths
from ddim.metrics import catalogue
from ddim.recipe.options import ERRORS, flatten_as_text
from ddim.runs.checkpoint import read_document
from ddim.runs.folder import CHECKPOINTS, RUN, list_checkpoints, list_numbered_folders
from ddim.runs.log import METRICS, measure_pace, read_metrics

COLUMNS = ("name", "recipe", "images", "total", "state", "age", *ERRORS)
"""The columns that every run has, in addition to its metrics and the fields of its recipe."""
STATES = ("waiting", "running", "stopped", "finished", "failed", "damaged")


@dataclass(frozen=True)
class Run:
    """The content of a run folder when it was read.

    Attributes:
        path: the folder.
        state: one of `STATES`.
        recipe: the recipe as JSON.
        facts: the content of ``run.json``.
        images: training images seen so far.
        total: training budget in images; None while a budget in minutes is not yet converted to images.
        errors: the latest values of the metrics in `ERRORS`, keyed by name.
        evaluations: the evaluations of the run, oldest first.
        changed: when the run last wrote its log, in seconds since 1970.
        why: the last line that a failed trial printed, or the reason why the run cannot be read.
        seconds_left: the estimated time that a running run still needs; None if it is not known.
        comparable: whether its metrics may be ranked with the metrics of other runs (see `mark_comparable`).
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
        return {name: found.value for name, found in newest.items()}


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
        OSError: if `folder` cannot be listed.
    """
    return [read_place(place) for place in list_places(folder)]


def list_places(folder: str | Path) -> list[Place]:
    """Return the places of the runs that `find_runs` finds, sorted by path; sweeps are read, but not runs.

    Raises:
        UserError: if `folder` is not a folder.
        OSError: if `folder` cannot be listed.
    """
    folder = check_runs(folder)
    inside = os.path.realpath(folder)
    found: dict[Path, Place] = {}

    def refuse(error: OSError) -> None:
        # A folder of runs that cannot be read must not look like one without runs.
        if Path(error.filename) == folder:
            raise error

    for place, inner, files in os.walk(folder, onerror=refuse):
        path = Path(place)
        inner.sort()
        trials = _list_trials(path) if SWEEP in files else []
        if trials:
            found |= {trial.path: trial for trial in trials}
        elif RUN in files:
            inner.clear()  # a run holds checkpoints, samples and evaluations, but no runs
            found.setdefault(path, Place(path))
        else:
            # A large run may have been moved to another drive, with a link in its place.
            found |= {link: Place(link) for link in _find_links(path, inner, inside)}
    return [found[path] for path in sorted(found)]


def _find_links(folder: Path, names: Sequence[str], inside: str) -> list[Path]:
    """Return those of the names in `folder` that are links to runs which do not lie in `inside`."""
    links = [folder / name for name in names if (folder / name).is_symlink()]
    outside = [link for link in links if not Path(os.path.realpath(link)).is_relative_to(inside)]
    return [link for link in outside if os.path.exists(link / RUN)]


def read_place(place: Place) -> Run:
    """Return the run or the trial at a place; see `read_run`."""
    if place.fault:
        return Run(place.path, "damaged", why=place.fault)
    outcome = outcome_file(place)
    return read_run(place.path) if outcome is None else _read_trial(place, outcome)


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
    facts = read_sealed(path / RUN)
    lines = read_metrics(path)
    evaluations, why = _read_evaluations(path)
    recipe = facts["recipe"]
    # The lock is checked before checkpoints are listed. In the other order, a run that saves its last
    # checkpoint and ends in between would look as if it had stopped early.
    locked = is_locked(path)
    saved, total = _saved_step_and_budget(path, _planned_images(facts))
    images = max(lines[-1]["images"] if lines else 0, saved * recipe["optim"]["batch"])
    errors = {name: line[name] for line in lines for name in ERRORS if line.get(name) is not None}
    changed = max((path / name).stat().st_mtime for name in (METRICS, RUN) if (path / name).exists())
    # The log of a stopped run can be ahead of its last checkpoint, so the checkpoint decides.
    seen = saved * recipe["optim"]["batch"] if (path / CHECKPOINTS).is_dir() else images
    ended = "stopped" if total is None or seen < total else "finished"
    state = "running" if locked else ended
    pace = measure_pace(lines) if locked else None
    left = (total - images) * pace if pace and total is not None else None
    return Run(path, state, recipe, facts, images, total, errors, evaluations, changed, why, left)


def run_value(run: Run, name: str) -> str | float | None:
    """Return the value of a column, a metric or a recipe field of a run; None if the run does not have it.

    For the column "age", the value is the time of the last change, in seconds since 1970.
    """
    plain = {
        "name": run.path.name,
        "recipe": run.recipe.get("name"),
        "images": run.images,
        "total": run.total,
        "state": run.state,
        "age": run.changed,
    }
    if name in plain:
        return plain[name]
    numbers = {**run.errors, **run.metrics}
    return numbers[name] if name in numbers else flatten_as_text(run.recipe).get(name)


def run_record(run: Run) -> dict[str, Any]:
    """Return a run as plain values, with its newest errors and metrics."""
    columns = {name: run_value(run, name) for name in COLUMNS if name != "age"}
    data = run.recipe.get("data", {})
    return {
        "folder": run.path,
        **columns,
        **{name: data.get(name) for name in ("source", "size")},
        "changed": run.changed,
        "seconds_left": run.seconds_left,
        "metrics": run.metrics,
        "comparable": run.comparable,
        "note": run.why or None,
    }


def filter_runs(runs: Sequence[Run], wanted: Mapping[str, str]) -> list[Run]:
    """Return the runs that have all wanted values; numbers are compared as numbers.

    `wanted` maps names, as for `run_value`, to values.

    Raises:
        UserError: if a name is not a column, a metric or a recipe field.
    """
    _check_names(runs, wanted)
    spelt = {name: _as_in_recipe(name, text) for name, text in wanted.items()}
    return [run for run in runs if all(_is_same(run_value(run, name), text) for name, text in spelt.items())]


def sort_runs(runs: Sequence[Run], name: str) -> list[Run]:
    """Return the runs sorted by a value, the smallest first (for "age", the run that changed last).

    Runs without the value, or with a metric that is not comparable, come last.

    Raises:
        UserError: if the name is not a column, a metric or a recipe field.
    """
    _check_names(runs, [name])

    def key(run: Run) -> tuple[int, float, str]:
        value = run_value(run, name)
        number = _as_number(value)
        if value is None or (name in catalogue.METRICS and not run.comparable):
            return 2, 0.0, ""
        return (1, 0.0, str(value)) if number is None else (0, -number if name == "age" else number, "")

    return sorted(runs, key=key)


def _check_names(runs: Sequence[Run], names: Iterable[str]) -> None:
    found = {name for run in runs for name in [*run.metrics, *flatten_as_text(run.recipe)]}
    known = {*COLUMNS, *catalogue.METRICS, *found}
    for name in names:
        if runs and name not in known:
            hint = suggest(name, known)
            raise UserError(f"{name} is not a column, a metric or a field of a recipe{hint}")


def _list_trials(sweep: Path) -> list[Place]:
    """Return the places of the trials of a sweep.

    Returns:
        One place for each trial; an empty list if another program wrote sweep.json; a single place with a
        fault if sweep.json is damaged.
    """
    try:
        trials = list_trials(sweep)
    except UserError as error:
        return [Place(sweep, fault=_describe_fault(sweep, error))]
    return [Place(sweep / "trials" / trial.name, sweep, trial.recipe or {}) for trial in trials]


def _read_trial(place: Place, result: Path) -> Run:
    """Return a trial as a run, read from its run folder and its outcome file, which may both be missing."""
    path = place.path
    run = read_run(path) if (path / RUN).exists() else Run(path, "waiting", place.recipe)
    try:
        outcome = read_outcome(result)
    except UserError as error:
        return replace(run, why=_describe_fault(result.parents[1], error))
    if outcome is None or not outcome.failed:
        return run
    changed = run.changed or result.stat().st_mtime
    return replace(run, state="failed", changed=changed, why=outcome.message)


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
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename} cannot be read: {error.strerror}"
    elif not isinstance(error, UserError):
        text = f"{RUN} or another file is damaged: {type(error).__name__} {error}"
    return shorten_paths(text, folder)


def _planned_images(facts: Mapping[str, Any]) -> int | None:
    """Return the budget of a run in images from its run.json; None for a budget in minutes."""
    return facts.get("extended") or facts["recipe"]["images"]


def _saved_step_and_budget(path: Path, budget: int | None) -> tuple[int, int | None]:
    """Return the step of the newest checkpoint, and the training budget in images.

    If `budget` is None, because the run has a time budget, the budget is read from the checkpoint.
    """
    step, newest = max(list_checkpoints(path), default=(0, None))
    if budget is None and newest:
        state: Any = read_document(newest, "state")
        budget = state["plan"]["total"]
    return step, budget


def _as_in_recipe(name: str, text: str) -> str:
    """Return a value in the form of recipes: for data.size, "64" and "64x96" become "64,64" and "64,96"."""
    size = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text) if name == "data.size" else None
    return f"{size[1]},{size[2] or size[1]}" if size else text


def _as_number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None


def _is_same(value: object, text: str) -> bool:
    one, other = _as_number(value), _as_number(text)
    return str(value) == text if one is None or other is None else one == other


def check_runs(folder: str | Path) -> Path:
    """Return the path of a folder that holds run folders.

    Raises:
        UserError: if it is not a folder.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{str(folder)!r} is not a folder of runs; `ddim train` creates runs, in runs/")
    return Path(folder)


def find_newest_folder(parent: Path) -> Path | None:
    """Return the folder in `parent` with the highest number, or None; see `list_numbered_folders`."""
    return next(reversed(list_numbered_folders(parent)), None)
