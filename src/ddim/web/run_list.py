"""Keep the list of runs in a folder up to date, with as few reads of files as possible."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ddim.errors import UserError
from ddim.experiments.index import OUTCOME, Run, beside, list_run_folders, mark_comparable, read_run
from ddim.runs.folder import CHECKPOINTS, RUN
from ddim.runs.log import METRICS
from ddim.web.rows import Row, Sweep, make_row, name_id

SHARE = 0.01
"""The largest share of a processor core that the search for runs takes while somebody looks at the page.

Reading the files of running runs takes at most the same share again.
"""
EVERY = 2.0
"""The least number of seconds between two readings of the files."""

Stamp = tuple[int, ...]


@dataclass
class ListedRun:
    """A run in the list of the page.

    Attributes:
        run: the run, with all its evaluations.
        row: the row of the run.
        stamp: the stamp of its files when they were read.
        marked: the run with one evaluation, as `mark_comparable` returns it; None if it has no evaluations.
    """

    run: Run
    row: Row
    stamp: Stamp
    marked: Run | None = None


@dataclass(frozen=True)
class Change:
    """The rows that changed, and the ids of the runs that are gone."""

    changed: list[Row]
    gone: list[str]


class Pacer:
    """Says when repeated work is due, so that it takes at most the share `SHARE` of a processor core.

    Args:
        clock: returns the time, in seconds.
        worked: returns the time that the calling thread has computed, in seconds.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, worked: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock, self._worked, self._next = clock, worked, 0.0

    def due(self) -> bool:
        """Return whether the work is due."""
        return self._clock() >= self._next

    def measure(self, work: Callable[[], None]) -> None:
        """Do the work, and set the time when it is due again.

        The pause is the computing time of the work divided by `SHARE`, but at least `EVERY` seconds, and at
        least the duration of the work.
        """
        # On a busy machine, or with a slow disk, the work mostly waits. Waiting costs nothing, so the pause
        # is not a hundred times as long.
        start, worked = self._clock(), self._worked()
        work()
        end = self._clock()
        self._next = end + max(EVERY, end - start, (self._worked() - worked) / SHARE)


class RunList:
    """The runs in a folder. The methods read files, so they block.

    Attributes:
        folder: the folder of the runs.
        known: a `ListedRun` for each run, keyed by id.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, ListedRun] = {}
        self._search, self._read = Pacer(), Pacer()
        self._lock, self._unmarked = threading.Lock(), False

    def refresh(self, *, fully: bool = False) -> Change:
        """Look at the files that may have changed, and return the changes since the last call.

        Args:
            fully: whether to search for new runs now, even if this is not due.
        """
        with self._lock:
            return self._refresh(fully)

    def _refresh(self, fully: bool) -> Change:
        before = {own: known.row for own, known in self.known.items()}
        if fully or self._search.due():
            self._search.measure(self._find)
        if fully or self._read.due():
            self._read.measure(lambda: self._reread(running=True))
        if self._unmarked:
            self._mark()
        changed = [known.row for own, known in self.known.items() if known.row != before.get(own)]
        return Change(changed, [own for own in before if own not in self.known])

    @property
    def rows(self) -> list[Row]:
        """All rows, sorted by id."""
        return [self.known[own].row for own in sorted(self.known)]

    @property
    def sweeps(self) -> list[Sweep]:
        """All sweeps."""
        found: dict[Path, list[str]] = {}
        for own, known in sorted(self.known.items()):
            if known.run.sweep is not None:
                found.setdefault(known.run.sweep, []).append(own)
        return [Sweep(name_id(path, self.folder), path.name, runs) for path, runs in found.items()]

    def find_sweep(self, own: str) -> Path | None:
        """Return the folder of the sweep with the id `own`, None if there is none."""
        paths = {known.run.sweep for known in self.known.values() if known.run.sweep is not None}
        return next((path for path in paths if name_id(path, self.folder) == own), None)

    def _find(self) -> None:
        paths = list_run_folders(self.folder) if self.folder.is_dir() else []
        folders = {name_id(path, self.folder): path for path in paths}
        self.known = {own: known for own, known in self.known.items() if own in folders}
        for own, path in folders.items():
            if own not in self.known:
                self.known[own] = self._open(path)
        self._unmarked = True
        self._reread(running=False)

    def _open(self, path: Path) -> ListedRun:
        self._unmarked = True
        stamp = stamp_run(path)
        run = read_bounded(path)
        return ListedRun(run, make_row(run, self.folder), stamp)

    def _reread(self, *, running: bool) -> None:
        for own, known in list(self.known.items()):
            if (known.run.state == "running") != running:
                continue
            # If a process is killed, its lock ends but no file changes, so running runs are always read.
            if running or stamp_run(known.run.path) != known.stamp:
                self.known[own] = self._open(known.run.path)

    def _mark(self) -> None:
        """Update whether each evaluated run is comparable, which depends on the evaluations of all runs."""
        self._unmarked = False
        judged = [known for known in self.known.values() if known.run.evaluations]
        try:
            marked = mark_comparable([known.run for known in judged])
        except (TypeError, ValueError, KeyError, AttributeError):
            return  # a record has unexpected values; its row is shown without the mark "comparable"
        for known, run in zip(judged, marked, strict=True):
            known.row, known.marked = make_row(run, self.folder), run


def stamp_run(path: Path) -> Stamp:
    """Return numbers that change if the files of a run change."""
    stamps: list[int] = []
    files = [path / name for name in (RUN, METRICS, CHECKPOINTS, "evaluations", "samples")]
    for file in [*files, beside(path, OUTCOME)]:
        try:
            found = os.stat(file)
            stamps += [found.st_mtime_ns, found.st_size]
        except OSError:
            stamps += [0, 0]
    return tuple(stamps)


def read_bounded(path: Path) -> Run:
    """Return the run in a folder. If its files cannot be read, the run has the state "damaged"."""
    try:
        return read_run(path)
    # A file from somebody else can contain any JSON, so any error here means a damaged run.
    except (UserError, ValueError, TypeError, LookupError, AttributeError, OSError, RecursionError) as error:
        return Run(path, "damaged", why=f"it cannot be read: {type(error).__name__}")
