"""Train a new run into a run folder, and resume a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ddim.data import SplitImages
from ddim.data.arrays import GivenImages, give_images
from ddim.data.open import source_exists
from ddim.diffusion.grad_mode import with_gradients
from ddim.errors import UserError
from ddim.files import lock_folder, read_sealed, write_sealed
from ddim.machine.distributed import current_processes, join_processes
from ddim.machine.progress import Progress
from ddim.machine.runtime import Runtime
from ddim.recipe.checks import check_training
from ddim.recipe.recipe import Recipe
from ddim.recipe.user_parts import give_parts
from ddim.runs import checkpoint
from ddim.runs.folder import (
    CHECKPOINTS,
    RUN,
    check_outside,
    check_unused,
    is_unused,
    make_run_folder,
    parse_out,
)
from ddim.runs.state import RunState
from ddim.sampling.images import check_same_split
from ddim.sampling.pipeline import load_state, load_vectors, read_clusters, read_run_recipe
from ddim.training.callbacks import Callback, check_callbacks
from ddim.training.display import split_progress
from ddim.training.fit import Start, fit
from ddim.training.kid import prepare_kid
from ddim.training.loop import Plan, Training
from ddim.training.own_checks import check_own_parts
from ddim.training.parent import hold_out_alike, load_parent
from ddim.training.request import choose_recipe
from ddim.training.resumed_machine import adopt_machine
from ddim.training.resumption import Larger, check_never_saved, extend_budget
from ddim.training.run_document import check_same_guide, check_same_vectors, describe_run, name_data
from ddim.training.shared_settings import (
    check_processes,
    check_same_images,
    check_same_parent,
    choose_for_all,
)
from ddim.training.start import (
    Machine,
    accept_images,
    check_machine,
    open_split,
    read_exactly,
    reopen_split,
    start_training,
)


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
    began, callbacks = time.monotonic(), check_callbacks(callbacks)
    check_machine(machine)
    out = parse_out(out)
    source = None if source is None else Path(source)
    fields = {"images": images, "minutes": minutes, "seed": seed, "data.size": size, "data.labels": labels}
    # The images given from Python can be opened as long as this variable refers to their source.
    data = data if isinstance(data, str | Path | None) else give_images(data)
    recipe = choose_recipe(recipe, data, fields, source)
    with join_processes() as processes:
        shown, decoding = split_progress(processes.leads and progress)
        start = Start(Path(), [*shown, *callbacks], None, began, machine.threads is None)
        return _start(recipe, out, source, machine, start, decoding)


def _start(
    recipe: Recipe,
    out: Path | None,
    source: Path | None,
    machine: Machine,
    start: Start,
    decoding: Progress,
) -> Path:
    """Train a new run and return its folder; see `train`."""
    processes = current_processes()
    # These checks come before the images are decoded, because decoding may take long.
    known = None if source is None else read_run_recipe(source)
    check_training(recipe, known)
    recipe = recipe if known is None else hold_out_alike(recipe, known)
    check_processes(recipe, processes)
    if processes.leads:
        check_outside(out or Path("runs"), recipe.data.source)
        if out is not None and out.exists() and not _is_aborted(out):
            check_unused(out, ", or continue the run with resume")
    parts = processes.local_first(lambda: open_split(recipe, decoding))
    check_same_images(parts.images, processes)
    check_own_parts(recipe, parts)
    runtime = choose_for_all(machine, recipe, parts, processes)
    with runtime:
        parent = load_parent(source)
        training = start_training(recipe, parts, runtime, parent)
        check_same_parent(training, parent)
        measure_kid = prepare_kid(training)
        folder = None
        if processes.leads:
            used = out is None or not _is_aborted(out)
            folder = make_run_folder(out, name_data(recipe.data.source), recipe.name) if used else out
        folder = Path(processes.broadcast(folder))
        with lock_folder(folder) if processes.leads else nullcontext():
            if processes.leads:
                write_sealed(folder / RUN, describe_run(training, machine, source, parent))
            parent = None  # frees the memory of its network
            fit(training, measure_kid, replace(start, folder=folder))
    return folder


@with_gradients
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
    """Continue a run and return its folder; on a CPU the result is bit-identical to an uninterrupted run.

    On a GPU the last bits may differ. The run uses its recorded device, precision, threads and compilation,
    as far as this machine has them. A finished run stays as it is. With a larger budget, `more` or `images`,
    it is trained longer; run.json records this.

    Args:
        folder: the run folder.
        more: minutes to train longer than planned, at the speed in the log of the run.
        images: a larger budget of training images, in place of `more`.
        data: the new path of the images, if they have moved; the run records this path. If the images were
            given from Python in another process, give the images themselves.
        own: the components of the run that you wrote, such as [MySchedule, MyNetwork]. A run folder stores
            only their names and the hashes of their sources. The process that started the run can omit them.
        callbacks: as in `train`.
        progress: as in `train`.

    Raises:
        UserError: if the folder is not a run, its checkpoints are lost, its images are missing or have
            changed, or a component in `own` is missing or has changed.
        NotFinite, OutOfMemory, Interrupted: see `train`.

    Example:
        >>> ddim.resume("runs/photos-fast-1", more=20)
    """
    began, folder, callbacks = time.monotonic(), Path(folder), check_callbacks(callbacks)
    give_parts(own)
    larger = Larger(more, images)
    if data is not None and not isinstance(data, str | Path):
        data = give_images(data)
    with join_processes() as processes:
        shown, decoding = split_progress(processes.leads and progress)
        start = Start(folder, [*shown, *callbacks], None, began, adapt=True)
        if processes.leads and not (folder / RUN).is_file():
            raise UserError(
                f"run {folder} cannot be resumed: it is not a run folder, because it holds no {RUN}"
            )
        with lock_folder(folder) if processes.leads else nullcontext():
            saved = processes.broadcast(_read_saved(folder, data) if processes.leads else None)
            start = replace(start, adapt=saved.document["asked"]["threads"] is None)
            if isinstance(data, GivenImages):
                # Every process must know the images by their text, with the values that the run has.
                _ = give_images(data, saved.document["recipe"]["data"]["values"]).text
            if saved.newest is not None:
                _continue(saved, saved.newest, start, decoding, larger)
            else:
                if processes.leads:
                    check_never_saved(folder, saved.document, larger.asked)
                _restart(saved, start, decoding)
    return folder


@dataclass(frozen=True)
class _Saved:
    """The data of a run to resume.

    Only process 0 must be able to read the run folder. It sends the data to the other processes.

    Attributes:
        document: the content of run.json.
        recipe: the recipe as a JSON document.
        newest: the newest checkpoint and its state; None if there is no checkpoint.
    """

    document: dict[str, Any]
    recipe: Any
    newest: tuple[Path, RunState] | None = None


def _read_saved(folder: Path, data: object) -> _Saved:
    """Return the data in run.json and the newest checkpoint, after checking `data`; see `resume`."""
    # This comes first, because run.json of a newer ddim may have fields that this version does not know.
    path = checkpoint.find_newest(folder / CHECKPOINTS)
    accept_images(folder, read_sealed(folder / RUN)["recipe"]["data"], data)
    document = read_sealed(folder / RUN)
    if path is None:
        return _Saved(document, document["recipe"])
    return _Saved(document, checkpoint.read_document(path, "recipe"), (path, load_state(path)))


def _continue(
    saved: _Saved, newest: tuple[Path, RunState], start: Start, progress: Progress, larger: Larger
) -> None:
    """Continue a run from its checkpoint; see `resume`."""
    processes, (path, state) = current_processes(), newest
    runtime, news = adopt_machine(saved.document, state.runtime, start, processes)
    with runtime:
        recipe = read_exactly(saved.recipe)
        check_processes(recipe, processes)
        parts = _reopen(saved, recipe, start, progress)
        clusters = processes.broadcast(read_clusters(path, recipe) if processes.leads else None)
        vectors = processes.broadcast(load_vectors(path, recipe) if processes.leads else None)
        parts = parts.with_clusters(clusters).with_vectors(vectors)
        training = Training(recipe, parts, state.pixels, runtime, Plan(None))
        names = training.tensors() if processes.leads else ()
        tensors = {name: checkpoint.read_tensors(path, name) for name in names}
        training.restore(processes.broadcast(tensors), state)
        if processes.leads:
            extend_budget(training, start.folder, larger)
        training.plan = processes.broadcast(training.plan)
        if not training.complete:
            fit(training, prepare_kid(training), replace(start, resumed=training.step, news=news))


def _restart(saved: _Saved, start: Start, progress: Progress) -> None:
    """Restart a run that was killed before its first checkpoint, with the recorded recipe and runtime."""
    processes, document, start = current_processes(), saved.document, replace(start, began=time.monotonic())
    recipe = read_exactly(saved.recipe)
    check_processes(recipe, processes)
    parent = load_parent(Path(document["source"]) if document["source"] else None)
    if parent and parent.checkpoint.sha256 != document["source_sha256"]:
        raise UserError(
            f"run {start.folder} cannot be resumed: it started from a checkpoint of {document['source']} "
            "that has since been replaced; start a new run with --from"
        )
    recorded = Runtime(**document["runtime"])
    runtime, news = adopt_machine(document, recorded, start, processes)
    with runtime:
        training = start_training(recipe, _reopen(saved, recipe, start, progress), runtime, parent)
        check_same_parent(training, parent)
        check_same_split(training.split, document["data"]["train"])
        check_same_vectors(training, document)
        check_same_guide(training, document)
        parent = None  # frees the memory of its network
        fit(training, prepare_kid(training), replace(start, news=news))


def _reopen(saved: _Saved, recipe: Recipe, start: Start, progress: Progress) -> SplitImages:
    """Return the training and validation images of a run that is resumed; every machine must have them."""
    processes, known = current_processes(), saved.document["data"]
    place = known.get("path")
    if place and source_exists(place) and not (start.folder / RUN).is_file():
        # This machine does not see the run folder, in which the path is recorded.
        recipe = replace(recipe, data=replace(recipe.data, source=place))
    split = partial(reopen_split, start.folder, recipe, known["fingerprint"], progress)
    return processes.local_first(split)


def _is_aborted(folder: Path) -> bool:
    """Return whether a folder is from a run that was killed before it wrote its first file."""
    return folder.is_dir() and is_unused(folder)
