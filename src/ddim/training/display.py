"""Show the progress of a training that was started from Python.

A notebook cell shows a progress bar and a sheet of samples. Elsewhere lines of text are printed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ddim.errors import escape
from ddim.runs.folder import sheet_path
from ddim.runs.notebook_cell import Cell, in_notebook
from ddim.runs.progress import Progress, ignore_progress
from ddim.training.callbacks import Callback
from ddim.training.cautions import list_all_cautions
from ddim.training.loop import Training
from ddim.training.pace import (
    Pace,
    describe_errors,
    describe_pace,
    find_unused_minutes,
    format_duration,
    format_minutes,
)


class Display(Callback):
    """Shows the progress of a training, its validation errors and its samples.

    In a notebook cell the bar and the sheet of samples are replaced as the training goes on. Elsewhere lines
    are printed on standard error: every 15 seconds, and at each validation.
    """

    def __init__(self) -> None:
        self._cell = Cell() if in_notebook() else None
        self._tick = self._created = time.monotonic()
        self._error = ""

    def prepare(self, what: str, done: float, total: int) -> None:
        """Show the progress before the training starts; see `Progress`."""
        if self._is_due(5.0) or (self._cell and done == total):
            self._show(f"{what}: {int(done):,} of {total:,}", done, total)

    def on_start(self, training: Training, folder: Path) -> None:
        """See `Callback`."""
        self._folder, self._began, self._resumed = folder, time.monotonic(), training.step > 0
        self._pace = Pace(self._began, training.recipe.optim.batch)
        split, runtime = training.split, training.runtime
        slow = "; the first steps are slow while the network is compiled" if runtime.compile else ""
        self._show(
            f"run {folder}: {len(split.train):,} training and {len(split.validation):,} validation images on "
            f"{runtime.device}, {runtime.precision}{slow}",
            training.seen,
            training.plan.total,
        )
        for caution in list_all_cautions(training, folder):
            _write(caution)

    def on_step(self, training: Training, values: Mapping[str, float]) -> None:
        """See `Callback`."""
        self._pace.update(time.monotonic())
        if self._is_due(15.0):
            self._show(describe_pace(self._pace, training, values), training.seen, training.plan.total)

    def on_validation(self, training: Training, values: dict[str, float]) -> None:
        """See `Callback`."""
        if error := describe_errors(training, values):
            self._error = f"{error}, at {training.seen:,} images"
        sheet = sheet_path(self._folder, training.step)
        if self._cell:
            self._cell.show_sheet(sheet, f"samples after {training.seen:,} images")
        else:
            _write(f"{self._error}{'; ' if self._error else ''}samples {sheet}")
        self._pace.event(time.monotonic())

    def on_change(self, training: Training, text: str) -> None:
        """See `Callback`."""
        self._show(text, training.seen, training.plan.total)
        self._pace = Pace(time.monotonic(), training.recipe.optim.batch)

    def on_end(self, training: Training) -> None:
        """See `Callback`."""
        ended = f"stopped, {training.stopped}" if training.stopped else "finished"
        ended = ended if training.finished or training.stopped else "stopped"
        took = format_duration(time.monotonic() - self._began)
        self._show(
            f"run {self._folder}: {ended}; {training.seen:,} images seen in {took}",
            training.seen,
            training.plan.total,
        )
        seconds = time.monotonic() - self._created
        if not self._resumed and (more := find_unused_minutes(training, seconds)):
            used = f"{format_duration(seconds)} of {format_minutes(training.recipe.minutes)} used"
            _write(f"{used}; ddim.resume({str(self._folder)!r}, more={more:g}) trains on")

    def _is_due(self, every: float) -> bool:
        """Return whether to show progress again: after `every` seconds, or 0.5 seconds in a notebook."""
        now = time.monotonic()
        if now - self._tick < (0.5 if self._cell else every):
            return False
        self._tick = now
        return True

    def _show(self, line: str, done: float, total: int | None) -> None:
        if self._cell:
            self._cell.show_bar(line, self._error, done, total)
        else:
            _write(line)


def _write(line: str) -> None:
    # If a message cannot be written, the training goes on.
    with suppress(OSError):
        sys.stderr.write(escape(line, "\n\t") + "\n")


def split_progress(progress: bool | Progress) -> tuple[list[Callback], Progress]:
    """Return (callbacks, function to call during decoding) for the argument `progress` of `train`."""
    if callable(progress):
        return [], progress
    if not progress:
        return [], ignore_progress
    display = Display()
    return [display], display.prepare
