"""The progress that commands show: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TextColumn

from ddim.cli.output import draw, say
from ddim.cli.streams import unescaped
from ddim.data import Images
from ddim.data.images import SMALLEST
from ddim.errors import Interrupted, format_count, quote
from ddim.evaluation.image_summary import describe_pixels, find_enlarged
from ddim.files import read_sealed
from ddim.metrics.catalogue import LEAST
from ddim.plots.pictures import split_sheet
from ddim.runs.checkpoint import find_newest, parse_step
from ddim.runs.folder import CHECKPOINTS, RUN
from ddim.runs.log import read_metrics
from ddim.sampling.pipeline import read_run_recipe
from ddim.training.progress import EVERY, Display, format_duration, list_cautions
from ddim.training.trainer import Trainer

LONG = 30 * 60.0
"""After a run of fewer seconds, the user is advised to train longer."""

PACE = 60.0
"""Seconds over which the pace of work is averaged, to estimate the time left."""


class ProgressDisplay:
    """Shows the progress of long work: a bar on a terminal, elsewhere a line every `EVERY` seconds.

    A context manager; call it as a `Progress`.
    """

    def __init__(self) -> None:
        self.tty = Terminal(file=unescaped(sys.stderr))
        self.bar: Progress | None = None
        self.what, self.done = "", math.inf
        self.marks: deque[tuple[float, float]] = deque()

    def __enter__(self) -> Self:
        """Return the display."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        self.stop()

    def stop(self) -> None:
        """Remove the bar; the next report of progress draws a new one."""
        if self.bar:
            self.bar.stop()
            self.bar = None

    def __call__(self, what: str, done: float, total: int) -> None:
        """Show that `done` of `total` parts of the work `what` are done.

        Another `what`, or a smaller `done`, begins a new stage.
        """
        now = time.monotonic()
        if what != self.what or done < self.done:
            self.what, self.shown = what, now
            self.marks.clear()
        self.done = done
        self.marks.append((now, done))
        # Only the last minute counts for the pace: results of an earlier call are reported as done at once.
        while len(self.marks) > 2 and now - self.marks[0][0] > PACE:
            self.marks.popleft()
        line, (began, before) = f"{int(done):,} of {total:,}", self.marks[0]
        if before < done < total:
            line += f", {format_duration((now - began) * (total - done) / (done - before))} left"
        if can_draw(self.tty):
            if not self.bar:
                self.bar = start_bar(self.tty)
                self.task = self.bar.add_task(what, total=total, line="")
            self.bar.update(self.task, description=what, completed=done, total=total, line=line)
        elif now - self.shown > EVERY:
            self.shown = now
            say(f"{what}: {line}")


def can_draw(terminal: Terminal) -> bool:
    """Return whether a bar can be drawn on this terminal."""
    return terminal.is_terminal and not terminal.is_dumb_terminal


def start_bar(terminal: Terminal) -> Progress:
    """Return a new bar, which is drawn until it is stopped; text on standard error appears above the bar.

    A task of the bar needs the field `line`, the text at the right of the bar.
    """
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}")
    # Results on standard output must reach their file or pipe while the bar is drawn.
    bar = Progress(*columns, console=terminal, transient=True, redirect_stdout=False)
    bar.start()
    return bar


