"""What a user sees of a run: a bar with a terminal, plain lines without one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TextColumn

from ddim.data import Images
from ddim.data.cache import enlarged
from ddim.data.images import SMALLEST
from ddim.files import read_json
from ddim.plots.pictures import can_preview, terminal
from ddim.runs.folder import read_metrics
from ddim.training.callbacks import Callback
from ddim.training.loop import Training
from ddim.training.run import RUN

WARM = 3
"""Updates after which a network is compiled and its memory laid out."""


def decoding() -> Callable[[int, int], None]:
    """A progress callback for the decoding of images: a line now and then, on standard error."""
    last = [time.monotonic()]

    def show(done: int, total: int) -> None:
        if done == total or time.monotonic() - last[0] > 5:
            last[0] = time.monotonic()
            sys.stderr.write(f"reading images: {done} of {total}\n")

    return show


def working() -> Callable[[str, int, int], None]:
    """A progress callback for work on images: lines on standard error now and then, how many of what."""
    last = [time.monotonic()]

    def show(what: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > 5:
            last[0] = time.monotonic()
            sys.stderr.write(f"{what}: {done:,} of {total:,}\n")

    return show


def clock(seconds: float) -> str:
    """90 -> "1:30", 3700 -> "1:01:40"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Pace:
    """How fast a run goes and when it will end, from the times at which updates and events were over."""

    def __init__(self, now: float, batch: int) -> None:
        self.batch, self.last = batch, now
        self.updates, self.seconds = 0, 0.0
        self.events, self.aside = 0, 0.0

    def update(self, now: float) -> None:
        """An update is over; the first ones compile and warm up, and are not the pace."""
        self.updates += 1
        self.seconds += now - self.last if self.updates > WARM else 0.0
        self.last = now

    def event(self, now: float) -> None:
        """An event, its validation, grid and checkpoint, is over."""
        self.events, self.aside = self.events + 1, self.aside + now - self.last
        self.last = now

    @property
    def speed(self) -> float:
        """Images a second of training alone; 0 where it is not known yet."""
        return self.batch * (self.updates - WARM) / self.seconds if self.seconds > 0 else 0.0

    def left(self, training: Training) -> float | None:
        """Seconds from an update to the end, with the events to come; None where that is not known yet."""
        total, report = training.plan.total, training.recipe.report
        if total is None or not self.speed:
            return None
        # The event of this very step, if it has one, comes after its update.
        coming = sum(step >= training.step for step in training.events())
        # Until one was timed: evaluations of the network, each about a third of an image's update.
        guess = (report.valid + (report.grid + report.kid) * report.steps) / 3 / self.speed
        each = self.aside / self.events if self.events else guess
        return max(0, total - training.seen) / self.speed + coming * each


