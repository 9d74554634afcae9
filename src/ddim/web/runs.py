"""The list of runs of the page: rows that are read again when the files of a run change."""

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ddim.data.sources import stamp_paths
from ddim.evaluation.record import Evaluation
from ddim.experiments.index import OUTCOME, Run, beside, list_run_folders, mark_comparable, read_run
from ddim.files import shorten_paths
from ddim.runs.folder import CHECKPOINTS, RUN, is_unused, list_sheets
from ddim.runs.log import METRICS
from ddim.web.answers import Refused
from ddim.web.processes import Child, Processes

FRESH = 1.0
"""Seconds for which the rows are used without a look at the files."""

NOTE = "note.txt"
"""The file in a run folder with the user's note."""


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
        note: the user's note.
        recipe: the name of the recipe.
        data: the name of the images.
        size: height and width in pixels.
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
    note: str = ""
    recipe: str | None = None
    data: str | None = None
    size: list[int] | None = None
    parameters: int | None = None
    images: int = 0
    total: int | None = None
    seconds_left: float | None = None
    errors: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, Interval] = field(default_factory=dict)
    comparable: bool = True
    changed: float | None = None
    sheet: str | None = None


@dataclass
class ListedRun:
    """A run in the list of the page.

    Attributes:
        run: the run, with all its evaluations.
        row: the row of the run.
        stamp: the stamp of its files, and the state of its command, when they were read.
        shown: the evaluation whose metrics the row shows, None if there is none.
    """

    run: Run
    row: Row
    stamp: tuple[object, ...]
    shown: Evaluation | None = None


class RunList:
    """The runs in a folder. Their files are read again at most once a second, and only if they changed.

    A training that this server has started is in the list before it has written its first file.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder, self.processes = folder, processes
        self._known: dict[str, ListedRun] = {}
        self._lock = threading.Lock()
        self._looked = float("-inf")

    def read(self, *, now: bool = False) -> dict[str, ListedRun]:
        """Return all runs, sorted by id; `now` looks at the files at once."""
        with self._lock:
            if now or time.monotonic() - self._looked > FRESH:
                folders = list_run_folders(self.folder) if self.folder.is_dir() else []
                begun = {child.folder for child in self.processes.children if child.state != "finished"}
                self._known = self._reread({name_id(path, self.folder): path for path in {*folders, *begun}})
                self._looked = time.monotonic()
            return self._known

    def find(self, key: str) -> ListedRun:
        """Return the run with an id.

        Raises:
            Refused: if there is no such run.
        """
        known = self.read().get(key) or self.read(now=True).get(key)
        if known is None:
            raise Refused(404, "there is no run of this name; it may have been moved or removed")
        return known

    def _reread(self, paths: Mapping[str, Path]) -> dict[str, ListedRun]:
        fresh, changed = {}, self._known.keys() != paths.keys()
        for key, path in sorted(paths.items()):
            child = self.processes.find(path)
            known, stamp = self._known.get(key), (stamp_run(path), child and child.state)
            # If a process is killed, its lock ends but no file changes, so running runs are always read.
            if known and stamp[0] and known.stamp == stamp and known.run.state != "running":
                fresh[key] = known
                continue
            changed = True
            run = read_run(path)
            if child and not (path / RUN).exists() and run.sweep is None:
                run = describe_start(child)
            elif child:
                run = replace(run, why=run.why or child.failure)
            fresh[key] = ListedRun(run, make_row(run, self.folder), stamp)
        if changed:
            # The evaluation that a row shows depends on the evaluations of all runs.
            judged = [each for each in fresh.values() if each.run.evaluations and each.row.state != "damaged"]
            for known, run in zip(judged, mark_comparable([each.run for each in judged]), strict=True):
                known.row, known.shown = make_row(run, self.folder), run.evaluations[-1]
        return fresh


def describe_start(child: Child) -> Run:
    """Return the run of a command that has written no file yet; if it failed, its empty folder is removed."""
    if child.state == "running":
        return Run(child.folder, "waiting", why="it reads the images", changed=child.began)
    remove_unused(child.folder)
    return Run(child.folder, "failed", why=child.failure, changed=child.began)


def remove_unused(folder: Path) -> None:
    """Remove a run folder in which no command has written a file."""
    if folder.is_dir() and is_unused(folder):
        shutil.rmtree(folder)


def stamp_run(path: Path) -> str:
    """Return a text that changes if the files of a run change; see `stamp_paths`."""
    names = (RUN, METRICS, CHECKPOINTS, NOTE, "evaluations", "memorisation", "samples")
    return stamp_paths(*(path / name for name in names), beside(path, OUTCOME))


# Rows


def make_row(run: Run, folder: Path) -> Row:
    """Return the row of a run; if its files contain unexpected values, the run is damaged."""
    key, path = name_id(run.path, folder), run.path.relative_to(folder)
    name = str(path) if path.parts else folder.resolve().name
    sweep = None if run.sweep is None else name_id(run.sweep, folder)
    try:
        return Row(key, name, run.state, sweep, **_describe_run(key, run))
    except (TypeError, ValueError, KeyError, AttributeError, LookupError, OverflowError, OSError) as error:
        why = f"run.json or metrics.jsonl has unexpected values: {type(error).__name__}"
        return Row(key, name, "damaged", sweep, why)


def _describe_run(key: str, run: Run) -> dict[str, Any]:
    note, names = run.path / NOTE, ("changed", "images", "total", "seconds_left", "errors", "comparable")
    facts = {name: getattr(run, name) for name in names}
    facts["why"] = shorten_paths(run.why, run.path)[:2000]
    facts["note"] = note.read_text(encoding="utf-8", errors="replace")[:2000] if note.is_file() else ""
    if run.state == "damaged" or not run.recipe:
        return facts
    data, sheets = run.recipe["data"], list_sheets(run.path)
    return facts | {
        "recipe": str(run.recipe.get("name")),
        "data": Path(data["source"]).name,
        "size": [int(side) for side in data["size"]],
        "parameters": run.facts.get("parameters"),
        "metrics": list_intervals(run.evaluations[-1]) if run.evaluations else {},
        "sheet": api_address("runs", key, "pictures", sheets[-1][1].name) if sheets else None,
    }


def list_intervals(evaluation: Evaluation) -> dict[str, Interval]:
    """Return the metrics of an evaluation with their intervals, keyed by name."""
    return {name: Interval(each.value, each.low, each.high) for name, each in evaluation.metrics.items()}


def name_id(path: Path, folder: Path) -> str:
    """Return the id of a run or sweep: its path below `folder`, with ~ in place of /.

    A path with unusual characters gets a hash as its id, so that every id can stand in an address.
    """
    parts = Path(os.path.relpath(path, folder)).parts or (folder.resolve().name or "runs",)
    if all(re.fullmatch(r"[\w.=+@ -]+", part) and part.isprintable() and part.isascii() for part in parts):
        return "~".join(parts)
    return f"run-{hashlib.sha256(os.fsencode(os.sep.join(parts))).hexdigest()[:16]}"


def check_folder_name(name: str) -> None:
    """Check that a name which a user typed is that of a folder, and leads to no other one.

    Raises:
        Refused: if it does not.
    """
    if Path(name).name != name or name.startswith(".") or not name.isprintable():
        raise Refused(422, f"{name[:80]!r} is not the name of a folder")


def api_address(*parts: str | int) -> str:
    """Return an address below /api."""
    return "/api/" + "/".join(quote(str(part), safe="") for part in parts)
