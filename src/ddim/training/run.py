"""Train a new run into a run folder, and resume a run."""

import math
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from statistics import median_high
from typing import Any

from ddim.data import SplitImages, split_images
from ddim.data.arrays import give_images
from ddim.data.open import source_exists
from ddim.diffusion.denoiser import with_gradients
from ddim.errors import UserError
from ddim.files import lock_folder, read_sealed
from ddim.machine.distributed import current_processes, join_processes
from ddim.machine.progress import Progress
from ddim.machine.startup import read_rank
from ddim.recipe.codec import dump, load_recipe
from ddim.recipe.recipe import Recipe
from ddim.recipe.user_parts import find_changed_parts, give_parts
from ddim.runs import checkpoint
from ddim.runs.folder import RUN, check_outside, check_unused, parse_out, record_in_run
from ddim.runs.log import RunLog, read_metrics
from ddim.runs.names import find_checkpoint, pin_place
from ddim.runs.state import Plan
from ddim.sampling.images import record_new_place, reopen_images
from ddim.sampling.pipeline import load_state, load_vectors, read_clusters
from ddim.training.budget import TimeBudget
from ddim.training.callbacks import Callback
from ddim.training.loop import Lead, fit
from ddim.training.progress import split_progress
from ddim.training.request import choose_recipe, describe_request
from ddim.training.start import Machine, check_machine, prepare_training
from ddim.training.trainer import Trainer
from ddim.training.validation import MeasureKID, prepare_kid
from ddim.training.writer import RunWriter, create_run


@with_gradients
def train(  # noqa: PLR0913 (the choices of a notebook)
    data: object = None,
    recipe: str | Recipe | None = None,
    *,
    minutes: float | None = None,
    images: int | None = None,
    size: int | str | tuple[int, int] | None = None,
    labels: bool | str | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    source: str | Path | None = None,
    machine: Machine = Machine(),  # noqa: B008  (a frozen value)
    callbacks: Sequence[Callback] = (),
    progress: bool | Progress = True,
) -> Path:
    """Train a model on images and return the run folder.

    Args:
        data: a folder, an archive or the name of a built-in data set (see `ddim.data.open_images`); by
            default the source in the recipe. A tensor or array of images, or a `torch.utils.data.Dataset`,
            can be given too (see `ddim.data.arrays.give_images`). By default, its images keep their size,
            like those of a .npy or .npz file. Its labels are used if it has labels and the network takes
            classes.
        recipe: the name of a recipe, a YAML file or a `Recipe`; by default that of `source`, else "fast".
        minutes: training time; by default the budget of the recipe, but never the images of `source`.
        images: training length in images, counting repetitions, in place of `minutes`.
        size: height and width in pixels, such as 64, "64x96" or (64, 96).
        labels: whether the network is conditioned on class labels, which are the names of the image folders;
            or "clusters:16" for 16 classes of similar images, see `ddim.data.clusters`.
        seed: seed of the weights, the image order, the noise and the split.
        out: the run folder, by default runs/DATA-RECIPE-N.
        source: a run whose EMA weights the new run starts from. A recipe given by name also gets the field
            `pixels` of that run and, without `data`, its images; a `Recipe` must have the same `pixels`.
        machine: device, precision, compilation, threads, recomputation; by default chosen by measuring.
        callbacks: called during training, see `Callback`; `training.stop()` in one of them ends the run.
        progress: True shows a bar or lines, False shows nothing; or a function for decoding, see `Progress`.

    Raises:
        UserError: if the images, the recipe or the folder cannot be used.
        NotFinite: if the loss is not finite several times in a row.
        OutOfMemory: if the memory is full, and a batch cannot be trained in smaller parts.
        Interrupted: after a signal, when a checkpoint has been saved.

    Example:
        >>> run = ddim.train("photos/", minutes=10, size=64)
        >>> ddim.sheet(ddim.sample(run, n=16))
    """
    session = _Session(machine, callbacks, progress)
    fields = {"images": images, "minutes": minutes, "seed": seed, "data.size": size, "data.labels": labels}
    # The images given from Python can be opened as long as this variable refers to their source.
    data = data if isinstance(data, str | Path | None) else give_images(data)
    requested = choose_recipe(recipe, data, fields, source)
    with join_processes():
        return _start(requested, parse_out(out), source, session)


