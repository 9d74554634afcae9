"""Train a new run into a run folder, and resume a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ddim.errors import Interrupted, NotFinite, UserError
from ddim.files import TEMPORARY, read_json, write_json
from ddim.nn.runtime import Runtime, check_runtime, find_device
from ddim.runs import checkpoint
from ddim.runs.codec import write_recipe
from ddim.runs.folder import RUN, check_unused, make_run_folder
from ddim.runs.lock import lock_folder
from ddim.runs.log import RunLog
from ddim.runs.own_parts import give_parts
from ddim.runs.pipeline import load_state, read_run_recipe
from ddim.runs.progress import Progress
from ddim.runs.recipe import Recipe
from ddim.runs.recipe_checks import check_training
from ddim.runs.signals import note_interrupts
from ddim.runs.state import RunState
from ddim.training.budget import TimeBudget
from ddim.training.callbacks import Callback, Checkpoints, Log, SampleGrid
from ddim.training.display import split_progress
from ddim.training.kid import MeasureKID, prepare_kid
from ddim.training.loop import Plan, Training
from ddim.training.resumption import check_never_saved, extend_budget
from ddim.training.run_document import describe_run, name_data
from ddim.training.start import (
    Machine,
    accept_images,
    change_recipe,
    check_network,
    estimate_seconds,
    load_named_recipe,
    load_parent,
    open_split,
    read_exactly,
    reopen_split,
    start_training,
    use_data,
)
from ddim.training.threads import ThreadWatch, fit_to_machine
from ddim.training.validation import validate


def train(  # noqa: PLR0913 (the choices of a notebook)
    data: object = None,
    recipe: str | Recipe = "fast",
    *,
    minutes: float | None = None,
    images: int | None = None,
    size: int | str | tuple[int, int] | None = None,
    labels: bool | None = None,
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
            can be given too (see `ddim.data.give_images`): by default its images keep their size, and its
            labels are used if it has labels and the network takes classes.
        recipe: the name of a recipe, a YAML file or a `Recipe`.
        minutes: training time; by default the budget of the recipe.
        images: training length in images, with repetitions, in place of `minutes`.
        size: height and width in pixels, such as 64, "64x96" or (64, 96).
        labels: whether the network is conditioned on class labels, the names of the image folders.
        seed: seed of the weights, the image order, the noise and the split.
        out: the run folder, by default runs/DATA-RECIPE-N.
        source: a run whose EMA weights the new run starts from. A recipe given by name also gets the field
            `pixels` of that run; a `Recipe` must have the same `pixels`.
        machine: device, precision, compilation and threads; by default chosen by measuring.
        callbacks: called during training, see `Callback`; `training.stop()` in one of them ends the run.
        progress: True shows a bar and samples in a notebook cell, and lines elsewhere; False shows nothing.
            If a function is given, it is called while images are decoded, and nothing else is shown.

    Raises:
        UserError: if the images, the recipe or the folder cannot be used.
        NotFinite: if the loss is not finite several times in a row.
        Interrupted: after a signal, when a checkpoint has been saved.

    Example:
        >>> run = ddim.train("photos/", minutes=10, size=64)
        >>> ddim.sheet(ddim.sample(run, n=16))
    """
    began = time.monotonic()
    source = None if source is None else Path(source)
    fields = {
        "images": images,
        "minutes": minutes,
        "seed": seed,
        "data.size": size,
        "data.labels": labels,
    }
    recipe = recipe if isinstance(recipe, Recipe) else load_named_recipe(recipe, source)
    recipe = use_data(recipe, data, keep_size=size is None) if data is not None else recipe
    recipe = change_recipe(recipe, {name: value for name, value in fields.items() if value is not None})
    shown, decoding = split_progress(progress)
    hooks = [*shown, *callbacks]
    return _start(recipe, None if out is None else Path(out), source, machine, hooks, decoding, began)


