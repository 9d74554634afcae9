"""Write the files of a run: run.json, log, sheets of samples, checkpoints and snapshots."""

import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddim.data.arrays import PREFIX
from ddim.data.images import gather_batch
from ddim.data.open import absolute_source
from ddim.diffusion.loss import Objective
from ddim.errors import NotFinite
from ddim.files import publish_folder, temporary_folder, write_atomic, write_sealed
from ddim.machine.distributed import Processes, act_as
from ddim.nn.power_averages import GAMMAS, is_snapshot_step, list_powers
from ddim.plots.pictures import enlarge, make_sheet, save_png
from ddim.recipe.codec import dump, write_recipe
from ddim.recipe.recipe import Recipe
from ddim.runs import checkpoint
from ddim.runs.averages import FOLDER, SNAPSHOTS
from ddim.runs.checkpoint import Documents, Tensors
from ddim.runs.folder import CHECKPOINTS, REAL_IMAGES, RUN, make_run_folder, sheet_path
from ddim.runs.log import RunLog
from ddim.sampling.record import list_versions
from ddim.training.callbacks import Callback
from ddim.training.trainer import Trainer

PAUSE = 120.0
"""The least seconds between two checkpoints, unless `report.checkpoint` gives a number."""

SAVING = 30
"""A checkpoint is saved no sooner than after this many times the seconds that the last one took."""


def create_run(
    out: Path | None, source: str, recipe: Recipe, tensors: Tensors, documents: Documents, facts: Documents
) -> Path:
    """Write the folder of a new run, with its first checkpoint, and return its path.

    The folder appears as a whole, so a run that has a folder can always be resumed.

    Args:
        out: a new or empty folder; None for a new one in runs/.
        source: the images or the model after which a new folder in runs/ is named.
        recipe: the recipe of the run.
        tensors: the tensors of its checkpoint.
        documents: the JSON documents of its checkpoint.
        facts: what else run.json says about the run, see `describe_run`.
    """
    with temporary_folder((out or Path("runs") / "new").resolve()) as temporary:
        # This file is for readers and for --recipe; `resume` reads the recipe in the checkpoint instead.
        write_atomic(temporary / "recipe.yaml", write_recipe(recipe).encode())
        write_sealed(temporary / RUN, {"recipe": dump(recipe), **facts})
        checkpoint.save(temporary / CHECKPOINTS, 0, tensors, documents)
        # path/to/flowers64.zip gives the name flowers64, and ".." the name of that folder.
        name = re.split("[.:@]", Path(source.removeprefix(PREFIX)).name)[0] or source
        folder = make_run_folder(out, name, recipe.name)
        publish_folder(temporary, folder.resolve())
    return folder


def describe_run(trainer: Trainer) -> dict[str, Any]:
    """Return what run.json says about a new training, beside its recipe: images, runtime and versions."""
    split, source = trainer.split, trainer.recipe.data.source
    data: dict[str, Any] = {
        "source": source,
        "path": absolute_source(source),
        "fingerprint": split.images.fingerprint,
        "images": len(split.images),
        "train": len(split.train),
        "valid": len(split.validation),
        "classes": list(split.images.classes),
    }
    if vectors := split.vectors:
        rows = vectors.rows[vectors.train]
        ends = {"low": rows.min(0).tolist(), "high": rows.max(0).tolist()}
        data["vectors"] = {"columns": list(vectors.columns), "sha256": vectors.sha256, **ends}
    return {
        "data": data,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "runtime": vars(trainer.runtime),
        "versions": list_versions(),
    }