@with_gradients
def resume(  # noqa: PLR0913 (the choices of a notebook)
    folder: str | Path,
    *,
    more: float | None = None,
    images: int | None = None,
    data: object = None,
    own: Sequence[Any] = (),
    machine: Machine = Machine(),  # noqa: B008  (a frozen value)
    callbacks: Sequence[Callback] = (),
    progress: bool | Progress = True,
) -> Path:
    """Continue a run and return its folder; on a CPU the result is bit-identical to an uninterrupted run.

    On a GPU the last bits may differ. A finished run stays as it is. With a larger budget, `more` or
    `images`, it is trained longer.

    Args:
        folder: the run folder.
        more: minutes to train longer than planned, at the speed in the log of the run.
        images: a larger budget of training images; a smaller one changes nothing.
        data: the new path of the images, if they have moved; the run records this path. If the images were
            given from Python in another process, give the images themselves.
        own: the components of the run that you wrote, such as [MySchedule, MyNetwork]. A run folder stores
            only their names and the hashes of their sources. The process that started the run can omit them.
        machine: another device, precision, compilation or number of threads, used from here on. What it does
            not name stays as recorded; another choice changes the last bits of the results.
        callbacks: as in `train`.
        progress: as in `train`.

    Raises:
        UserError: if the folder is not a run, its checkpoints are lost, its images are missing or have
            changed, or a component in `own` is missing or has changed.
        NotFinite, OutOfMemory, Interrupted: see `train`.

    Example:
        >>> ddim.resume("runs/photos-fast-1", more=20)
    """
    session, folder = _Session(machine, callbacks, progress), Path(folder)
    give_parts(own)
    values = read_sealed(folder / RUN)["recipe"]["data"]["values"]
    # The images given from Python can be opened as long as this variable refers to their source.
    data = data if isinstance(data, str | Path | None) else give_images(data, values)
    with join_processes() as processes, lock_folder(folder) if processes.leads else nullcontext():
        source = str(getattr(data, "text", data))
        # A repeated command may give the old path of images that have moved. This path no longer exists.
        if data is not None and processes.leads and source_exists(source):
            record_new_place(folder, source)
        processes.highest(0)  # all processes read the new place
        _continue(folder, more, images, session)
    return folder


class _Session:
    """A call of `train` or `resume`: how it uses the machine, what it tells, and when it began."""

    def __init__(self, machine: Machine, callbacks: Sequence[Callback], progress: bool | Progress) -> None:
        check_machine(machine)
        shown, self.decoding = split_progress(read_rank() == 0 and progress)
        self.machine, self.hooks, self.began = machine, [*shown, *callbacks], time.monotonic()

    def fit(self, trainer: Trainer, folder: Path, measure_kid: MeasureKID, *, adapt: bool) -> None:
        """Train to the end; process 0 alone has the log, the clock and the callbacks. See `fit`."""
        if not trainer.processes.leads:
            fit(trainer, folder, measure_kid, None)
            return
        with RunLog(folder, trainer.step or None, trainer.due) as log:
            # The other processes of a training would count as other programs.
            adapt = adapt and trainer.runtime.device == "cpu" and trainer.processes.count == 1
            writer = RunWriter(trainer, folder, log, self.hooks)
            fit(trainer, folder, measure_kid, Lead(writer, TimeBudget(trainer, self.began), adapt))


def _start(requested: Recipe, out: Path | None, source: str | Path | None, session: _Session) -> Path:
    """Train a new run and return its folder; see `train`."""
    processes, machine = current_processes(), session.machine
    check_outside(out or Path("runs"), requested.data.source)
    if out is not None and processes.leads:
        check_unused(out, ", or continue the run with resume")
    with prepare_training(requested, source, machine, session.decoding) as (trainer, sha256):
        measure_kid = prepare_kid(trainer)
        facts = {
            "requested": describe_request(requested),
            "asked": vars(machine),
            "source": None if source is None else pin_place(str(source)),
            "source_sha256": sha256,
        }
        folder = processes.broadcast(create_run(trainer, out, **facts) if processes.leads else None)
        with lock_folder(folder) if processes.leads else nullcontext():
            session.fit(trainer, folder, measure_kid, adapt=machine.threads is None)
    return folder