def _start(  # noqa: PLR0913, PLR0917
    recipe: Recipe,
    out: Path | None,
    source: Path | None,
    machine: Machine,
    callbacks: Sequence[Callback],
    decoding: Progress,
    began: float,
) -> Path:
    """Train a new run; see `train`."""
    # These checks come before the images are decoded, because decoding may take long.
    check_runtime(machine.device, machine.precision, machine.threads)
    check_training(recipe, None if source is None else read_run_recipe(source))
    if out is not None and out.exists() and not _is_aborted(out):
        check_unused(out, ", or go on with --resume")
    parts = open_split(recipe, decoding)
    check_network(recipe, parts)
    runtime = machine.choose(estimate_seconds(recipe, parts, machine.threads))
    with runtime:
        parent = load_parent(source)
        training = start_training(recipe, parts, runtime, parent)
        measure_kid = prepare_kid(training)
        short = name_data(recipe.data.source)
        used = out is None or not _is_aborted(out)
        folder = make_run_folder(out, short, recipe.name) if used else out
        with lock_folder(folder):
            write_json(folder / RUN, describe_run(training, machine, source, parent))
            parent = None  # frees the memory of its network
            _fit(training, measure_kid, folder, callbacks, None, began, machine.threads is None)
    return folder


def resume(
    folder: str | Path,
    *,
    more: float | None = None,
    images: int | None = None,
    data: object = None,
    own: Sequence[Any] = (),
    callbacks: Sequence[Callback] = (),
    progress: bool | Progress = True,
) -> Path:
    """Continue a run exactly and return its folder: the result is bit-identical to an uninterrupted run.

    The run uses its recorded device, precision and threads. A finished run is not changed unless `more` or
    `images` enlarges its budget; its run.json then records the larger budget.

    Args:
        folder: the run folder.
        more: minutes to train longer than planned, at the speed in the log of the run.
        images: a larger budget of training images, in place of `more`.
        data: the new path of the images, if they have moved; the run records it. If the images were given
            from Python in another process, give the images themselves.
        own: the components of the run that you wrote, such as [MySchedule, MyNetwork]. A run folder stores
            only their names and the hashes of their sources. The process that started the run can omit them.
        callbacks: as in `train`.
        progress: as in `train`.

    Raises:
        UserError: if the folder is not a run, its checkpoints are lost, its images are missing or have
            changed, or a component in `own` is missing or has changed.

    Example:
        >>> ddim.resume("runs/photos-fast-1", more=20)
    """
    began, folder = time.monotonic(), Path(folder)
    give_parts(own)
    shown, decoding = split_progress(progress)
    hooks = [*shown, *callbacks]
    if not (folder / RUN).is_file():
        raise UserError(f"run {folder} cannot be resumed: it is not a run folder, because it holds no {RUN}")
    document = read_json(folder / RUN)
    with lock_folder(folder):
        accept_images(folder, document["recipe"]["data"]["source"], data)
        path = checkpoint.find_newest(folder / "checkpoints")
        if path is None:
            check_never_saved(folder, document, more is not None or images is not None)
            return _restart(folder, document, hooks, decoding)
        state = load_state(path)
        find_device(state.runtime.device)
        with state.runtime:
            training = _restore(path, state, folder, document, decoding)
            if more is not None or images is not None:
                extend_budget(training, folder, more, images)
            if not training.complete:
                adapt = document["asked"]["threads"] is None
                _fit(training, prepare_kid(training), folder, hooks, training.step, began, adapt)
    return folder


def _restore(
    path: Path, state: RunState, folder: Path, document: dict[str, Any], progress: Progress
) -> Training:
    """Return the training of a checkpoint."""
    recipe = read_exactly(checkpoint.read_document(path, "recipe"))
    parts = reopen_split(folder, recipe, document["data"]["fingerprint"], progress)
    training = Training(recipe, parts, state.pixels, state.runtime, Plan(None))
    names = training.tensors()
    training.restore({name: checkpoint.read_tensors(path, name) for name in names}, state)
    return training


def _restart(
    folder: Path,
    document: dict[str, Any],
    callbacks: Sequence[Callback],
    progress: Progress,
) -> Path:
    """Restart a run that was killed before its first checkpoint, with the recorded recipe and runtime."""
    began = time.monotonic()
    recipe = read_exactly(document["recipe"])
    source = Path(document["source"]) if document["source"] else None
    parent = load_parent(source)
    if parent and parent.checkpoint.sha256 != document["source_sha256"]:
        raise UserError(
            f"run {folder} cannot be resumed: it started from a checkpoint of {source} that has since been "
            "replaced; start a new run with --from"
        )
    runtime = Runtime(**document["runtime"])
    with runtime:
        parts = reopen_split(folder, recipe, document["data"]["fingerprint"], progress)
        training = start_training(recipe, parts, runtime, parent)
        parent = None  # frees the memory of its network
        adapt = document["asked"]["threads"] is None
        _fit(training, prepare_kid(training), folder, callbacks, None, began, adapt)
    return folder


