"""What happens beside training: logs, grids of samples, checkpoints. Each a small value with five hooks."""

from __future__ import annotations

import time
from pathlib import Path

from ddim.plots.pictures import make_sheet, save_png
from ddim.runs import checkpoint
from ddim.runs.classes import choose_label
from ddim.runs.codec import dump
from ddim.runs.flat import ERRORS, fields
from ddim.runs.folder import RunLog
from ddim.runs.generate import generate
from ddim.runs.pipeline import Pipeline
from ddim.training.loop import Training


class Callback:
    """The hooks of a run, in the order in which they are called; each does nothing unless overridden."""

    def begin(self, training: Training, folder: Path) -> None:
        """Before the first update of this process, new or resumed."""

    def stepped(self, training: Training, values: dict[str, float]) -> None:
        """After each update, with its loss, gradient norm and learning rate."""

    def event(self, training: Training, values: dict[str, float]) -> None:
        """After each validation, with its results."""

    def saved(self, training: Training, path: Path) -> None:
        """After each checkpoint."""

    def end(self, training: Training) -> None:
        """After the last update of this process, finished or stopped."""


class Log(Callback):
    """Lines of metrics.jsonl and TensorBoard scalars: mean losses every `report.log` updates, validations.

    TensorBoard also gets the fields of the recipe.
    """

    def __init__(self, log: RunLog) -> None:
        self.log = log

    def begin(self, training: Training, folder: Path) -> None:
        """See `Callback`."""
        if not training.step:
            asked = {"recipe": training.recipe.name, **fields(dump(training.recipe))}
            self.log.hyperparameters(asked, [*ERRORS, "kid"])

    def stepped(self, training: Training, values: dict[str, float]) -> None:
        """See `Callback`."""
        if training.step % training.recipe.report.log == 0:
            count = training.sums.pop("updates")
            means = {name: value / count for name, value in training.sums.items()}
            self.log.write(training.step, training.seen, means)
            training.sums.clear()

    def event(self, training: Training, values: dict[str, float]) -> None:
        """See `Callback`."""
        if values:
            self.log.write(training.step, training.seen, values)


class SampleGrid(Callback):
    """samples/step-*.png at each event: the averaged weights' images of the same seeds every time.

    Of a run with labels image k has class k % classes.
    """

    def __init__(self, log: RunLog) -> None:
        self.log = log

    def begin(self, training: Training, folder: Path) -> None:
        """See `Callback`."""
        self.folder = folder / "samples"
        self.folder.mkdir(exist_ok=True)

    def event(self, training: Training, values: dict[str, float]) -> None:
        """See `Callback`."""
        report = training.recipe.report
        runtime = training.engine.runtime
        with training.averaged() as model:
            shown = Pipeline(model, training.pixels, training.recipe, runtime)
            label = choose_label(training.recipe)
            images, _ = generate(shown, range(report.grid), report.steps, label=label)
        pixels = make_sheet(images)
        save_png(self.folder / f"step-{training.step:09d}.png", pixels)
        self.log.image(training.step, "samples", pixels)


class Checkpoints(Callback):
    """A checkpoint at each event, after every `report.checkpoint` seconds (see `due`), and at the end.

    The best by `report.best` is kept beside the newest two.
    """

    def __init__(self, log: RunLog, others: list[Callback]) -> None:
        self.log, self.others = log, others

    def begin(self, training: Training, folder: Path) -> None:
        """See `Callback`."""
        self.folder = folder / "checkpoints"
        self._last, self._saved, self._best = time.monotonic(), training.step, -1

    def due(self, training: Training) -> None:
        """Save if the last was long ago. Not for a step whose event is to come: a resume would miss it."""
        if time.monotonic() - self._last > training.recipe.report.checkpoint:
            self.save(training)

    def event(self, training: Training, values: dict[str, float]) -> None:
        """See `Callback`."""
        error = values.get(training.recipe.report.best)
        if error is not None and (training.best is None or error < training.best):
            training.best, self._best = error, training.step
        self.save(training)

    def end(self, training: Training) -> None:
        """See `Callback`."""
        if training.step != self._saved:
            self.save(training)

    def save(self, training: Training) -> None:
        """Write a checkpoint now. Not of weights that are not finite: the last good one is kept."""
        if not training.sound:
            return
        self.log.sync()
        best = self._best == training.step
        path = checkpoint.save(
            self.folder, training.step, training.tensors(), training.documents(), best=best
        )
        self._last, self._saved = time.monotonic(), training.step
        for callback in self.others:
            callback.saved(training, path)