class Console(Display):
    """Prints the settings of a training, its progress and its validations; a context manager.

    Args:
        files: the files with components that the user wrote, which the printed commands name with --own.

    Attributes:
        preparing: shows the progress before training starts.
    """

    def __init__(self, files: Iterable[str] = ()) -> None:
        super().__init__()
        self.own = "".join(f" --own {quote(file)}" for file in dict.fromkeys(files))
        self.tty = Terminal(file=unescaped(sys.stderr))
        self.preparing = ProgressDisplay()
        self.bar: Progress | None = None
        self.ended = ""

    def __enter__(self) -> Self:
        """Return the console."""
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Remove the bars, and complete the command that continues an interrupted training."""
        self.preparing.stop()
        if self.bar:
            self.bar.stop()
        if isinstance(error, Interrupted):
            raise Interrupted(error.signal_number, error.folder, self.own) from None

    def _introduce(self, training: Trainer) -> None:
        """Print the settings of the training, and start the bar."""
        self.preparing.stop()
        images, runtime, parts = training.split.images, training.runtime, training.split
        height, width = images.pixels.shape[1:3]
        count = sum(p.numel() for p in training.model.parameters())
        held_out = len(parts.validation)
        aside = f", and {held_out:,} held out to measure the error" if held_out else ", none held out"
        say(format_count(len(parts.train), "training image") + aside)
        shape = f"{height} x {width} pixels, {describe_pixels(images)}"
        say(f"{shape}; {count:,} parameters; recipe {training.recipe.name}")
        if not self.resumed:
            for caution in [*advise_size(images), *list_cautions(images, len(parts.train))]:
                say(caution)
        budget, minutes = training.plan.total or training.recipe.images, training.recipe.minutes
        goal = f"{budget:,} images" if budget else f"{minutes:g} minute{'' if minutes == 1 else 's'}"
        slow = "; the first steps are slow while it compiles" if runtime.compile else ""
        say(f"{goal} on {runtime.describe()}{slow}")
        say(f"run folder {self.folder}" + (f", continuing at step {training.step}" if training.step else ""))
        if can_draw(self.tty):
            self.bar, self.live = start_bar(self.tty), True
            self.task = self.bar.add_task("training", total=training.plan.total, line="")

    def on_step(self, training: Trainer, values: Mapping[str, float]) -> None:
        """Show progress now and then; see `Callback`."""
        if training.finished:
            self.tick = -math.inf  # the last step is always shown
        super().on_step(training, values)

    def _show(self, line: str, done: float, total: int | None) -> None:
        if self.bar:
            self.bar.update(self.task, completed=done, total=total, line=line)
        else:
            say(line)

    def on_sheet(self, training: Trainer, sheet: np.ndarray) -> None:
        """Keep the sheet of samples for the next validation; see `Callback`."""
        self.sheet = sheet

    def _show_validation(self, training: Trainer, errors: str, sheet: Path) -> None:
        say(f"after {training.seen:,} images: {errors}{'; ' if errors else ''}samples {sheet}")
        if self.bar:
            shape = training.model.shape
            # While the bar is drawn, sys.stderr is an object of rich without an encoding.
            draw(split_sheet(self.sheet, shape.height, shape.width), self.tty.file)

    def on_change(self, training: Trainer, text: str) -> None:
        """Print the text above the bar, and measure the speed anew; see `Callback`."""
        super().on_change(training, text)
        if self.bar:
            say(text)

    def _conclude(self, training: Trainer, seen: str) -> None:
        """Prepare the lines about the ended training that `done` prints."""
        self.ended = seen
        if training.complete and not self.resumed and time.monotonic() - self.created < LONG:
            longer = f"ddim train --resume --out {quote(self.folder)} --more 20{self.own}"
            self.ended += f"\nsamples still noisy? train longer: `{longer}`"

    def done(self, folder: Path) -> None:
        """Print the last lines about a run: images seen, advice, best checkpoint and next commands."""
        say(self.ended or f"run {folder} is finished: nothing to resume")
        recipe = read_run_recipe(folder)
        options = (" --label all" if recipe.data.labels is True else "") + self.own
        best, lines = find_newest(folder / CHECKPOINTS, best=True), read_metrics(folder)
        saved = parse_step(best.name) if best else None
        if saved is not None and lines and saved < lines[-1]["step"]:
            command = f"ddim sample {quote(f'{folder}/best')}{options}"
            images = saved * recipe.optim.batch
            say(f"the best checkpoint was saved after {images:,} images: `{command}` samples it")
        run = quote(folder)
        # The held-out images alone would be too few for an evaluation.
        part = " --part all" if read_sealed(folder / RUN)["data"]["valid"] < LEAST else ""
        say(f"next: ddim sample {run}{options}    generates new images")
        say(f"      ddim evaluate {run}{part}{options}    measures how close they are to real images")
        say(f"      ddim serve {quote(folder.parent)}    shows all of this in the browser")


def advise_size(images: Images) -> list[str]:
    """Return a line with the size that would train faster, if most images were enlarged to their size.

    The size is the median size of these images, after cropping and before resizing.
    """
    _, height, width, _ = images.pixels.shape
    small = find_enlarged(images)
    scales = sorted(min(header.height / height, header.width / width) for header in small)
    if 2 * len(small) <= len(images):
        return []
    scale = scales[len(scales) // 2]
    size = round(scale * height), round(scale * width)
    if min(size) < SMALLEST or size == (height, width):
        return []
    option = str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
    return [f"most images are smaller and are enlarged to this size; --size {option} would train faster"]