def _is_aborted(folder: Path) -> bool:
    """Return whether a folder is from a run that was killed before it wrote its first file."""
    return folder.is_dir() and all(path.name.startswith((".lock", TEMPORARY)) for path in folder.iterdir())


def _fit(
    training: Training,
    measure_kid: MeasureKID,
    folder: Path,
    callbacks: Sequence[Callback],
    resumed: int | None,
    began: float,
    adapt: bool,
) -> None:
    """Train, validate and save until the budget is used up or a signal arrives.

    Args:
        training: the training, at its start or restored from a checkpoint.
        measure_kid: see `prepare_kid`.
        folder: the run folder.
        callbacks: called after the callbacks of this library.
        resumed: the step of the checkpoint; None for a new run.
        began: `time.monotonic()` when the command started.
        adapt: whether the number of threads may change, because the user gave none.
    """
    if resumed is None:
        # This file is for readers and for --recipe; `resume` reads the recipe in the checkpoint instead.
        (folder / "recipe.yaml").write_text(write_recipe(training.recipe), encoding="utf-8")
    with RunLog(folder, resumed, training.due) as log, note_interrupts() as interrupts:
        training.stoppable = interrupts.at_once
        checkpoints = Checkpoints(log, list(callbacks))
        # `SampleGrid` comes before `Log`, so that a validation interrupted during sampling logs nothing. A
        # checkpoint is written after the log of its step, and before the user's callbacks are called.
        hooks: list[Callback] = [SampleGrid(log), Log(log), checkpoints, *callbacks]
        for hook in hooks:
            hook.on_start(training, folder)
        budget, watch = TimeBudget(training, began), ThreadWatch(training, adapt)
        if text := watch.describe_start():
            for hook in hooks:
                hook.on_change(training, text)
        with suppress(interrupts.ended):
            while not (training.complete or training.stopped or interrupts.number is not None):
                _advance(training, measure_kid, hooks, checkpoints, budget, watch)
        for hook in hooks:
            hook.on_end(training)
    if interrupts.number is not None and not training.complete:
        raise Interrupted(interrupts.number, folder)


def _advance(
    training: Training,
    measure_kid: MeasureKID,
    hooks: Sequence[Callback],
    checkpoints: Checkpoints,
    budget: TimeBudget,
    watch: ThreadWatch,
) -> None:
    """Train for one step, then validate and save if it is time; if a validation is due, skip the step."""
    if not training.due:
        try:
            values = training.advance()
        except NotFinite as error:
            raise NotFinite(f"{error}: {_advise(checkpoints.folder.parent)}") from None
        training.due = training.plan.total is not None and training.step in training.validation_steps()
        for hook in hooks:
            hook.on_step(training, values)
    if training.plan.total is None and budget.is_measured():
        budget.spend(_validate(training, measure_kid, hooks))
        budget.fix_total()
        checkpoints.save(training)
    elif training.due:
        budget.spend(_validate(training, measure_kid, hooks))
    elif text := fit_to_machine(watch, budget):
        # A checkpoint is saved at once, so that a run resumed from here continues with the same choices.
        for hook in hooks:
            hook.on_change(training, text)
        checkpoints.save(training)
    else:
        checkpoints.save_if_due(training)


def _validate(training: Training, measure_kid: MeasureKID, hooks: Sequence[Callback]) -> float:
    """Validate and call the hooks; return the seconds that this took."""
    began = time.monotonic()
    values = validate(training) | measure_kid()
    for hook in hooks:
        hook.on_validation(training, values)
    return time.monotonic() - began


def _advise(folder: Path) -> str:
    """Return advice for a run whose loss is not finite: which checkpoint exists, and remedies to try."""
    if checkpoint.find_newest(folder / "checkpoints"):
        return "the last good checkpoint is kept; a lower optim.lr or --precision fp32 may help"
    return "no checkpoint was written yet; start a new run with a lower optim.lr or --precision fp32"
