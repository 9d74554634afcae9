"""Runs as they lie on the disk: what each was asked, how far it is, how good; read without torch.

A sweep is a folder with ``sweep.json``: its trials are runs from the moment they are planned.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddim.errors import UserError, suggest
from ddim.evaluation import record as scores
from ddim.experiments.sweep.outcome import read_outcome
from ddim.files import is_locked, read_json
from ddim.metrics import catalogue
from ddim.runs.flat import ERRORS, fields
from ddim.runs.folder import METRICS, read_metrics

RUN, SWEEP = "run.json", "sweep.json"
"""The files that make a folder a run, or a sweep."""
SCHEMA = 1
"""The version of the layout of a sweep's file."""
UNITS = ("schedule", "pixels")
"""Parts of a recipe that say what these errors are errors of: between others they do not compare."""
COLUMNS = ("name", "recipe", "images", "total", "state", "age", *ERRORS)
"""What every run can be sorted and chosen by, beside its metrics and the fields of its recipe."""
STATES = ("waiting", "running", "stopped", "finished", "failed", "damaged")


@dataclass(frozen=True)
class Run:
    """A run folder at the moment when it was read.

    `recipe` and `facts` are JSON, `images` those seen of `total` (None while a time budget has not become a
    number), `state` one of `STATES`, `errors` the latest of `ERRORS`, `records` those of its evaluations,
    oldest first, `changed` when it last wrote its log (Unix, s); `why` is what a failed run said last, or
    what of a run cannot be read.
    """

    path: Path
    state: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    images: int = 0
    total: int | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()
    changed: float | None = None
    why: str = ""

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the latest evaluation, by name: {"kid": 0.01, ...}; none where there is none."""
        record = self.records[-1] if self.records else {"metrics": {}}
        found = {name: scores.entry(record, name) for name in catalogue.METRICS}
        return {name: of["value"] for name, of in found.items() if of}


def find(folder: Path) -> list[Run]:
    """Every run and every planned trial at or below a folder, by path. UserError where it is no folder."""
    if not folder.is_dir():
        raise UserError(f"{str(folder)!r} is not a folder of runs; `ddim train` makes runs, under runs/")
    found: dict[Path, Run] = {}
    for place, inner, files in os.walk(folder):
        path = Path(place)
        inner.sort()
        trials = _trials(path) if SWEEP in files else []
        if trials:
            found |= {run.path: run for run in trials}
        elif RUN in files:
            inner.clear()  # of checkpoints, samples and evaluations, none is a run
            if path not in found:
                found[path] = read(path)
    return [found[path] for path in sorted(found)]


def read(path: Path) -> Run:
    """The run in a folder; one that cannot be read is "damaged", and says why."""
    try:
        facts = read_json(path / RUN)
        lines = read_metrics(path)
        records, why = _records(path)
        recipe = facts["recipe"]
        held = is_locked(path)  # before: a run that ends now may save once more
        saved, total = _saved(path, recipe["images"])
        images = max(lines[-1]["images"] if lines else 0, saved * recipe["optim"]["batch"])
    except (UserError, KeyError, TypeError) as error:
        return Run(path, "damaged", why=str(error))
    errors = {name: line[name] for line in lines for name in ERRORS if line.get(name) is not None}
    changed = max((path / name).stat().st_mtime for name in (METRICS, RUN) if (path / name).exists())
    # The log is ahead of the last checkpoint by a validation, which may take long and never end.
    seen = saved * recipe["optim"]["batch"] if (path / "checkpoints").is_dir() else images
    ended = "stopped" if total is None or seen < total else "finished"
    state = "running" if held else ended
    return Run(path, state, recipe, facts, images, total, errors, records, changed, why)


def value(run: Run, name: str) -> str | float | None:
    """A column, a metric, or a field of the recipe, of one run; None where it has none of that name."""
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
    return numbers[name] if name in numbers else fields(run.recipe).get(name)


def where(runs: Sequence[Run], conditions: Mapping[str, str]) -> list[Run]:
    """The runs of which every named value is the given one; numbers are compared as numbers."""
    check(runs, conditions)
    conditions = {name: _spelt(name, wanted) for name, wanted in conditions.items()}
    return [
        run for run in runs if all(_same(value(run, name), wanted) for name, wanted in conditions.items())
    ]


def ordered(runs: Sequence[Run], name: str) -> list[Run]:
    """The runs by a value, least first (the youngest first by age); those that have none come last."""
    check(runs, [name])

    def place(run: Run) -> tuple[int, float, str]:
        found = value(run, name)
        number = _number(found)
        if found is None:
            return 2, 0.0, ""
        return (1, 0.0, str(found)) if number is None else (0, -number if name == "age" else number, "")

    return sorted(runs, key=place)


def check(runs: Sequence[Run], names: Iterator[str] | Sequence[str] | Mapping[str, str]) -> None:
    """UserError for a name that no run can have a value for, with the near one."""
    found = {name for run in runs for name in [*run.metrics, *fields(run.recipe)]}
    known = {*COLUMNS, *catalogue.METRICS, *found}
    for name in names:
        if runs and name not in known:
            raise UserError(f"{name} is no column, no metric and no field of a recipe{suggest(name, known)}")


def _trials(sweep: Path) -> list[Run]:
    """The trials of a sweep; none of another program's; of one that cannot be read a run that says why."""
    try:
        document = read_json(sweep / SWEEP)
        if not isinstance(document, Mapping) or document.get("kind") != "sweep":
            return []
        if document["schema"] != SCHEMA:
            raise UserError(f"{SWEEP} has schema {document['schema']}, this version reads {SCHEMA}")
        return [_trial(sweep, trial["name"], trial["recipe"] or {}) for trial in document["trials"]]
    except (UserError, KeyError, TypeError) as error:
        return [Run(sweep, "damaged", why=_said(sweep, SWEEP, error))]


