"""Prepare a training: how it uses the machine, its images, and its state at step 0.

A new run may start from the weights of another run, its parent.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ddim.data import SplitImages, open_images, split_images
from ddim.data.clusters import Clusters, average_cells, group_images
from ddim.data.images import gather_batch, to_unit
from ddim.data.values import choose_channels
from ddim.data.vectors import match_vectors
from ddim.diffusion.pixels import Pixels
from ddim.errors import UserError, warn_user
from ddim.machine.distributed import Processes, current_processes
from ddim.machine.progress import Progress, ignore_progress, watch_reading
from ddim.machine.runtime import (
    Runtime,
    check_runtime,
    choose_runtime,
    count_allowed,
    count_cores,
    find_device,
)
from ddim.recipe.checks import check_training, find_other_meaning
from ddim.recipe.recipe import Recipe
from ddim.runs.names import check_no_run
from ddim.runs.state import Plan
from ddim.sampling.images import check_same_split, open_source
from ddim.sampling.labels import count_classes, count_vectors
from ddim.sampling.pipeline import LoadedRun, load
from ddim.training.budget import estimate_seconds
from ddim.training.memory import fit_memory
from ddim.training.teacher import name_teacher
from ddim.training.trainer import Trainer


@dataclass(frozen=True)
class Machine:
    """How a run should use the machine; defaults depend on this machine and on other running programs.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "auto", "fp32" or "bf16".
        compiling: whether to use torch.compile; None compiles only if this makes the whole run shorter.
        threads: number of processor threads; None uses one thread for each core that other programs leave
            free, and changes the number during training if they leave more or fewer cores.
        recompute: whether the backward pass recomputes the activations of each block, which needs less
            memory and gives the same results.
    """

    device: str = "auto"
    precision: str = "auto"
    compiling: bool | None = None
    threads: int | None = None
    recompute: bool = False

    def choose(self, recipe: Recipe, seconds: float = 0.0) -> Runtime:
        """Return the runtime for a run that is expected to take `seconds`; see `choose_runtime`."""
        size = recipe.data.size
        chosen = choose_runtime(self.device, self.precision, self.compiling, self.threads, seconds, size)
        return replace(chosen, recompute=self.recompute)

    def choose_for_all(self, recipe: Recipe, channels: int, processes: Processes) -> Runtime:
        """Return the runtime that process 0 chooses for a new run; each process has its own GPU."""
        # The other processes would count as other programs.
        threads = count_cores() if processes.count > 1 and self.threads is None else self.threads
        seconds = 0.0
        if self.compiling is None:
            device = find_device(self.device)
            seconds = estimate_seconds(recipe, channels, device, threads, processes.count)
        runtime = processes.broadcast(replace(self, threads=threads).choose(recipe, seconds))
        return replace(runtime, device=processes.assign_device(runtime.device))

    def change(self, runtime: Runtime, threads: int | None, processes: Processes) -> Runtime:
        """Return the runtime of a run that is resumed: as recorded, except for what this value names.

        Args:
            runtime: the recorded runtime. A number of threads that nobody gave is at most one for each core.
            threads: the number of threads that the user gave before, if any.
            processes: the processes.
        """
        most = max(1, count_allowed() // processes.local_count)
        device = processes.assign_device(runtime.device if self.device == "auto" else self.device)
        return replace(
            runtime,
            device=find_device(device),
            # pyrefly: ignore[bad-argument-type] (checked by `check_machine`)
            precision=runtime.precision if self.precision == "auto" else self.precision,
            compile=runtime.compile if self.compiling is None else self.compiling,
            threads=self.threads or threads or min(runtime.threads, most),
            recompute=runtime.recompute or self.recompute,
        )


def check_machine(machine: Machine) -> None:
    """Check that this machine can be used as a run should use it, before images are decoded.

    Raises:
        UserError: if it cannot.
    """
    check_runtime(machine.device, machine.precision, machine.threads)


def open_split(recipe: Recipe, progress: Progress = ignore_progress) -> SplitImages:
    """Return the images of a recipe, split into training and validation images by its split seed.

    `progress` is called while images are decoded.

    Raises:
        UserError: if the images cannot be used, or are a run folder.
    """
    d = recipe.data
    check_no_run(d.source)
    images = open_images(d.source, d.size, d.channels, reading=d.reading, progress=watch_reading(progress))
    return split_images(images, d.validation, recipe.split_seed)


def measure_pixels(recipe: Recipe, parts: SplitImages) -> Pixels:
    """Return the map between images and model units: fixed by the recipe, or measured on training images."""

    def measure(deviation: float) -> Pixels:
        chunks = (parts.train[k : k + 256] for k in range(0, len(parts.train), 256))
        return Pixels.measured((to_unit(gather_batch(parts.images, chunk)) for chunk in chunks), deviation)

    return recipe.pixels.find_pixels(parts.images.pixels.shape[-1], measure)


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
    recipe = hold_out_alike(recipe, parent.recipe) if parent else recipe
    split = processes.local_first(lambda: open_split(recipe, progress))
    with machine.choose_for_all(recipe, split.images.pixels.shape[-1], processes) as runtime:
        trainer = start_training(recipe, split, runtime, parent)
        sha256 = parent.checkpoint.sha256 if parent else None
        parent = None  # frees the memory of its network
        yield trainer, sha256


def start_training(recipe: Recipe, parts: SplitImages, runtime: Runtime, parent: LoadedRun | None) -> Trainer:
    """Return a training at step 0, in parts of a batch that fit into the memory.

    Args:
        recipe: the recipe of the run.
        parts: the images of the run, split into training and validation images.
        runtime: how the network runs.
        parent: the run whose EMA weights and pixels are used; None for random weights.

    Raises:
        UserError: if the images lack the labels or vectors that the recipe needs, or are too few for its
            clusters. Also if the new run does not fit `parent`, or the memory.
    """
    parts = take_vectors(recipe, label_clusters(recipe, parts, parent), parent)
    recipe = count_vectors(count_classes(recipe, parts.images), parts.vectors)
    pixels = parent.pixels if parent else measure_pixels(recipe, parts)
    if parent:
        check_held_out(parent, recipe, parts)
        recipe = name_teacher(recipe, parent, parts)
    trainer = Trainer(recipe, parts, pixels, runtime, Plan(recipe.images))
    if parent:
        trainer.start_from(parent.model.state_dict())
        if other := find_other_meaning(parent.recipe, recipe):
            warn_user(
                f"the weights of --from were trained with another {other}, so they must learn a new task; "
                f"without --recipe and --{other}, the new run has the {other} of that run"
            )
    if news := fit_memory(trainer):
        warn_user(news)
    return trainer


def hold_out_alike(recipe: Recipe, parent: Recipe) -> Recipe:
    """Return a recipe that holds out the images which `parent` holds out, whatever its own seed is.

    A `data.split_seed` that the user gives is kept.
    """
    if recipe.data.split_seed is not None or recipe.seed == parent.split_seed:
        return recipe
    return replace(recipe, data=replace(recipe.data, split_seed=parent.split_seed))


def label_clusters(recipe: Recipe, split: SplitImages, parent: LoadedRun | None) -> SplitImages:
    """Return the images with their clusters as classes, or `split` itself if the recipe has other labels.

    Process 0 finds the clusters, and all processes use them. If `parent` has clusters, the new run takes over
    their centres, because its network knows these classes.

    Raises:
        UserError: if there are too few images.
    """
    wanted, processes, clusters = recipe.data.labels, current_processes(), None
    if not isinstance(wanted, Clusters):
        return split
    if processes.leads:
        images, known = split.images, parent.clusters if parent else None
        cells = average_cells(images.pixels, images.values, np.arange(len(images)))
        if known is None:
            clusters = group_images(cells, split.train, wanted.count, recipe.data.flip, recipe.seed)
        else:
            clusters = known.assign(cells, split.train)
    return split.with_clusters(processes.broadcast(clusters))


def take_vectors(recipe: Recipe, split: SplitImages, parent: LoadedRun | None) -> SplitImages:
    """Return the images with the vectors of `data.vectors`, or `split` itself if the recipe has none.

    Process 0 reads the file, and all processes use its content. If `parent` has vectors of the same columns,
    the new run takes over their mean and deviation, because its network knows vectors that are scaled so.

    Raises:
        UserError: if the file cannot be read, or does not fit the images.
    """
    path, processes, vectors = recipe.data.vectors, current_processes(), None
    if path is None:
        return split
    if processes.leads:
        vectors, known = match_vectors(path, split.images.names, split.train), parent and parent.vectors
        if known and known.columns == vectors.columns:
            vectors = replace(vectors, mean=known.mean, deviation=known.deviation)
    return split.with_vectors(processes.broadcast(vectors))


def check_held_out(parent: LoadedRun, recipe: Recipe, parts: SplitImages) -> None:
    """Check that no image on which `parent` was trained is held out in a new run from its weights.

    Args:
        parent: the run whose weights the new run starts from.
        recipe: the recipe of the new run.
        parts: the images of the new run.

    Raises:
        UserError: if the errors on held-out images would be too low, or the images of `parent` are now split
            in another way.
    """
    before, state = parent.recipe, parent.checkpoint.state
    if state.images is None or not len(parts.validation):
        return
    if state.images.fingerprint != parts.images.fingerprint:
        # The same images may have another size in the new run.
        data = replace(before.data, channels=choose_channels(state.channels))
        if state.images.fingerprint != open_source(recipe.data.source, data).fingerprint:
            return
    split = split_images(parts.images, before.data.validation, before.split_seed)
    check_same_split(split, state.images.train)
    if not np.isin(parts.validation, split.validation).all():
        raise UserError(
            "images on which the run of --from was trained would be held out, and their errors would be too "
            f"low: use at most its --data.validation {before.data.validation:g} and no other "
            f"--data.split_seed than {before.split_seed}"
        )