def _continue(folder: Path, more: float | None, images: int | None, session: _Session) -> None:
    """Continue a run from its newest checkpoint; see `resume`."""
    processes, facts, machine = current_processes(), read_sealed(folder / RUN), session.machine
    path = processes.broadcast(find_checkpoint(folder) if processes.leads else None)
    recipe, state = _read_exactly(path), load_state(path)

    def reopen() -> SplitImages:
        reopened = reopen_images(folder, recipe.data, facts["data"]["fingerprint"], session.decoding)
        return split_images(reopened, recipe.data.validation, recipe.split_seed)

    split = processes.local_first(reopen)
    split = split.with_clusters(read_clusters(path, recipe)).with_vectors(load_vectors(path, recipe))
    threads = machine.threads or facts["asked"]["threads"]
    with machine.change(state.runtime, threads, processes) as runtime:
        trainer = Trainer(recipe, split, state.pixels, runtime, Plan(None))
        trainer.load({name: checkpoint.read_tensors(path, name) for name in trainer.tensors()}, state)
        if processes.leads:
            trainer.plan = _extend_budget(trainer, folder, facts.get("extended", 0), more, images)
        trainer.plan = processes.broadcast(trainer.plan)
        if trainer.complete:
            return
        if processes.leads:
            record_in_run(folder, asked={**facts["asked"], "threads": threads})
        session.fit(trainer, folder, prepare_kid(trainer), adapt=threads is None)


def _read_exactly(path: Path) -> Recipe:
    """Return the recipe in a checkpoint of a run to resume.

    Raises:
        UserError: if a component that the user wrote is missing, or its source code has changed.
    """
    document = checkpoint.read_document(path, "recipe")
    with warnings.catch_warnings(action="ignore"):
        recipe = load_recipe(document)
    for part in find_changed_parts(document, dump(recipe)):
        raise UserError(
            f"the source code of {part} has changed since the run began, so it cannot be resumed exactly: "
            "restore the old code, or start a new run from its weights with source= or --from"
        )
    return recipe


def _extend_budget(
    trainer: Trainer, folder: Path, recorded: int, more: float | None, images: int | None
) -> Plan:
    """Return the plan of a run that is resumed, with a larger budget if one was ever asked for.

    Args:
        trainer: the training, loaded from its newest checkpoint.
        folder: the run folder; run.json records the larger budget.
        recorded: the larger budget in run.json. The process that recorded it may have been killed before it
            saved a checkpoint with it.
        more: see `resume`.
        images: see `resume`.

    Raises:
        UserError: if the speed is not known yet.
    """
    plan, batch = trainer.plan, trainer.recipe.optim.batch
    if plan.total is None:
        if more or images:
            raise UserError(f"run {folder} is still measuring its speed: resume it without a larger budget")
        return plan
    before = math.ceil(plan.total / batch) * batch
    known = max(recorded, before)
    added = max(batch, round(more * 60 * _read_speed(folder))) if more else 0
    wanted = math.ceil(max(known + added, images or 0) / batch) * batch
    if wanted > known:
        record_in_run(folder, extended=wanted)
    # A new plan forgets earlier changes of the budget, in which the learning rate went on from its value.
    return Plan(wanted) if wanted > before else plan


def _read_speed(folder: Path) -> float:
    """Return the median of the images per second between two lines with losses in the log of a run."""
    lines = [line for line in read_metrics(folder) if "loss" in line]
    times = [(new["images"] - old["images"], new["time"] - old["time"]) for old, new in pairwise(lines)]
    speeds = [images / seconds for images, seconds in times if seconds > 0]
    if not speeds:
        raise UserError(f"run {folder} is too short to know its speed: give the new budget in images")
    return median_high(speeds)