class Console(Callback):
    """Prints what was chosen, how fast it goes, when it will end, and each validation; a context manager."""

    def __init__(self) -> None:
        self.tty = Terminal(file=sys.stderr)
        self.bar: Progress | None = None
        self.shown = ""

    def __enter__(self) -> Self:
        """The console itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Give the terminal back, however training ended."""
        if self.bar:
            self.bar.stop()

    def begin(self, training: Training, folder: Path) -> None:
        """See `Callback`."""
        self.folder = folder
        images, runtime = training.split.images, training.engine.runtime
        _, height, width, channels = images.pixels.shape
        count = sum(p.numel() for p in training.model.parameters())
        how = f"{runtime.device}, {runtime.precision}, {runtime.threads} threads"
        how += ", compiled" if runtime.compile else ""
        budget = training.plan.total or training.recipe.images
        goal = f"{budget:,} images" if budget else f"{training.recipe.minutes:g} minutes"
        say(f"{len(training.split.train):,} images to train on, {len(training.split.valid):,} to validate")
        say(f"{channels} x {height} x {width} pixels; {count:,} parameters; recipe {training.recipe.name}")
        if not training.step and (size := _of_most(images)):
            say(f"most of the images are smaller and are enlarged to that: --size {size} would cost less")
        say(f"{goal} on {how}{', the first steps are slow while it compiles' if runtime.compile else ''}")
        say(f"run folder {folder}" + (f", going on at step {training.step}" if training.step else ""))
        self.began = self.tick = time.monotonic()
        self.pace = Pace(self.began, training.recipe.optim.batch)
        if self.tty.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
            self.bar = Progress(*columns, console=self.tty)
            self.bar.start()
            self.task = self.bar.add_task("training", total=training.plan.total, said="")

    def stepped(self, training: Training, values: dict[str, float]) -> None:
        """See `Callback`."""
        now = time.monotonic()
        self.pace.update(now)
        every = 0.5 if self.bar else 15.0
        if now - self.tick < every and not training.finished:
            return
        self.tick = now
        line = self._line(training, values)
        if self.bar:
            self.bar.update(self.task, completed=training.seen, total=training.plan.total, said=line)
        else:
            say(line)

    def _line(self, training: Training, values: dict[str, float]) -> str:
        total, left = training.plan.total, self.pace.left(training)
        of = f"{training.seen:,}" + (f" of {total:,}" if total else "")
        speed = f"{self.pace.speed:.1f} images/s" if self.pace.speed else "warming up"
        ends = "measuring the pace" if left is None else f"{clock(left)} to go"
        return f"{of} images, {speed}, loss {values['loss']:.4f}, {ends}"

    def event(self, training: Training, values: dict[str, float]) -> None:
        """See `Callback`."""
        # Of the errors at each level of noise the log is the place.
        whole = {name: value for name, value in values.items() if "/" not in name}
        errors = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in whole.items())
        picture = self.folder / "samples" / f"step-{training.step:09d}.png"
        say(f"step {training.step:,}: {errors}{', ' if errors else ''}samples {picture}", self.bar)
        if can_preview(sys.stderr) and self.bar:
            import numpy as np
            from PIL import Image

            with Image.open(picture) as image:
                say(terminal(np.asarray(image.convert("RGB")), min(64, self.tty.width)), self.bar)
        self.pace.event(time.monotonic())

    def end(self, training: Training) -> None:
        """See `Callback`."""
        seconds = time.monotonic() - self.began
        self.shown = f"{training.seen:,} images seen, {clock(seconds)} of training"

    def done(self, folder: Path) -> int:
        """The last lines, and exit code 0."""
        if self.shown:
            say(self.shown)
        else:
            say(f"run {folder} is finished: nothing to resume")
        recipe = read_json(folder / RUN)["recipe"]
        name, lines = recipe["report"].get("best", "image_mae"), read_metrics(folder)
        judged = [line for line in lines if line.get(name) is not None]
        best = min(judged, key=lambda line: line[name], default=None)
        if best is not None and best["step"] < lines[-1]["step"]:
            say(f"best by {name}, {best[name]:.4f}, at {best['images']:,} images: {folder}/best")
        labelled = recipe["data"].get("labels")
        say(f"next: ddim sample {folder}{' --label all' if labelled else ''}")
        return 0


def _of_most(images: Images) -> str:
    """The size, as an option takes it, that the middle one of the enlarged images has once it is cropped.

    "" where not even half of the images are enlarged, or none can be trained on that are so small.
    """
    _, height, width, _ = images.pixels.shape
    small = enlarged(images)
    scales = sorted(min(header.height / height, header.width / width) for header in small)
    if 2 * len(small) <= len(images):
        return ""
    scale = scales[len(scales) // 2]
    size = round(scale * height), round(scale * width)
    if min(size) < SMALLEST or size == (height, width):
        return ""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def say(text: str, bar: Progress | None = None) -> None:
    """A line on standard error, above the bar where there is one."""
    if bar:
        bar.console.print(text, markup=False, highlight=False)
    else:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