class RunWriter:
    """Writes the files of a run, and calls the callbacks after each of them.

    The newest two checkpoints are kept, and the one with the lowest value of the metric `report.best`.

    Args:
        trainer: the training.
        folder: the run folder, which has a checkpoint of the current step.
        log: the log of the run.
        callbacks: the user's callbacks, and the one that shows the progress.
    """

    def __init__(self, trainer: Trainer, folder: Path, log: RunLog, callbacks: Sequence[Callback]) -> None:
        self.trainer, self.folder, self.log, self.callbacks = trainer, folder, log, callbacks
        self.checkpoints = folder / CHECKPOINTS
        self._save_seconds = 0.0
        self._note_saved()
        # If the best checkpoint is saved again at the same step, it keeps its mark.
        best = checkpoint.read_newest(self.checkpoints, checkpoint.read_manifest, best=True, writes=True)
        self._best = best.step if best else -1

    def start(self) -> None:
        """Write what a run shows from its beginning, and call `on_start` of the callbacks."""
        trainer = self.trainer
        # A resumed training writes later snapshots again.
        checkpoint.remove_later(self.folder / FOLDER / SNAPSHOTS, trainer.step)
        if not trainer.step:
            self._write_real_images()
        self._tell("on_start", self.folder)

    def finish_step(self, values: Mapping[str, float], notice: str) -> None:
        """Write what is due after a step, and call `on_step`: a line of the log, a snapshot.

        `notice` is a sentence about a change in this step, or "".
        """
        trainer = self.trainer
        if trainer.step % trainer.recipe.report.log == 0:
            sums = {name: float(value) for name, value in trainer.sums.items()}
            count = sums.pop("steps")
            self._write_line({name: value / count for name, value in sums.items()})
            trainer.sums.clear()
        self._keep_snapshot()
        self._tell("on_step", values)
        if notice:
            self.announce(notice)

    def finish_validation(self, values: dict[str, float]) -> None:
        """Write the sheet of samples and the results of a validation, and call the callbacks."""
        trainer, sheet = self.trainer, make_sheet(self.trainer.samples)
        save_png(sheet_path(self.folder, trainer.step), enlarge(sheet))
        self.log.image(trainer.step, "samples", sheet)
        self._tell("on_sheet", sheet)
        if values:
            self._write_line(values)
        error = values.get(trainer.recipe.report.best)
        if error is not None and math.isfinite(error) and self._has_last_loss(trainer.step):
            known = trainer.best if self._has_last_loss(self._best) else None
            # While guidance is learnt, and while a student learns to predict samples in place of their mean,
            # the error rises, so the newest validation is taken for the best.
            learns_samples = trainer.learns_guidance or trainer.recipe.is_student
            rising = learns_samples and trainer.recipe.report.best != "kid"
            if known is None or error < known or rising:
                trainer.best, self._best = error, trainer.step
        self._tell("on_validation", values)

    def announce(self, text: str) -> None:
        """Log a change of threads, planned images or parts of a batch, and call `on_change` with a sentence.

        The next `save_if_due` saves, so that a run that is resumed from there has the same choices.
        """
        self._changed = True
        values = {"threads": self.trainer.runtime.threads, "planned_images": self.trainer.plan.total}
        self._write_line({name: value for name, value in values.items() if value is not None})
        self._tell("on_change", text)

    def save_if_due(self) -> None:
        """Save if something was announced, or the newest checkpoint is older than `report.checkpoint`.

        Do not call this between a step and its validation: a resumed run would miss the validation.
        """
        pause = self.trainer.recipe.report.checkpoint
        if pause is None:
            pause = max(PAUSE, SAVING * self._save_seconds)
        if self._changed or time.monotonic() - self._saved_at > pause:
            self.save()

    def save(self) -> None:
        """Write a checkpoint now, unless a weight or too many losses are not finite.

        In that case the last checkpoint is kept.

        Raises:
            NotFinite: if EMA weights or the state of the optimiser are not finite.
            NoSpace: if the disk has too little space.
        """
        trainer = self.trainer
        if not trainer.savable:
            return
        began = time.monotonic()
        self.log.sync()
        held = trainer.tensors(), trainer.documents()
        path = checkpoint.save(self.checkpoints, trainer.step, *held, best=self._best == trainer.step)
        self._save_seconds = time.monotonic() - began
        self._note_saved()
        self._tell("on_checkpoint", path)

    def finish(self) -> None:
        """Save the last step if it is not saved yet, and call `on_end`.

        Raises:
            NotFinite: if the weights are not finite, so that they cannot be saved.
        """
        if not self.saved:
            self.save()
        if not self.saved:
            raise NotFinite("the weights are not finite at the last step: the last good checkpoint is kept")
        self._tell("on_end")

    @property
    def saved(self) -> bool:
        """Whether the newest checkpoint is of this moment."""
        return self._moment == self._saved

    @property
    def _moment(self) -> tuple[int, bool, str | None]:
        """What differs between two checkpoints of a run."""
        return self.trainer.step, self.trainer.due, self.trainer.stopped

    def _note_saved(self) -> None:
        """Note that the newest checkpoint is of this moment."""
        self._saved, self._saved_at, self._changed = self._moment, time.monotonic(), False

    def _tell(self, event: str, *values: object) -> None:
        """Call the method `event` of each callback."""
        # A callback that samples or evaluates must not wait for the other processes.
        with act_as(Processes()):
            for hook in self.callbacks:
                getattr(hook, event)(self.trainer, *values)

    def _write_line(self, values: Mapping[str, float]) -> None:
        self.log.write(self.trainer.step, self.trainer.seen, values)
        self._tell("on_log", values)

    def _write_real_images(self) -> None:
        """Write samples/real.png: held-out images for comparison, or training images if none are held out."""
        split, report = self.trainer.split, self.trainer.recipe.report
        real = split.validation if len(split.validation) else split.train
        # Images next to each other in a folder are often alike, so the sheet takes evenly spaced ones.
        real = real[np.linspace(0, len(real) - 1, min(report.grid, len(real))).round().astype(int)]
        (self.folder / REAL_IMAGES).parent.mkdir(exist_ok=True)
        save_png(self.folder / REAL_IMAGES, enlarge(make_sheet(gather_batch(split.images, real))))

    def _keep_snapshot(self) -> None:
        """Write a snapshot of two averages, from which `ddim ema` reconstructs others, if one is due.

        A resumed run writes the snapshots of all steps after its checkpoint again, with the same bytes.
        """
        trainer, count = self.trainer, self.trainer.recipe.report.snapshots
        # Averages of weights that are not finite are useless, and they would replace an older snapshot.
        if is_snapshot_step(trainer.step, count) and trainer.savable:
            powers = list_powers(trainer.rules)
            averages = {str(gamma): trainer.averages[powers[gamma]] for gamma in GAMMAS}
            checkpoint.save(self.folder / FOLDER / SNAPSHOTS, trainer.step, averages, {}, keep=count)

    def _has_last_loss(self, step: int) -> bool:
        """Return whether `report.best` of a step can be compared with its value at the end of the run.

        If `objective.finish` changes the loss to the squared error, the error of the image rises, which is an
        absolute error. KID keeps its meaning.
        """
        if not isinstance(self.trainer.recipe.objective, Objective):
            return True
        recipe, plan, batch = self.trainer.recipe, self.trainer.plan, self.trainer.recipe.optim.batch
        # The images seen before the update of this step, and before the last update of the run.
        seen, last = (step - 1) * batch, math.ceil((plan.total or sys.maxsize) / batch - 1) * batch
        same = recipe.objective.at(plan.fraction(seen), seen) == recipe.objective.at(1.0, last)
        return same or recipe.report.best == "kid"
