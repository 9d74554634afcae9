"""Callbacks of training: they write the log, samples and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddim.data.images import gather_batch
from ddim.diffusion.loss import Objective
from ddim.errors import NotFinite, UserError, describe_given
from ddim.files import read_sealed
from ddim.nn.power_averages import GAMMAS, is_snapshot_step, list_powers
from ddim.plots.pictures import enlarge, make_sheet, save_png
from ddim.recipe.codec import dump
from ddim.recipe.options import ERRORS, flatten_as_text
from ddim.runs import checkpoint
from ddim.runs.averages import remove_later_snapshots, save_snapshot
from ddim.runs.folder import CHECKPOINTS, REAL_IMAGES, RUN, record_in_run, sheet_path
from ddim.runs.log import RunLog
from ddim.runs.names import GUIDE
from ddim.training.loop import Training
from ddim.training.step_values import IN_A_ROW

if TYPE_CHECKING:
    import numpy as np


class Callback:
    """Base class of callbacks: each method does nothing unless a subclass overrides it.

    A method may call `training.stop("a reason")`: the run is saved after this step and ends.

    Example:
        >>> class StopEarly(ddim.Callback):
        ...     def on_validation(self, training, values):
        ...         if values["image_mae"] < 0.2:
        ...             training.stop("good enough")
        >>> ddim.train("photos/", callbacks=[StopEarly()])
    """

    def on_start(self, training: Training, folder: Path) -> None:
        """Called before the first step of this process, in a new or a resumed run."""

    def on_step(self, training: Training, values: Mapping[str, float]) -> None:
        """Called after each step, with its loss, gradient norm and learning rate; see `StepValues`."""

    def on_log(self, training: Training, values: Mapping[str, float]) -> None:
        """Called after each line of the log, with its values.

        These are mean losses, results of a validation, or the threads and planned images after a change.
        """

    def on_sheet(self, training: Training, sheet: np.ndarray) -> None:
        """Called at each validation, before `on_validation`, with a sheet of samples (H, W, 3) uint8."""

    def on_validation(self, training: Training, values: dict[str, float]) -> None:
        """Called after each validation, with its results."""

    def on_checkpoint(self, training: Training, path: Path) -> None:
        """Called after each checkpoint, with its folder."""

    def on_change(self, training: Training, text: str) -> None:
        """Called with a sentence when the training changes, or when other programs slow it down.

        The training length can change, and so can the numbers of threads, processes and parts of a batch.
        """

    def on_end(self, training: Training) -> None:
        """Called after the last step of this process, whether the run is finished or stopped."""


def check_callbacks(callbacks: Sequence[Callback]) -> Sequence[Callback]:
    """Check the callbacks that a user gives, and return them.

    Raises:
        UserError: if `callbacks` is not a list of instances of `Callback`.
    """
    if not isinstance(callbacks, Sequence):
        raise UserError(f"callbacks must be a list, such as [MyCallback()], got {describe_given(callbacks)}")
    for each in callbacks:
        if isinstance(each, type):
            name = each.__name__
            raise UserError(f"a callback must be an instance, such as {name}(), got the class {name}")
        if not isinstance(each, Callback):
            raise UserError(f"a callback must be an instance of ddim.Callback, got {describe_given(each)}")
    return callbacks


def describe_choices(training: Training) -> dict[str, str]:
    """Return the recipe of a training as text, keyed by field path; "recipe" is its name."""
    return {"recipe": training.recipe.name, **flatten_as_text(dump(training.recipe))}


class Log(Callback):
    """Writes mean losses every `report.log` steps, and validation results, to metrics.jsonl and TensorBoard.

    The fields of the recipe are also written to TensorBoard.

    Args:
        log: the log.
        others: callbacks whose `on_log` is called after each line.
    """

    def __init__(self, log: RunLog, others: list[Callback]) -> None:
        self.log, self.others = log, others

    def on_start(self, training: Training, folder: Path) -> None:
        """See `Callback`."""
        if not training.step:
            self.log.hyperparameters(describe_choices(training), [*ERRORS, "kid"])

    def on_step(self, training: Training, values: Mapping[str, float]) -> None:
        """See `Callback`."""
        if training.step % training.recipe.report.log == 0:
            sums = {name: float(value) for name, value in training.sums.items()}
            count = sums.pop("steps")
            self._write(training, {name: value / count for name, value in sums.items()})
            training.sums.clear()

    def on_validation(self, training: Training, values: dict[str, float]) -> None:
        """See `Callback`."""
        if values:
            self._write(training, values)

    def on_change(self, training: Training, text: str) -> None:
        """See `Callback`."""
        values = {"threads": training.runtime.threads, "planned_images": training.plan.total}
        self._write(training, {name: value for name, value in values.items() if value is not None})

    def _write(self, training: Training, values: Mapping[str, float]) -> None:
        self.log.write(training.step, training.seen, values)
        for callback in self.others:
            callback.on_log(training, values)


class SampleGrid(Callback):
    """Writes samples/step-*.png at each validation: samples of the EMA weights, always with the same seeds.

    samples/real.png shows held-out images for comparison, or training images if none are held out. If the run
    has labels, sample k has class k % classes.

    Args:
        log: the log, which also gets the sheets.
        others: callbacks whose `on_sheet` is called with each sheet.
    """

    def __init__(self, log: RunLog, others: list[Callback]) -> None:
        self.log, self.others = log, others

    def on_start(self, training: Training, folder: Path) -> None:
        """See `Callback`."""
        self.folder = folder
        (folder / REAL_IMAGES).parent.mkdir(exist_ok=True)
        parts = training.split
        real = (parts.validation if len(parts.validation) else parts.train)[: training.recipe.report.grid]
        save_png(folder / REAL_IMAGES, enlarge(make_sheet(gather_batch(parts.images, real))))

    def on_validation(self, training: Training, values: dict[str, float]) -> None:
        """See `Callback`."""
        pixels = make_sheet(training.samples)
        save_png(sheet_path(self.folder, training.step), enlarge(pixels))
        self.log.image(training.step, "samples", pixels)
        for callback in self.others:
            callback.on_sheet(training, pixels)


class Snapshots(Callback):
    """Writes snapshots of two averages of the weights, from which `ddim ema` reconstructs other averages.

    The steps of the snapshots depend on `report.snapshots` alone, see `is_snapshot_step`. A resumed run
    writes the snapshots of all steps after its checkpoint again, with the same bytes.
    """

    def on_start(self, training: Training, folder: Path) -> None:
        """See `Callback`."""
        self.folder, self.gammas = folder, list_powers(training.rules)
        remove_later_snapshots(folder, training.step)

    def on_step(self, training: Training, values: Mapping[str, float]) -> None:
        """See `Callback`."""
        count = training.recipe.report.snapshots
        # Averages of weights that are not finite are useless, and they would replace an older snapshot.
        if is_snapshot_step(training.step, count) and training.weights_finite:
            averages = {gamma: training.averages[self.gammas[gamma]] for gamma in GAMMAS}
            save_snapshot(self.folder, training.step, averages, count)


def _finishing_loss(training: Training) -> Objective | None:
    """Return the loss of a run if `objective.finish` changes the meaning of `report.best`, else None.

    The squared error of the finish raises the error of the image, which is an absolute error. KID keeps its
    meaning.
    """
    loss = training.recipe.objective
    changes = isinstance(loss, Objective) and loss.finish > 0 and training.recipe.report.best != "kid"
    return loss if changes else None


def _is_comparable(training: Training) -> bool:
    """Return whether `report.best` of now can be compared with its value at the end of the run."""
    loss, total, batch = _finishing_loss(training), training.plan.total, training.recipe.optim.batch
    if loss is None:
        return True
    if total is None:
        return False
    # The images seen before the update that was just made, and before the last update of the run.
    now, last = training.seen - batch, (math.ceil(total / batch) - 1) * batch
    return loss.at(training.plan.part(now), now) == loss.at(training.plan.part(last), last)


def _is_outdated(training: Training, best: int) -> bool:
    """Return whether the run had its best error, at the step `best`, before the finish that has now begun.

    This happens if the budget is raised of a run that was too short for a finish.
    """
    loss, batch = _finishing_loss(training), training.recipe.optim.batch
    return loss is not None and (best - 1) * batch < loss.finish_after <= training.seen - batch


class Checkpoints(Callback):
    """Writes a checkpoint at each validation, every `report.checkpoint` seconds, and at the end.

    The newest two checkpoints are kept. The checkpoint with the lowest value of the metric `report.best` is
    kept too. RUN/guide holds the weights after the share `report.guide` of the budget.

    Args:
        log: the log, which is flushed to the disk before each checkpoint.
        others: callbacks whose `on_checkpoint` is called after each checkpoint.
    """

    def __init__(self, log: RunLog, others: list[Callback]) -> None:
        self.log, self.others = log, others

    def on_start(self, training: Training, folder: Path) -> None:
        """See `Callback`."""
        self.folder = folder / CHECKPOINTS
        self._last, self._saved = time.monotonic(), training.step
        # If the best checkpoint is saved again at the same step, it keeps its mark.
        self._best = checkpoint.find_best_step(self.folder)
        self._recorded = bool(read_sealed(folder / RUN).get("checkpointed"))
        self._guided = checkpoint.find_newest(folder / GUIDE) is not None

    def on_step(self, training: Training, values: Mapping[str, float]) -> None:
        """See `Callback`."""
        share, total = training.recipe.report.guide, training.plan.total or 0
        due = training.plan.step_at(share, training.recipe.optim.batch)
        if due is None or not share:
            return
        # A time budget may be converted to images, or be shortened, after this step has passed. The guide is
        # then saved late, but not in the second half of the budget: it would hardly be weaker than the run.
        late = not self._guided and due < training.step and training.seen <= total / 2
        if training.step == due or late:
            self._save_guide(training)

    def save_if_due(self, training: Training) -> None:
        """Save if the last checkpoint is older than `report.checkpoint` seconds.

        Do not call this between a step and its validation: a resumed run would miss the validation.
        """
        if time.monotonic() - self._last > training.recipe.report.checkpoint:
            self.save(training)

    def on_validation(self, training: Training, values: dict[str, float]) -> None:
        """See `Callback`."""
        error = values.get(training.recipe.report.best)
        counts = error is not None and math.isfinite(error) and _is_comparable(training)
        known = None if _is_outdated(training, self._best) else training.best
        if counts and (known is None or error < known):
            training.best, self._best = error, training.step
        training.due = False
        self.save(training)

    def on_end(self, training: Training) -> None:
        """See `Callback`."""
        if training.step != self._saved or training.stopped:
            if not training.weights_finite:
                raise NotFinite(f"the weights are not finite at the last step, {training.step}")
            self.save(training)

    def _save_guide(self, training: Training) -> None:
        """Keep the weights of this step in RUN/guide; an older guide is removed."""
        if self._is_broken(training):
            return
        folder = self.folder.parent / GUIDE
        checkpoint.save(folder, training.step, training.weights(), training.documents(), keep=1)
        self._guided = True

    def advise(self) -> str:
        """Return advice to a user after `NotFinite`: whether a checkpoint exists, and remedies to try."""
        if checkpoint.find_newest(self.folder):
            return "the last good checkpoint is kept; a lower optim.lr or --precision fp32 may help"
        return "no checkpoint was written yet; start a new run with a lower optim.lr or --precision fp32"

    @staticmethod
    def _is_broken(training: Training) -> bool:
        """Return whether a weight or too many losses are not finite, so a checkpoint would be useless."""
        return training.finite.in_a_row >= IN_A_ROW or not training.weights_finite

    def save(self, training: Training) -> None:
        """Write a checkpoint now, unless a weight or too many losses are not finite.

        In that case the last checkpoint is kept.

        Raises:
            NotFinite: if EMA weights or the state of the optimiser are not finite.
            NoSpace: if the disk has too little space.
        """
        if self._is_broken(training):
            return
        self.log.sync()
        best = self._best == training.step
        path = checkpoint.save(
            self.folder, training.step, training.tensors(), training.documents(), best=best
        )
        self._last, self._saved = time.monotonic(), training.step
        if not self._recorded:
            # If all checkpoints are lost later, this entry shows that the run once had a checkpoint.
            record_in_run(self.folder.parent, checkpointed=True)
            self._recorded = True
        for callback in self.others:
            callback.on_checkpoint(training, path)
