"""Train a new run, also from the weights of another run, resume a run, and distil a run into a student."""

import math
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ddim.data import SplitImages, split_images
from ddim.data.arrays import hold_images
from ddim.data.clusters import Clusters, average_cells, group_images
from ddim.data.images import gather_batch, to_unit
from ddim.data.open import absolute_source, source_exists
from ddim.data.vectors import match_vectors
from ddim.diffusion.denoiser import with_gradients
from ddim.diffusion.guidance import Interval
from ddim.diffusion.pixels import Pixels
from ddim.errors import UserError, quote, warn_user
from ddim.files import lock_folder, read_sealed, remove_leftovers
from ddim.machine.distributed import current_processes, join_processes
from ddim.machine.progress import Progress, ignore_progress
from ddim.machine.runtime import Runtime, check_runtime
from ddim.machine.startup import count_restarts, keep_freed_memory, read_rank
from ddim.recipe.checks import check_training, find_other_meaning
from ddim.recipe.codec import dump, load_recipe
from ddim.recipe.recipe import Fixed, Recipe
from ddim.recipe.user_parts import find_changed_parts, give_parts
from ddim.runs import checkpoint
from ddim.runs.folder import RUN, check_outside, check_unused, parse_out, record_in_run
from ddim.runs.log import RunLog, measure_pace, read_metrics
from ddim.runs.names import find_checkpoint, is_run_folder, pin_place
from ddim.runs.state import Plan
from ddim.sampling.images import check_same_split, open_source, reopen_split
from ddim.sampling.labels import count_classes, count_vectors
from ddim.sampling.pipeline import LoadedRun, load, load_state, read_conditions
from ddim.sampling.sampling_setup import OFF, collect_guidance
from ddim.training.budget import TimeBudget
from ddim.training.callbacks import Callback
from ddim.training.loop import Lead, fit
from ddim.training.machine import Machine
from ddim.training.memory import fit_memory
from ddim.training.progress import Display
from ddim.training.request import choose_recipe, describe_request, load_parent_recipe, use_data
from ddim.training.student import make_student, name_teacher, open_teacher_guidance
from ddim.training.trainer import Trainer
from ddim.training.validation import MeasureKID, prepare_kid
from ddim.training.writer import RunWriter, create_run, describe_run


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
    fields: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    source: str | Path | None = None,
    machine: Machine = Machine(),  # noqa: B008  (a frozen value)
    callbacks: Sequence[Callback] = (),
    progress: bool | Progress = True,
) -> Path:
    """Train a model on images and return the run folder.

    Args:
        data: a folder, an archive or the name of a built-in data set (see `ddim.data.open_images`); by
            default the source in the recipe. A tensor or array (N, C, H, W), or a `torch.utils.data.Dataset`,
            can be given too (see `ddim.data.arrays.give_images`); its images keep their size, and its labels
            are used if the network takes classes.
        recipe: the name of a recipe, a YAML file or a `Recipe`; by default that of `source`, else "fast".
        minutes: training time; by default the budget of the recipe, but never the images of `source`.
        images: training length in images, counting repetitions, in place of `minutes`.
        size: height and width in pixels, such as 64, "64x96" or (64, 96).
        labels: whether the network is conditioned on class labels, which are the names of the image folders;
            or "clusters:16" for 16 classes of similar images.
        seed: seed of the weights, the image order, the noise and the split.
        fields: other values for fields of the recipe, such as {"optim.lr": 1e-3}; see `ddim.find_recipe`.
        out: the run folder, by default runs/DATA-RECIPE-N.
        source: a run whose EMA weights the new run starts from. A recipe given by name also gets the field
            `pixels` of that run and, without `data`, its images; a `Recipe` must have the same `pixels`.
        machine: device, precision, compilation, threads, recomputation; by default chosen by measuring.
        callbacks: called during training, see `Callback`; `training.stop()` in one of them ends the run.
        progress: True shows a bar or lines, False shows nothing; or a function for decoding, see `Progress`.

    Raises:
        UserError: if the images, the recipe or the folder cannot be used.
        NotFinite, OutOfMemory: if the loss is not finite several times, or the memory is full.
        Interrupted: after a signal, when a checkpoint has been saved.

    Example:
        >>> run = ddim.train("photos/", minutes=10, size=64)
        >>> ddim.sheet(ddim.sample(run, n=16))
    """
    session = _Session(machine, callbacks, progress)
    options = {"images": images, "minutes": minutes, "seed": seed, "data.size": size, "data.labels": labels}
    # The images given from Python can be opened as long as this variable refers to their source.
    data = hold_images(data)
    requested, out = choose_recipe(recipe, data, {**options, **(fields or {})}, source), parse_out(out)
    with join_processes() as processes:
        check_outside(out or Path("runs"), requested.data.source)
        if out is not None and processes.leads:
            check_unused(out, f", or continue the run with `ddim train --resume --out {quote(out)}`")
        with prepare_training(requested, source, machine, session.decoding) as (trainer, sha256):
            measure_kid = prepare_kid(trainer)
            folder = None
            if processes.leads:
                asked = {"requested": describe_request(requested), "asked": vars(machine)}
                asked |= {"source": source and pin_place(str(source)), "source_sha256": sha256}
                held = requested.data.source, trainer.recipe, trainer.tensors(), trainer.documents()
                folder = create_run(out, *held, describe_run(trainer) | asked)
            folder = processes.broadcast(folder)
            with lock_folder(folder) if processes.leads else nullcontext():
                session.fit(trainer, folder, measure_kid, adapt=machine.threads is None)
    return folder


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
        callbacks, progress: as in `train`.

    Raises:
        UserError: if the folder is not a run, its checkpoints are lost, its images are missing or have
            changed, or a component in `own` is missing or has changed.
        NotFinite, OutOfMemory, Interrupted: see `train`.

    Example:
        >>> ddim.resume("runs/photos-fast-1", more=20)
    """
    session, folder = _Session(machine, callbacks, progress), Path(folder)
    give_parts(own)
    facts = read_sealed(folder / RUN)
    # The images given from Python can be opened as long as this variable refers to their source.
    data = hold_images(data, facts["recipe"]["data"]["values"])
    with join_processes() as processes, lock_folder(folder) if processes.leads else nullcontext():
        path = processes.broadcast(find_checkpoint(folder, writes=True) if processes.leads else None)
        recipe, state, source = _read_exactly(path), load_state(path), str(getattr(data, "text", data))
        # A repeated command may give the old path of images that have moved. This path no longer exists.
        if data is not None and state.images and processes.leads and source_exists(source):
            if open_source(source, recipe.data).fingerprint != state.images.fingerprint:
                raise UserError(f"data {source} does not hold the images on which {folder} was trained")
            record_in_run(folder, data={**facts["data"], "path": absolute_source(source)})
        processes.highest(0)  # all processes read the new place
        split = processes.local_first(lambda: reopen_split(folder, path, recipe, state, session.decoding))
        split = split.with_conditions(*read_conditions(path, recipe))
        threads = machine.threads or facts["asked"]["threads"]
        with keep_freed_memory(), machine.change(state.runtime, threads, processes) as runtime:
            trainer = Trainer(recipe, split, state.pixels, runtime, Plan(None))
            trainer.load({name: checkpoint.read_tensors(path, name) for name in trainer.tensors()}, state)
            plan = _extend_budget(trainer, folder, facts, more, images) if processes.leads else None
            trainer.plan = processes.broadcast(plan)
            if not trainer.complete:
                if processes.leads:
                    record_in_run(folder, asked={**facts["asked"], "threads": threads})
                session.fit(trainer, folder, prepare_kid(trainer), adapt=threads is None)
    return folder


def distill(  # noqa: PLR0913 (the choices of a notebook)
    run: str | Path,
    data: object = None,
    *,
    minutes: float | None = None,
    images: int | None = None,
    guidance: float | None = None,
    guidance_interval: Interval | None = None,
    guide_with: str | Path | None = None,
    fields: Mapping[str, Any] | None = None,
    own: Sequence[Any] = (),
    out: str | Path | None = None,
    machine: Machine = Machine(),  # noqa: B008  (a frozen value)
    callbacks: Sequence[Callback] = (),
    progress: bool | Progress = True,
) -> Path:
    """Train a student that needs only one or two steps for an image.

    The student starts from the EMA weights of the run, and learns its probability flow on the same images
    (consistency distillation, see `ddim.diffusion.loss.Consistency`). A step costs 1.5 times as much as one
    of the run, and more with guidance. `ddim search` finds the best second step of the student.

    Args:
        run: the teacher: a run folder, RUN/best or a checkpoint.
        data: the images, with the size and the labels of the run (default: the images of the run).
        minutes: training time of the student (default: 60).
        images: number of training images to see, repetitions counted, in place of minutes.
        guidance: guidance scale of the teacher (default: 1, off).
        guide_with: a weaker model with the same network, such as @guide (default: RUN without labels).
        fields: other values for fields of the student's recipe, such as --optim.lr 3e-4; see `ddim recipe`.
        own: the components of the run that you wrote; see `resume`.
        out: the folder of the student (default: a new runs/DATA-RECIPE-distilled-N).
        machine, progress: as in `train`.

    Other Parameters:
        guidance_interval: guide only at these log-SNRs, such as -2,5.
        callbacks: FILE.py:NAME of your own callback, may be repeated.

    Returns:
        The folder of the student.

    Raises:
        UserError: if the run cannot be distilled or guided in this way, or its images are missing, have
            changed or were not published. Also if images on which it was trained would be held out.
        NotFinite, OutOfMemory, Interrupted: see `train`.

    Example:
        >>> student = ddim.distill("runs/photos-fast-1", minutes=60)
        >>> ddim.sheet(ddim.sample(student, n=16))

    Commands:
        ddim distill runs/photos-fast-1 --minutes 120
        ddim distill runs/photos-fast-1 --guidance 2 --guide-with @guide
    """
    give_parts(own)
    if out is not None and _was_restarted(Path(out)):
        return resume(out, machine=machine, callbacks=callbacks, progress=progress)
    # The images given from Python can be opened as long as this variable refers to their source.
    data = hold_images(data)
    asked = collect_guidance(guidance, guidance_interval, guide_with)
    budget = {"minutes": minutes, "images": images}
    changes = {**(fields or {}), **{name: value for name, value in budget.items() if value is not None}}
    learned = open_teacher_guidance(load(run, device="cpu"), asked or OFF)
    parent = load_parent_recipe(run, own_images=data is not None or "data.source" in changes)
    recipe = make_student(parent, learned)
    recipe = use_data(recipe, data, {"data.labels": recipe.data.labels, **changes}, keep_size=False)
    return train(recipe=recipe, source=run, out=out, machine=machine, callbacks=callbacks, progress=progress)


def _was_restarted(out: Path) -> bool:
    """Return whether torchrun restarted these processes, after they had begun the run `out`."""
    with join_processes() as processes:
        begun = processes.broadcast((out / RUN).is_file() if processes.leads else None)
        return begun and processes.highest(count_restarts())[0] > 0


class _Session:
    """A call of `train` or `resume`: what it tells, and when it began."""

    def __init__(self, machine: Machine, callbacks: Sequence[Callback], progress: bool | Progress) -> None:
        check_runtime(machine.device, machine.precision, machine.threads)
        show = progress if read_rank() == 0 else False
        display = Display() if show is True else None
        self.decoding: Progress = display.prepare if display else show if callable(show) else ignore_progress
        self.hooks = [display, *callbacks] if display else callbacks
        self.began = time.monotonic()

    def fit(self, trainer: Trainer, folder: Path, measure_kid: MeasureKID, *, adapt: bool) -> None:
        """Train to the end; process 0 alone has the log, the clock and the callbacks. See `fit`."""
        if not trainer.processes.leads:
            fit(trainer, folder, measure_kid, None)
            return
        # A process that was killed may have left an unfinished sheet.
        remove_leftovers(folder / "samples")
        with RunLog(folder, trainer.step or None, trainer.due) as log:
            # The other processes of a training would count as other programs.
            adapt = adapt and trainer.runtime.device == "cpu" and trainer.processes.count == 1
            writer = RunWriter(trainer, folder, log, self.hooks)
            fit(trainer, folder, measure_kid, Lead(writer, TimeBudget(trainer, self.began), adapt))


def _read_exactly(path: Path) -> Recipe:
    """Return the recipe in a checkpoint of a run to resume.

    Raises:
        UserError: if a component that the user wrote is missing, or its source code has changed.
    """
    document = checkpoint.read_document(path, "recipe")
    with warnings.catch_warnings(action="ignore"):
        recipe = load_recipe(document)
    for part in find_changed_parts(document, dump(recipe)):
        advice = "restore the old code, or start a new run from its weights with source= or --from"
        raise UserError(f"the source code of {part} has changed since the run began: {advice}")
    return recipe


def _extend_budget(
    trainer: Trainer, folder: Path, facts: Mapping[str, Any], more: float | None, images: int | None
) -> Plan:
    """Return the plan of a run that is resumed, with a larger budget if one was ever asked for.

    Args:
        trainer: the training, loaded from its newest checkpoint.
        folder: the run folder; run.json records the larger budget.
        facts: the content of run.json. The process that recorded a larger budget there may have been killed
            before it saved a checkpoint with it.
        more: see `resume`.
        images: see `resume`.

    Raises:
        UserError: if the speed is not known yet.
    """
    plan, batch = trainer.plan, trainer.recipe.optim.batch
    pace = measure_pace(read_metrics(folder)) if more else None
    if (more or images) and plan.total is None or more and not pace:
        raise UserError(f"run {folder} has not measured its speed yet: resume it without a larger budget")
    if plan.total is None:
        return plan
    before = math.ceil(plan.total / batch) * batch
    known = max(facts.get("extended", 0), before)
    added = max(batch, round(more * 60 / pace)) if more and pace else 0
    wanted = math.ceil(max(known + added, images or 0) / batch) * batch
    if wanted > known:
        record_in_run(folder, extended=wanted)
    # A new plan forgets earlier changes of the budget, in which the learning rate went on from its value.
    return Plan(wanted) if wanted > before else plan


def open_split(recipe: Recipe, progress: Progress = ignore_progress) -> SplitImages:
    """Return the images of a recipe, split into training and validation images by its split seed.

    `progress` is called while images are decoded.

    Raises:
        UserError: if the images cannot be used, or are a run folder.
    """
    source = recipe.data.source
    # The sheets of samples in a run folder would be read as images.
    if is_run_folder(source):
        raise UserError(f"{source} is a run, not a folder of images: resume it, or give it to --from")
    return split_images(open_source(source, recipe.data, progress), recipe.data.validation, recipe.split_seed)


def measure_pixels(recipe: Recipe, split: SplitImages) -> Pixels:
    """Return the map between images and model units: fixed by the recipe, or measured on training images."""
    if isinstance(recipe.pixels, Fixed):
        return Pixels.fixed(recipe.pixels.mean, recipe.pixels.std, split.images.pixels.shape[-1])
    chunks = (split.train[k : k + 256] for k in range(0, len(split.train), 256))
    batches = (to_unit(gather_batch(split.images, chunk)) for chunk in chunks)
    return Pixels.measured(batches, recipe.pixels.std)


@contextmanager
def prepare_training(
    recipe: Recipe, source: str | Path | None, machine: Machine, progress: Progress = ignore_progress
) -> Generator[tuple[Trainer, str | None]]:
    """Open the images, choose the runtime, and yield a training at step 0; the runtime is left at the end.

    Args:
        recipe: the recipe of the run.
        source: the run whose EMA weights and pixels are used; None for random weights.
        machine: how the training uses the machine.
        progress: called while images are decoded.

    Yields:
        The training, and the SHA-256 of the checkpoint of `source`. It identifies the weights, because a
        source that is trained further has other weights.
    """
    parent, processes = None if source is None else load(source, device="cpu"), current_processes()
    # This check comes before the images are decoded, because decoding may take long.
    check_training(recipe, parent.recipe if parent else None)
    if parent and recipe.data.split_seed is None and recipe.seed != parent.recipe.split_seed:
        # Unless the user gives a split seed, the images that `parent` holds out are held out again.
        recipe = replace(recipe, data=replace(recipe.data, split_seed=parent.recipe.split_seed))
    split = processes.local_first(lambda: open_split(recipe, progress))
    channels = split.images.pixels.shape[-1]
    with keep_freed_memory(), machine.choose_for_all(recipe, channels, processes) as runtime:
        trainer = start_training(recipe, split, runtime, parent)
        sha256 = parent.checkpoint.sha256 if parent else None
        parent = None  # frees the memory of its network
        yield trainer, sha256


def start_training(recipe: Recipe, split: SplitImages, runtime: Runtime, parent: LoadedRun | None) -> Trainer:
    """Return a training at step 0, in parts of a batch that fit into the memory.

    Args:
        recipe: the recipe of the run.
        split: the images of the run, split into training and validation images.
        runtime: how the network runs.
        parent: the run whose EMA weights and pixels are used; None for random weights.

    Raises:
        UserError: if the images lack the labels or vectors that the recipe needs, or are too few for its
            clusters. Also if the new run does not fit `parent`, or the memory.
    """
    split = label_split(recipe, split, parent)
    recipe = count_vectors(count_classes(recipe, split.images), split.vectors)
    pixels = parent.pixels if parent else measure_pixels(recipe, split)
    if parent:
        _check_held_out(parent, recipe, split)
        recipe = name_teacher(recipe, parent, split)
    trainer = Trainer(recipe, split, pixels, runtime, Plan(recipe.images))
    if parent:
        trainer.start_from(parent.model.state_dict())
        if other := find_other_meaning(parent.recipe, recipe):
            advice = f"leave out --recipe and --{other} to keep the {other} of that run"
            warn_user(f"weights were trained with another {other}, so they must learn a new task: {advice}")
    if notice := fit_memory(trainer):
        warn_user(notice)
    return trainer


def label_split(recipe: Recipe, split: SplitImages, parent: LoadedRun | None) -> SplitImages:
    """Return the images with the labels of `data.labels`, if these are clusters, and `data.vectors`.

    Process 0 finds the clusters and reads the vectors, and all processes use them. If `parent` has clusters,
    the new run takes over their centres, because its network knows these classes. For the same reason it
    takes over the mean and deviation of vectors of the same columns.

    Raises:
        UserError: if there are too few images, or the file of vectors does not fit them.
    """
    data, images, processes, clusters, vectors = recipe.data, split.images, current_processes(), None, None
    if processes.leads and isinstance(data.labels, Clusters):
        cells = average_cells(images.pixels, images.values, np.arange(len(images)))
        if parent and parent.clusters is not None:
            clusters = parent.clusters.assign(cells, split.train)
        else:
            clusters = group_images(cells, split.train, data.labels.count, data.flip, recipe.seed)
    if processes.leads and data.vectors is not None:
        vectors, known = match_vectors(data.vectors, images.names, split.train), parent and parent.vectors
        if known and known.columns == vectors.columns:
            vectors = replace(vectors, mean=known.mean, deviation=known.deviation)
    clusters, vectors = processes.broadcast((clusters, vectors))
    return split.with_conditions(clusters, vectors)


def _check_held_out(parent: LoadedRun, recipe: Recipe, new: SplitImages) -> None:
    """Check that no image on which `parent` was trained is held out in a new run from its weights.

    Args:
        parent: the run whose weights the new run starts from.
        recipe: the recipe of the new run.
        new: the images of the new run.

    Raises:
        UserError: if the errors on held-out images would be too low, or the images of `parent` are now split
            in another way.
    """
    before, known = parent.recipe, parent.checkpoint.state.images
    if known is None or not len(new.validation):
        return
    split = split_images(new.images, before.data.validation, before.split_seed)
    # The same images have another fingerprint if they have another size.
    resized = before.data.source == recipe.data.source and len(split.train) == known.train
    if known.fingerprint != new.images.fingerprint and not resized:
        return
    check_same_split(split, known.train)
    if not np.isin(new.validation, split.validation).all():
        share, seed = before.data.validation, before.split_seed
        advice = f"use at most its --data.validation {share:g} and no other --data.split_seed than {seed}"
        raise UserError(f"images on which the run of --from was trained would be held out: {advice}")
