"""Show the progress of a training that was started from Python.

A notebook cell shows a progress bar and a sheet of samples. Elsewhere lines go to the logger "ddim", at
level INFO. They are printed if no handler shows this level.
"""

import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ddim.data import Images
from ddim.errors import escape
from ddim.machine.progress import Cell, in_notebook
from ddim.recipe.help import explain_changes
from ddim.runs.folder import sheet_path
from ddim.training.budget import WARM_UP
from ddim.training.callbacks import Callback
from ddim.training.trainer import Trainer

LOG = logging.getLogger("ddim")

EVERY = 15.0
"""Seconds between two lines of progress where no bar is drawn."""

RECENT = 600.0
"""The speed that is shown is a mean over about this number of seconds, or since the start if that is less."""

FEW = 500
"""With fewer training images than this number, samples are often copies of training images.

Two runs were measured (docs/results/memorisation.md). On 64 images, 95.5 % of the samples were copies. On
6,480 images, no sample of 200 was a copy (95 % confidence interval: 0 to 1.8 %).
"""


def format_duration(seconds: float) -> str:
    """Return a number of seconds as text: 90 as "1:30" and 3700 as "1:01:40"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def describe_errors(training: Trainer, values: Mapping[str, float]) -> str:
    """Return the validation error, and KID if known, as text: "validation error 0.484, lower is better"."""
    names = {"image_mae": "validation error", "kid": "KID"}
    shown = [f"{name} {values[key]:.3f}" for key, name in names.items() if key in values]
    # The validation error rises while a student learns to give sharp images, or a run learns guidance.
    rises = training.recipe.is_student or training.learns_guidance
    better = [] if rises or not shown else ["lower is better"]
    return ", ".join(shown + better)


class Display(Callback):
    """Shows the progress of a training and its validation errors: lines on standard error.

    A line is printed every `EVERY` seconds, and at each validation. A notebook cell shows a bar and a sheet
    of samples instead. Subclasses change the looks, and set `live` if they show a bar.
    """

    def __init__(self) -> None:
        self.created = self.tick = time.monotonic()
        self.cell, self.errors = Cell() if in_notebook() else None, ""
        self.live = self.cell is not None

    def prepare(self, what: str, done: float, total: int) -> None:
        """Show the progress before the training starts; see `Progress`."""
        # While an archive is read, the total is the number done.
        if self._is_due(5.0):
            self._show(f"{what}: {int(done):,} of {total:,}", done, total)

    def on_start(self, training: Trainer, folder: Path) -> None:
        """See `Callback`."""
        self.folder, self.resumed = folder, training.step > 0
        self.began = self.tick = time.monotonic()
        self._measure_anew(training)
        self._introduce(training)

    def on_step(self, training: Trainer, values: Mapping[str, float]) -> None:
        """See `Callback`."""
        if training.step <= self.warm:
            self.mark = time.monotonic(), training.seen
        if self._is_due(EVERY):
            self._show(self._describe_pace(training, values), training.seen, training.plan.total)

    def on_validation(self, training: Trainer, values: dict[str, float]) -> None:
        """See `Callback`."""
        sheet = sheet_path(self.folder, training.step)
        self._show_validation(training, describe_errors(training, values), sheet)

    def on_change(self, training: Trainer, text: str) -> None:
        """Show the sentence, and measure the speed anew; see `Callback`."""
        self._show(text, training.seen, training.plan.total)
        self._measure_anew(training)

    def on_end(self, training: Trainer) -> None:
        """See `Callback`."""
        took = format_duration(time.monotonic() - self.began)
        self._conclude(training, f"{training.seen:,} images seen in {took}")

    def _is_due(self, every: float) -> bool:
        """Return whether to show progress again: after `every` seconds, or 0.5 seconds if it is a bar."""
        now = time.monotonic()
        if now - self.tick < (0.5 if self.live else every):
            return False
        self.tick = now
        return True

    def _measure_anew(self, training: Trainer) -> None:
        """Measure the speed, validations included, from the end of the next `WARM_UP` updates on."""
        self.warm, self.mark = training.step + WARM_UP, (time.monotonic(), training.seen)

    def _describe_pace(self, training: Trainer, values: Mapping[str, float]) -> str:
        """Return a line with the images seen, the loss of this step, and the speed and time left if known."""
        # The last batch may go beyond the budget.
        total, (began, before), now = training.plan.total, self.mark, time.monotonic()
        seen = min(training.seen, total or training.seen)
        line = f"{seen:,} of {total:,} images seen" if total else f"{seen:,} images seen"
        if training.step <= self.warm:
            return f"{line}, loss {values['loss']:.4f}"
        speed = (training.seen - before) / max(1e-9, now - began)
        # A slow hour says nothing about the next one: it counts as `RECENT` seconds of its mean speed.
        if now - began > RECENT:
            self.mark = now - RECENT, training.seen - speed * RECENT
        left = f", {format_duration((total - seen) / speed)} left" if total else ""
        return f"{line}, {speed:.1f} images/s, loss {values['loss']:.4f}{left}"

    def _introduce(self, training: Trainer) -> None:
        split, runtime, shape = training.split, training.runtime, training.model.shape
        slow = "; the first steps are slow while the network is compiled" if runtime.compile else ""
        counts = f"{len(split.train):,} training and {len(split.validation):,} validation images"
        start = f"run {self.folder}" + (f", continued at {training.seen:,} images" if self.resumed else "")
        images = f"{counts} of {shape.height}x{shape.width}, recipe {training.recipe.name}"
        self._show(f"{start}: {images}, {runtime.describe()}{slow}", training.seen, training.plan.total)
        if not self.resumed:
            changes = [f"changed in the recipe: {change}" for change in explain_changes(training.recipe)]
            for line in [*changes, *list_cautions(split.images, len(split.train))]:
                _write(line)

    def _show(self, line: str, done: float, total: int | None) -> None:
        if self.cell:
            self.cell.show_bar(line, self.errors, done, total)
        else:
            _write(line)

    def _show_validation(self, training: Trainer, errors: str, sheet: Path) -> None:
        self.errors = f"{errors}, at {training.seen:,} images" if errors else ""
        if self.cell:
            self.cell.show_sheet(sheet, f"samples after {training.seen:,} images")
        else:
            _write(f"{self.errors}{'; ' if errors else ''}samples {sheet}")

    def _conclude(self, training: Trainer, seen: str) -> None:
        why = f", {training.stopped}" if training.stopped else ""
        ended = "finished" if training.finished and not why else f"stopped{why}"
        self._show(f"run {self.folder}: {ended}; {seen}", training.seen, training.plan.total)


def _write(line: str) -> None:
    if LOG.hasHandlers() and LOG.isEnabledFor(logging.INFO):
        LOG.info(line)
        return
    # If a message cannot be written, the training goes on.
    with suppress(OSError):
        sys.stderr.write(escape(line, "\n\t") + "\n")


def list_cautions(images: Images, train: int) -> list[str]:
    """Return warnings about the images of a new run, with `train` training images.

    They are about files that were left out, and about so few training images that copies are likely.
    """
    few = [f"few training images ({train}): the network may repeat them"] if train < FEW else []
    return [*images.describe_rejects(), *few]
