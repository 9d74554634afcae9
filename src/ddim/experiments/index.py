"""Read the runs in a folder, and the planned trials of sweeps. It imports neither torch nor Optuna.

The trials of a sweep are the runs ``SWEEP/trials/NAME``. Beside the run folder stand ``NAME.trial.json``, the
recipe with which the trial is planned, and ``NAME.outcome.json``, which says how it ended.
"""

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
from ddim.evaluation import record as records
from ddim.evaluation.record import Conditions, Evaluation
from ddim.files import is_locked, read_sealed, shorten_paths
from ddim.metrics.catalogue import METRICS as EVALUATED
from ddim.plots.table import Table, Tabular, format_cell
from ddim.recipe.options import ERRORS, flatten, flatten_as_text, list_varied
from ddim.runs.checkpoint import read_document
from ddim.runs.folder import CHECKPOINTS, RUN, list_checkpoints
from ddim.runs.log import METRICS, measure_pace, read_metrics

TRIAL = ".trial.json"
"""The end of the name of the file that plans a trial: its recipe."""

OUTCOME = ".outcome.json"
"""The end of the name of the file with the exit code and the last message of a trial that has ended."""


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
        sweep: the folder of the sweep of a trial, else None.
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
    sweep: Path | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the latest evaluation, such as {"kid": 0.01, ...}; empty without an evaluation."""
        newest = self.evaluations[-1].metrics if self.evaluations else {}
        return {name: measured.value for name, measured in newest.items()}


# Find and read runs


def find_runs(folder: str | Path) -> list[Run]:
    """Return every run and every planned trial in a folder and its subfolders, sorted by path.

    Raises:
        UserError: if `folder` is not a folder.
    """
    return [read_run(path) for path in list_run_folders(folder)]


def list_run_folders(folder: str | Path) -> list[Path]:
    """Return the folders of the runs that `find_runs` finds, sorted by path.

    Raises:
        UserError: if `folder` is not a folder.
    """
    home, runs = Path(folder).resolve(), set[Path]()
    if not home.is_dir():
        raise UserError(f"{str(folder)!r} is not a folder of runs; `ddim train` creates runs, in runs/")
    next(home.iterdir(), None)  # fails if the folder cannot be read, which `os.walk` does not say
    for name, inner, files in os.walk(folder):
        path = Path(name)
        runs.update(path / each.removesuffix(TRIAL) for each in files if each.endswith(TRIAL))
        if RUN in files:
            inner.clear()  # a run holds checkpoints, samples and evaluations, but no runs
            runs.add(path)
        # A large run may have been moved to another drive, with a link in its place.
        links = (path / each for each in inner if (path / each).is_symlink() and (path / each / RUN).exists())
        runs.update(link for link in links if not link.resolve().is_relative_to(home))
    return sorted(runs)


def beside(run: Path, ending: str) -> Path:
    """Return the file beside the folder of a trial whose name ends with `TRIAL`, `OUTCOME` or so."""
    return Path(f"{run}{ending}")


def read_run(path: str | Path) -> Run:
    """Return the run in a folder; if it cannot be read, its state is "damaged" and `why` has the reason."""
    path = Path(path)
    trial, outcome = beside(path, TRIAL), beside(path, OUTCOME)
    sweep = path.parent.parent if trial.exists() else None
    try:
        if sweep and not (path / RUN).exists():
            run = Run(path, "waiting", read_sealed(trial))
        else:
            run = _read_run(path)
        if outcome.exists():
            ended, changed = read_sealed(outcome), outcome.stat().st_mtime
            if ended["exit_code"] != 0:
                run = replace(run, state="failed", why=ended["message"], changed=changed)
        return replace(run, sweep=sweep)
    # A file can contain any JSON, or be unreadable. One such run must not hide the others.
    except Exception as error:  # noqa: BLE001
        return Run(path, "damaged", why=_describe_fault(path, error), sweep=sweep)


def _read_run(path: Path) -> Run:
    facts, lines = read_sealed(path / RUN), read_metrics(path)
    recipe = facts["recipe"]
    evaluations, why = _read_evaluations(path)
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
    state = "stopped" if total is None or seen < total else "finished"
    errors = {name: line[name] for line in lines for name in ERRORS if line.get(name) is not None}
    changed = max(file.stat().st_mtime for file in (path / RUN, path / METRICS) if file.exists())
    pace = measure_pace(lines) if locked else None
    left = (total - images) * pace if pace and total is not None else None
    state = "running" if locked else state
    return Run(path, state, recipe, facts, images, total, errors, evaluations, changed, why, left)


def _read_evaluations(path: Path) -> tuple[list[Evaluation], str]:
    """Return the evaluations of a run that can be read, and a sentence about the last other one, or ""."""
    evaluations, why = [], ""
    for folder in records.list_results(path):
        # A record can contain any JSON. The run is usable without it.
        try:
            evaluations.append(records.read_evaluation(folder))
        except Exception as error:  # noqa: BLE001
            why = f"evaluation {folder.name} is left out: {_describe_fault(path, error)}"
    return evaluations, why


def _describe_fault(path: Path, error: Exception) -> str:
    """Return a text about an error in a file of a run, without folders, because others may see reports."""
    said = str(error)
    if not isinstance(error, UserError):
        said = f"{RUN} or another file is damaged: {type(error).__name__} {error}"
    return shorten_paths(shorten_paths(said, path), path.parent)


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
    known = [(run, training_images(run), _list_conditions(run)) for run in runs]
    groups = defaultdict[str, list[tuple[Conditions, Evaluation]]](list)
    for _, images, listed in known:
        groups[images] += listed.items()
    common = {images: _find_common(group) for images, group in groups.items()}
    return [_choose_evaluation(run, listed, common[images]) for run, images, listed in known]


def _list_conditions(run: Run) -> dict[Conditions, Evaluation]:
    """Return the newest evaluation of a run under each of its conditions; for a finished run, of its end."""
    ended, batch = run.state == "finished", run.recipe.get("optim", {}).get("batch", 0)
    return {
        records.evaluation_conditions(each, run.recipe): each
        for each in run.evaluations
        if not ended or each.sampling is None or each.sampling["step"] * batch >= run.images
    }


def _find_common(evaluations: Sequence[tuple[Conditions, Evaluation]]) -> Conditions | None:
    """Return the conditions that count for runs with these evaluations; see `mark_comparable`."""
    newest_first = sorted(evaluations, key=lambda pair: pair[1].record["time"], reverse=True)
    counts = Counter(conditions for conditions, _ in newest_first)
    # Of equal conditions, max returns the first.
    return max(counts, key=lambda each: (counts[each], dict(each)["number of samples"]), default=None)


def _choose_evaluation(run: Run, listed: dict[Conditions, Evaluation], common: Conditions | None) -> Run:
    if common in listed:
        return replace(run, evaluations=[listed[common]])
    if not run.evaluations:
        return run
    shown, reason = run.evaluations[-1], "of an earlier step"
    if listed and common:
        conditions, shown = max(listed.items(), key=lambda pair: pair[1].record["time"])
        different = [pair for pair in conditions if pair not in common]
        reason = ", ".join(f"different {name} ({value})" for name, value in different)
    why = run.why or f"its metrics are not comparable with those of most runs on these images: {reason}"
    return replace(run, evaluations=[shown], why=why, comparable=False)


# The table of runs


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
        "source": data.get("source"),
        "size": data.get("size"),
        "changed": run.changed,
        "seconds_left": run.seconds_left,
        "metrics": run.metrics,
        "comparable": run.comparable,
        "note": run.why or None,
    }


def name_runs(runs: Sequence[Run], home: str | Path) -> dict[Path, str]:
    """Return the path of each run below `home`, keyed by its folder; a run that is `home` has a name too."""
    paths = {run.path: os.path.relpath(run.path, home) for run in runs}
    return {path: path.name if text == os.curdir else text for path, text in paths.items()}


@dataclass(frozen=True, repr=False)
class RunTable(Tabular):
    """The runs in a folder, each with at most one evaluation; see `list_runs`."""

    runs: Sequence[Run]
    folder: Path

    def to_records(self) -> list[dict[str, Any]]:
        """Return one row for each run: its values, its metrics, and the fields in which recipes differ."""
        recipes, rows = [flatten(run.recipe) for run in self.runs], []
        varied = list_varied(recipes)
        for run, recipe in zip(self.runs, recipes, strict=True):
            record = run_record(run)
            metrics = record.pop("metrics")
            rows.append({**{name: recipe.get(name) for name in varied}, **record, **metrics})
        return rows

    def to_json(self) -> list[dict[str, Any]]:  # pyrefly: ignore[bad-override] (a list, as scripts expect)
        """Return one dictionary for each run; its metrics are one of the values."""
        return [run_record(run) for run in self.runs]

    @property
    def title(self) -> str:
        """How to get a first run; "" if there are runs."""
        return "" if self.runs else f"no runs in {self.folder}: `ddim train photos/` creates the first run"

    def __str__(self) -> str:
        """Return the table; in a pipe, lines with tabs between the cells, for `cut`."""
        if sys.stdout.isatty() or not self.runs:
            return repr(self)
        table = self._shown(())
        return "\n".join("\t".join(map(escape, row)) for row in [table.columns, *table.rows])

    def _shown(self, notes: Sequence[str]) -> Table:
        names = name_runs(self.runs, self.folder)
        return Table.from_records([_describe_run(run, names[run.path]) for run in self.runs], notes)


def _describe_run(run: Run, name: str) -> dict[str, str]:
    """Return the cells of the row of a run, keyed by column."""
    data = run.recipe.get("data", {})
    age = None if run.changed is None else time.time() - run.changed
    star = "" if run.comparable else "*"
    cells: dict[str, str | None] = {
        "name": name,
        "recipe": run.recipe.get("name"),
        "data": Path(data.get("source", "")).name,
        "size": "x".join(map(str, data.get("size", ()))),
        "images": f"{run.images}/{run.total or '-'}",
        "state": run.state,
        "left": _describe_duration(run.seconds_left),
        "image_mae": format_cell(run.errors.get("image_mae")),
        "kid": format_cell(run.metrics.get("kid")) + star,
        "age": _describe_duration(age),
        "note": run.why,
    }
    return {column: cell or "-" for column, cell in cells.items()}


def _describe_duration(seconds: float | None) -> str:
    """Return a duration in whole units: 90 -> "1m", 7300 -> "2h"; "" if it is not known."""
    if seconds is None:
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


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

    def list_values(run: Run) -> dict[str, Any]:
        return {**flatten_as_text(run.recipe), **run_record(run), **run.metrics, "age": run.changed}

    known = {*EVALUATED, *(name for run in runs for name in list_values(run))}
    for name in [*wanted, sort or "name"]:
        if runs and name not in known:
            hint = suggest(name, known)
            raise UserError(f"{name} is not a column, a metric or a field of a recipe{hint}")

    def fits(run: Run) -> bool:
        given = list_values(run)
        return all(_read_number(given.get(name)) == _read_number(value) for name, value in wanted.items())

    def place(run: Run) -> tuple[bool, float, str]:
        value = _read_number(list_values(run).get(str(sort)))
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
