"""Resume a run with a larger budget, or a run whose checkpoints are lost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ddim.errors import UserError, to_float
from ddim.files import lock_folder, read_sealed
from ddim.runs import checkpoint
from ddim.runs.averages import FOLDER as AVERAGES
from ddim.runs.folder import CHECKPOINTS, RUN, make_numbered_folder, record_in_run
from ddim.runs.log import METRICS, read_metrics
from ddim.runs.run_path import GUIDE
from ddim.runs.state import Plan
from ddim.sampling.searched import FILE as SEARCHED
from ddim.training.loop import Training
from ddim.training.pace import format_minutes

PAUSE = 10
"""The time between two log lines counts as a pause if it is more than this many times the median."""


@dataclass(frozen=True)
class Larger:
    """A larger budget that the user gives to a run.

    Attributes:
        more: minutes of training beyond the present budget, at the speed in the log of the run.
        images: the new budget in images, in place of `more`.

    Raises:
        UserError: if both are given, `more` is not a finite number, or `images` is not a whole number.
    """

    more: float | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        if self.asked and None not in (self.more, self.images):
            raise UserError("give more or images, not both")
        if self.more is not None and to_float("more (--more)", self.more) == math.inf:
            raise UserError("more (--more) must be a number of minutes, got inf")
        if self.images is not None and not to_float("images", self.images).is_integer():
            raise UserError(f"images must be a whole number, got {self.images}")

    @property
    def asked(self) -> bool:
        """Whether the user gave a larger budget."""
        return self.more is not None or self.images is not None


def extend_budget(training: Training, folder: Path, larger: Larger) -> None:
    """Raise the budget of a restored run, and save the new budget in run.json and its newest checkpoint.

    The learning rate continues as if its decay had been planned over the new budget from the start. If
    run.json has a larger budget than the newest checkpoint, the run gets this budget even if the user asks
    for none: an earlier process was killed before it saved a checkpoint with it, or this checkpoint is lost.

    Args:
        training: the training, restored from its newest checkpoint.
        folder: the run folder.
        larger: the larger budget that the user asks for, if any.

    Raises:
        UserError: if `images` is less than the present budget, `more` is not above 0, the speed is not known,
            or the run has not yet converted its minutes to images.
    """
    entries = read_sealed(folder / RUN).get("extended", [])
    if entries and (training.plan.total or 0) < entries[-1]["to_images"]:
        _save_budget(training, folder, entries[-1]["to_images"])
    if not larger.asked:
        return
    old, batch, more, images = training.plan.total, training.recipe.optim.batch, larger.more, larger.images
    if old is None:
        raise UserError(
            f"run {folder} has not yet converted its {format_minutes(training.recipe.minutes)} to images: "
            "resume it without a larger budget first"
        )
    if images is not None and math.ceil(images / batch) == math.ceil(old / batch):
        # A budget is trained in whole batches, so this is the present budget.
        return
    if images is not None and images < old:
        raise UserError(
            f"run {folder} has images = {old}, but the request has images = {images}: give a larger number "
            "to train longer"
        )
    if images is None:
        if more is None or not more > 0:
            raise UserError(f"more (--more) must be above 0, got {more}")
        images = old + max(batch, round(more * 60 * _measure_pace(folder)))
    total = math.ceil(images / batch) * batch
    entry = {
        "at_images": training.seen,
        "from_images": old,
        "to_images": total,
        "more_minutes": None if more is None else float(more),
        "lr": Plan(total).rate(training.recipe.optim, training.seen),
    }
    record_in_run(folder, extended=[*entries, entry])
    _save_budget(training, folder, total)


def _save_budget(training: Training, folder: Path, total: int) -> None:
    """Set the budget of a restored run to `total` images, and save it in the newest checkpoint."""
    training.extended = training.plan.total
    # The new plan forgets earlier changes of the budget, in which the learning rate went on from its value.
    training.plan = Plan(total)
    there = folder / CHECKPOINTS
    best = checkpoint.find_best_step(there) == training.step
    checkpoint.save(there, training.step, training.tensors(), training.documents(), best=best)


def check_never_saved(folder: Path, document: dict[str, Any], larger: bool = False) -> None:
    """Check that a run has never saved a checkpoint, so that it can start again at step 0.

    This is called if the run has no intact checkpoint.

    Args:
        folder: the run folder.
        document: the content of its run.json.
        larger: whether a larger budget is asked for.

    Raises:
        UserError: if a checkpoint was saved (the message names what is missing or damaged), or if `larger` is
            true.
    """
    if larger:
        raise UserError(
            f"run {folder} has no checkpoint to train longer from: resume it without a larger budget first"
        )
    if not document.get("checkpointed", True):
        return
    there = folder / CHECKPOINTS
    damaged = sorted(path.name for path in there.glob("damaged-*"))
    what = f"the checkpoints in {there} are damaged ({', '.join(damaged)})"
    if not damaged:
        what = f"{there} {'holds no checkpoint' if there.is_dir() else 'is missing'}"
    raise UserError(
        f"run {folder} cannot be resumed: {what}; put a checkpoint back, or train it again from its start "
        "with --restart, which keeps the old log"
    )


def set_aside(folder: Path) -> Path | None:
    """Move log, samples, averages, damaged checkpoints and what searches saved; return their new folder.

    If there is nothing to move, return None. After this, `resume` starts the run again at step 0, with the
    budget of its recipe: larger budgets that it got later are forgotten.

    Raises:
        UserError: if the run has an intact checkpoint.
    """
    with lock_folder(folder):
        return _set_aside(folder)


def _set_aside(folder: Path) -> Path | None:
    if path := checkpoint.find_newest(folder / CHECKPOINTS):
        raise UserError(f"run {folder} has checkpoint {path.name}: resume it without --restart")
    names = (METRICS, "events", "samples", CHECKPOINTS, GUIDE, AVERAGES, SEARCHED)
    there = [folder / name for name in names if (folder / name).exists()]
    if not there:
        # A restart that was killed had moved everything, but may not have recorded it.
        record_in_run(folder, checkpointed=False, extended=[])
        return None
    aside = make_numbered_folder(folder, "before-restart-")
    for path in there:
        path.rename(aside / path.name)
    record_in_run(folder, checkpointed=False, extended=[])
    return aside


def _measure_pace(folder: Path) -> float:
    """Return the images per second of training in the newest half of a run's log.

    An interval between two log lines is left out if it includes a validation or a pause (see `PAUSE`). If the
    log is so short that every interval includes a validation, intervals with validations are used too.
    """
    lines = read_metrics(folder)
    pairs = list(zip(lines, lines[1:], strict=False))
    # Only the lines of training have a loss.
    pairs = [pair for pair in pairs if all("loss" in line for line in pair)] or pairs
    steps = [(new["images"] - old["images"], new["time"] - old["time"]) for old, new in pairs]
    steps = [(count, seconds) for count, seconds in steps if seconds > 0][-max(1, len(pairs) // 2) :]
    usual = median(seconds for _, seconds in steps) if steps else 0.0
    kept = [(count, seconds) for count, seconds in steps if seconds <= PAUSE * usual]
    images, seconds = (sum(values) for values in zip(*kept, strict=True)) if kept else (0, 0.0)
    if not images:
        raise UserError(f"run {folder} is too short to know its speed: give the new budget in images")
    return images / seconds
