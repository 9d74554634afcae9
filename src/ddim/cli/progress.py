"""The progress that commands show: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TextColumn

from ddim.cli.output import draw, say, unescaped
from ddim.errors import Interrupted, quote
from ddim.files import read_sealed
from ddim.metrics.catalogue import LEAST
from ddim.plots.pictures import to_uint8
from ddim.runs.folder import RUN
from ddim.training.progress import EVERY, Display, format_duration
from ddim.training.trainer import Trainer

LONG = 30 * 60.0
"""After a run of fewer seconds, the user is advised to train longer."""

PACE = 60.0
"""Seconds over which the pace of work is averaged, to estimate the time left."""


class ProgressDisplay(AbstractContextManager):
    """Shows the progress of long work: a bar on a terminal, elsewhere a line every `EVERY` seconds.

    A context manager; call it as a `Progress`. Text on standard error appears above the bar.
    """

    def __init__(self) -> None:
        super().__init__()
        terminal = Terminal(file=unescaped(sys.stderr))
        self.draws = terminal.is_terminal and not terminal.is_dumb_terminal
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[line]}"),
            console=terminal,
            transient=True,
            # Results on standard output must reach their file or pipe while the bar is drawn.
            redirect_stdout=False,
            speed_estimate_period=PACE,
            get_time=time.monotonic,
            disable=not self.draws,
        )

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        if self.draws:
            self.bar.stop()

    def begin(self, what: str, total: float | None) -> None:
        """Begin a stage of the work, for which the bar starts anew."""
        for task in self.bar.task_ids:
            self.bar.remove_task(task)
        self.bar.add_task(what, total=total, line="")
        self.bar.start()
        self.shown = time.monotonic()

    def __call__(self, what: str, done: float, total: int) -> None:
        """Show that `done` of `total` parts of the work `what` are done.

        Another `what`, or a smaller `done`, begins a new stage.
        """
        if not any(task.description == what and task.completed <= done for task in self.bar.tasks):
            self.begin(what, total)
        (task,) = self.bar.tasks
        self.bar.update(task.id, completed=done, total=total)
        left = f", {format_duration(task.time_remaining)} left" if task.time_remaining else ""
        line = f"{int(done):,} of {total:,}{left}"
        self.bar.update(task.id, line=line)
        if not self.draws and time.monotonic() - self.shown > EVERY:
            self.shown = time.monotonic()
            say(f"{what}: {line}")


class Console(ProgressDisplay, Display):
    """Prints the settings of a training, its progress and its validations; also a `ProgressDisplay`.

    Args:
        files: the files with components that the user wrote, which the printed commands name with --own.
    """

    def __init__(self, files: Iterable[str] = ()) -> None:
        super().__init__()
        self.own = "".join(f" --own {quote(file)}" for file in dict.fromkeys(files))
        self.live, self.ended = self.draws, ""

    def __exit__(self, *error: object) -> None:
        """Remove the bar, and complete the command that continues an interrupted training."""
        super().__exit__(*error)
        stopped = error[1]
        if isinstance(stopped, Interrupted):
            raise Interrupted(stopped.signal_number, stopped.folder, self.own) from None

    def _introduce(self, training: Trainer) -> None:
        super()._introduce(training)
        self.begin("training", training.plan.total)

    def _show(self, line: str, done: float, total: int | None) -> None:
        # Before the bar of the training begins, there is none, or one of the preparations.
        if self.draws and self.bar.tasks and self.bar.tasks[0].description == "training":
            self.bar.update(self.bar.tasks[0].id, completed=done, total=total, line=line)
        else:
            say(line)

    def _show_validation(self, training: Trainer, errors: str, sheet: Path) -> None:
        seen = f"after {training.seen:,} images, step {training.step:,}"
        say(f"{seen}: {errors}{'; ' if errors else ''}samples {sheet}")
        if self.draws:
            # While the bar is drawn, sys.stderr is an object of rich without an encoding.
            draw(list(to_uint8(training.samples)), self.bar.console.file)

    def on_change(self, training: Trainer, text: str) -> None:
        """Print the text above the bar, and measure the speed anew; see `Callback`."""
        super().on_change(training, text)
        if self.draws:
            say(text)

    def _conclude(self, training: Trainer, seen: str) -> None:
        """Prepare the lines about the ended training that `done` prints."""
        self.ended = seen
        if training.complete and time.monotonic() - self.created < LONG:
            longer = f"ddim train --resume --out {quote(self.folder)} --more 20{self.own}"
            self.ended += f"\nsamples still noisy? train longer: `{longer}`"

    def done(self, folder: Path) -> None:
        """Print the last lines about a run: images seen, advice and next commands."""
        say(self.ended or f"run {folder} is finished: nothing to resume")
        facts, run = read_sealed(folder / RUN), quote(folder)
        options = (" --label all" if facts["recipe"]["data"]["labels"] is True else "") + self.own
        # The held-out images alone would be too few for an evaluation.
        part = " --part all" if facts["data"]["valid"] < LEAST else ""
        say(f"next: ddim sample {run}{options}    generates new images")
        say(f"      ddim evaluate {run}{part}{options}    measures how close they are to real images")
        say(f"      ddim serve {quote(folder.parent)}    shows all of this in the browser")