def _trial(sweep: Path, name: str, recipe: Mapping[str, Any]) -> Run:
    """A trial: a run folder where there is one, and what became of it."""
    path, result = sweep / "trials" / name, sweep / "results" / f"{name}.json"
    run = read(path) if (path / RUN).exists() else Run(path, "waiting", recipe)
    try:
        outcome = read_outcome(result)
    except UserError as error:
        return replace(run, why=_said(sweep, f"results/{result.name}", error))
    if outcome is None or not outcome.failed:
        return run
    changed = run.changed or result.stat().st_mtime
    return replace(run, state="failed", changed=changed, why=outcome.message)


def _records(path: Path) -> tuple[tuple[Mapping[str, Any], ...], str]:
    """The records of a run's evaluations, oldest first, and what is to be said of those that are left out."""
    folders = (path / scores.FOLDER).glob(f"*/{scores.RECORD}")
    numbered = {int(file.parent.name): file for file in folders if file.parent.name.isdecimal()}
    records, faults = [], []
    for number in sorted(numbered):
        try:
            records.append(scores.read(numbered[number]).record)
        except UserError as error:
            faults.append(_said(path, scores.RECORD, error))
    return tuple(records), "; ".join(faults)


def _said(folder: Path, file: str, error: Exception) -> str:
    """What is wrong with a file of a folder; others read it, who need not know where that lies."""
    said = str(error) if isinstance(error, UserError) else f"{file} is damaged: {error!r}"
    return said.replace(f"{folder}{os.sep}", "")


def _saved(path: Path, budget: int | None) -> tuple[int, int | None]:
    """The step of the newest checkpoint, and the budget: what a run of minutes has settled on, or None."""
    names = [p.name for p in (path / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", p.name)]
    if not names:
        return 0, budget
    newest = max(names, key=lambda name: int(name[5:]))
    if budget is None:
        budget = read_json(path / "checkpoints" / newest / "state.json")["plan"]["total"]
    return int(newest[5:]), budget


def _spelt(name: str, wanted: str) -> str:
    """A value as recipes have it: of a size, the text of `ddim train --size`, "64" or "64x96", is one too."""
    size = re.fullmatch(r"(\d+)(?:[xX](\d+))?", wanted) if name == "data.size" else None
    return f"{size[1]},{size[2] or size[1]}" if size else wanted


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _same(found: object, wanted: str) -> bool:
    one, other = _number(found), _number(wanted)
    return str(found) == wanted if one is None or other is None else one == other
