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

from ddim import checkpoint
from ddim.errors import UserError, near
from ddim.tracking import METRICS, read_json, read_metrics

RUN, SWEEP = "run.json", "sweep.json"
"""The files that make a folder a run, or a sweep."""
ERRORS = ("noise_mae", "image_mae")
"""What training itself measures, on validation images."""
COLUMNS = ("name", "recipe", "images", "total", "state", "age", *ERRORS)
"""What every run can be sorted and chosen by, beside its metrics and the fields of its recipe."""
STATES = ("waiting", "running", "stopped", "finished", "failed", "damaged")


@dataclass(frozen=True)
class Run:
    """A run folder at the moment when it was read.

    `recipe` and `facts` are JSON, `images` those seen of `total` (None while a time budget has not become a
    number), `state` one of `STATES`, `errors` the latest of `ERRORS`, `records` those of its evaluations,
    oldest first, `changed` when it last wrote its log (Unix, s); `why` is what a failed or damaged run said.
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
        found = self.records[-1]["metrics"] if self.records else {}
        return {name: entry["value"] for name, entry in found.items()}


def find(folder: Path) -> list[Run]:
    """Every run and every planned trial at or below a folder, by path. UserError where it is no folder."""
    if not folder.is_dir():
        raise UserError(f"{str(folder)!r} is not a folder of runs; `ddim train` makes runs, under runs/")
    found: dict[Path, Run] = {}
    for place, inner, files in os.walk(folder):
        path = Path(place)
        inner.sort()
        if SWEEP in files:
            found |= {run.path: run for run in _trials(path)}
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
        records = tuple(_records(path))
        recipe = facts["recipe"]
        batch = recipe["optim"]["batch"]
    except (UserError, KeyError, TypeError) as error:
        return Run(path, "damaged", why=str(error))
    last = lines[-1] if lines else {"images": 0}
    saved, total = _saved(path, recipe["images"])
    images = max(last["images"], saved * batch)
    errors = {name: line[name] for line in lines for name in ERRORS if line.get(name) is not None}
    changed = max((path / name).stat().st_mtime for name in (METRICS, RUN) if (path / name).exists())
    if total is not None and images >= total:
        state = "finished"
    else:
        state = "running" if checkpoint.held(path) else "stopped"
    return Run(path, state, recipe, facts, images, total, errors, records, changed)


def fields(recipe: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """A recipe's fields as text, by the paths that options have: {"schedule": "cosine", "optim.lr": "0.001"}.

    Its name is no field: it says where the others come from.
    """
    flat: dict[str, str] = {}
    for name, value in recipe.items():
        whole = f"{path}.{name}".lstrip(".")
        if whole == "name":
            continue
        if isinstance(value, Mapping):
            flat |= {whole: str(value["kind"])} if "kind" in value else {}
            flat |= fields({key: inner for key, inner in value.items() if key != "kind"}, whole)
        else:
            flat[whole] = _text(value)
    return flat


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
    """UserError for a name that no run has a value for, with the near one."""
    known = {*COLUMNS, *(name for run in runs for name in [*run.metrics, *fields(run.recipe)])}
    for name in names:
        if runs and name not in known:
            raise UserError(f"{name} is no column, no metric and no field of a recipe{near(name, known)}")


def _trials(sweep: Path) -> Iterator[Run]:
    """The trials of a sweep: a run folder where there is one, and what became of it."""
    for trial in read_json(sweep / SWEEP)["trials"]:
        path = sweep / "trials" / trial["name"]
        run = read(path) if (path / RUN).exists() else Run(path, "waiting", trial["recipe"] or {})
        result = sweep / "results" / f"{trial['name']}.json"
        ended = read_json(result) if result.exists() else None
        if ended is not None and ended["exit"] != 0:
            changed = run.changed or result.stat().st_mtime
            yield replace(run, state="failed", changed=changed, why=ended["last"])
        else:
            yield run


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    folders = (path / "evaluations").glob("*/record.json")
    numbered = {int(file.parent.name): file for file in folders if file.parent.name.isdecimal()}
    for number in sorted(numbered):
        record = read_json(numbered[number])
        if record["schema"] == 1:
            yield record


def _saved(path: Path, budget: int | None) -> tuple[int, int | None]:
    """The step of the newest checkpoint, and the budget: what a run of minutes has settled on, or None."""
    names = [p.name for p in (path / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", p.name)]
    if not names:
        return 0, budget
    newest = max(names, key=lambda name: int(name[5:]))
    if budget is None:
        budget = read_json(path / "checkpoints" / newest / "state.json")["plan"]["total"]
    return int(newest[5:]), budget


def _text(value: object) -> str:
    """As an option takes it: true, not True."""
    if isinstance(value, list | tuple):
        return ",".join(_text(item) for item in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _same(found: object, wanted: str) -> bool:
    one, other = _number(found), _number(wanted)
    return str(found) == wanted if one is None or other is None else one == other
