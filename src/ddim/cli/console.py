"""What a user sees of a run: a bar with a terminal, plain lines without one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TextColumn

from ddim.plots import can_preview, terminal
from ddim.training.callbacks import Callback
from ddim.training.loop import Training


def decoding() -> Callable[[int, int], None]:
    """A progress callback for the decoding of images: a line now and then, on standard error."""
    last = [time.monotonic()]

    def show(done: int, total: int) -> None:
        if done == total or time.monotonic() - last[0] > 5:
            last[0] = time.monotonic()
            sys.stderr.write(f"reading images: {done} of {total}\n")

    return show


def clock(seconds: float) -> str:
    """90 -> "1:30", 3700 -> "1:01:40"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Console(Callback):
    """Prints what was chosen, how fast it goes, when it will end, and each validation."""

    def __init__(self) -> None:
        self.tty = Terminal(file=sys.stderr)
        self.bar: Progress | None = None
        self.shown = ""

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
        say(f"{goal} on {how}{', the first steps are slow while it compiles' if runtime.compile else ''}")
        say(f"run folder {folder}" + (f", going on at step {training.step}" if training.step else ""))
        self.began, self.pace_from = time.monotonic(), (time.monotonic(), training.seen)
        self.first, self.aside, self.events = training.step, 0.0, 0
        self.tick = time.monotonic()
        if self.tty.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
            self.bar = Progress(*columns, console=self.tty)
            self.bar.start()
            self.task = self.bar.add_task("training", total=training.plan.total, said="")

    def stepped(self, training: Training, values: dict[str, float]) -> None:
        """See `Callback`."""
        now = time.monotonic()
        if training.step - self.first == 3:
            # The first steps compile and warm up: they are not the pace.
            self.pace_from, self.aside = (now, training.seen), 0.0
        every = 0.5 if self.bar else 15.0
        if now - self.tick < every and not training.finished:
            return
        self.tick = now
        line = self._line(training, values, now)
        if self.bar:
            self.bar.update(self.task, completed=training.seen, total=training.plan.total, said=line)
        else:
            say(line)

    def _line(self, training: Training, values: dict[str, float], now: float) -> str:
        seconds = max(1e-9, now - self.pace_from[0] - self.aside)
        pace = (training.seen - self.pace_from[1]) / seconds
        total = training.plan.total
        of = f"{training.seen:,}" + (f" of {total:,}" if total else "")
        words = [f"{of} images", f"{pace:.1f} images/s", f"loss {values['loss']:.4f}"]
        if total and pace:
            coming = training.recipe.report.events * (total - training.seen) / max(1, total)
            each = self.aside / self.events if self.events else 0.0
            words.append(f"{clock((total - training.seen) / pace + coming * each)} to go")
        elif not total:
            words.append("measuring the pace")
        return ", ".join(words)

    def event(self, training: Training, values: dict[str, float]) -> None:
        """See `Callback`."""
        self.events += 1
        now = time.monotonic()
        # Since the last update: validating and sampling, which the pace must not count.
        self.aside += now - max(self.tick, self.pace_from[0]) if self.bar is None else 0.0
        errors = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items())
        picture = self.folder / "samples" / f"step-{training.step:09d}.png"
        say(f"step {training.step:,}: {errors}{', ' if errors else ''}samples {picture}", self.bar)
        if can_preview(sys.stderr) and self.bar:
            import numpy as np
            from PIL import Image

            with Image.open(picture) as image:
                say(terminal(np.asarray(image.convert("RGB")), min(64, self.tty.width)), self.bar)

    def end(self, training: Training) -> None:
        """See `Callback`."""
        if self.bar:
            self.bar.stop()
        seconds = time.monotonic() - self.began
        self.shown = f"{training.seen:,} images seen, {clock(seconds)} of training"

    def done(self, folder: Path) -> int:
        """The last lines, and exit code 0."""
        if self.shown:
            say(self.shown)
        else:
            say(f"run {folder} is finished: nothing to resume")
        say(f"next: ddim sample {folder}")
        return 0


def say(text: str, bar: Progress | None = None) -> None:
    """A line on standard error, above the bar where there is one."""
    if bar:
        bar.console.print(text, markup=False, highlight=False)
    else:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
