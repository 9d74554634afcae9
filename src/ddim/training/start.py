"""Prepare a training run: its recipe, its images, its runtime and its initial weights."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ddim.data import Images, SplitImages, open_images, split_images
from ddim.data.arrays import GivenImages, give_images
from ddim.data.images import gather_batch, to_unit
from ddim.data.open import find_array_size, source_exists
from ddim.diffusion.noise import Noise
from ddim.diffusion.pixels import Pixels
from ddim.errors import UserError, to_int
from ddim.machine.distributed import join_processes
from ddim.machine.progress import Progress, ignore_progress, watch_reading
from ddim.machine.runtime import Precision, Runtime, check_runtime, choose_runtime, count_cores
from ddim.recipe.codec import dump, load_recipe, override
from ddim.recipe.named_recipes import RECIPES, find_recipe
from ddim.recipe.own_parts import find_changed_parts
from ddim.recipe.recipe import Recipe, build_model
from ddim.runs.run_path import check_no_run
from ddim.sampling.images import read_parent_recipe, record_new_place, reopen_images
from ddim.sampling.labels import count_classes, count_vectors
from ddim.sampling.pipeline import LoadedRun, read_run_recipe
from ddim.training.grouping import label_clusters, take_vectors
from ddim.training.loop import Plan, Training
from ddim.training.parent import check_parent, warn_of_other_meaning


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

    def __post_init__(self) -> None:
        if self.threads is not None:
            # JSON refuses numbers of NumPy.
            object.__setattr__(self, "threads", to_int("threads", self.threads))

    def choose(self, recipe: Recipe, seconds: float = 0.0) -> Runtime:
        """Return the runtime for a run that is expected to take `seconds`; see `choose_runtime`."""
        size = recipe.data.size
        chosen = choose_runtime(self.device, self.precision, self.compiling, self.threads, seconds, size)
        return replace(chosen, recompute=self.recompute)


def load_named_recipe(
    name: str, source: str | Path | None, size: tuple[int, int] | None, *, own_images: bool
) -> Recipe:
    """Return a recipe by name or file.

    Args:
        name: the name or the file.
        source: a run from which the recipe gets its field `pixels`, or None.
        size: see `find_recipe`.
        own_images: whether the new run has its own images. If not, a named recipe gets those of `source`, at
            their size and with their labels; a file names its images itself.
    """
    if source is None:
        return find_recipe(name, size)
    if own_images or name not in RECIPES:
        return replace(find_recipe(name, size), pixels=read_run_recipe(source).pixels)
    parent = load_parent_recipe(source, own_images=False)
    recipe = find_recipe(name, size or parent.data.size)
    return replace(recipe, pixels=parent.pixels, data=replace(parent.data, flip=recipe.data.flip))


def load_parent_recipe(source: str | Path, *, own_images: bool) -> Recipe:
    """Return the recipe of a run for a new run from its weights, with a budget in minutes.

    Args:
        source: the run.
        own_images: see `read_parent_recipe`.
    """
    # The images are searched by the first process of each machine.
    with join_processes() as processes:
        read = partial(read_parent_recipe, source, own_images=own_images)
        return replace(processes.local_first(read), images=None)


def change_recipe(recipe: Recipe, fields: Mapping[str, Any]) -> Recipe:
    """Return the recipe with some of its fields changed.

    Args:
        recipe: the recipe.
        fields: new values keyed by field path, such as {"optim.lr": 1e-3}. A budget in `minutes` replaces
            the recipe's budget in images.

    Raises:
        UserError: if a value is invalid, or both `images` and `minutes` are given.
    """
    if {"images", "minutes"} <= fields.keys():
        raise UserError("give minutes or images, not both")
    if "minutes" in fields:
        recipe = replace(recipe, images=None)
    return override(recipe, fields)


def check_machine(machine: Machine) -> None:
    """Check how a run should use the machine, before images are decoded.

    Raises:
        UserError: if `machine` is not a `Machine`, or this machine cannot be used in this way.
    """
    if not isinstance(machine, Machine):
        raise UserError(f"machine must be a value such as ddim.Machine(device='cpu'), got {machine!r}")
    check_runtime(machine.device, machine.precision, machine.threads)


def find_size(fields: Mapping[str, Any], data: object) -> tuple[int, int] | None:
    """Return the (height, width) that a user gives, or else that of the given images; None if unknown.

    Args:
        fields: the fields of a recipe that the user gives; those of `data` are read.
        data: the source of the images: a path or name, `GivenImages`, or None.

    Raises:
        UserError: if a field cannot be used, or the given images or the file of arrays have no common size.
    """
    read = {name: value for name, value in fields.items() if name in ("data.size", "data.axis", "data.array")}
    asked = override(Recipe(), read).data
    if "data.size" in read:
        return asked.size
    if isinstance(data, str | Path):
        return find_array_size(data, asked.reading)
    return data.size if isinstance(data, GivenImages) else None


def use_data(recipe: Recipe, data: object, fields: Mapping[str, Any], *, keep_size: bool = True) -> Recipe:
    """Return the recipe with the images and the fields that a user gives.

    Args:
        recipe: the recipe.
        data: see `train`.
        fields: see `change_recipe`.
        keep_size: whether arrays, in a file or given from Python, keep their size if `fields` has no size.

    Raises:
        UserError: if `data` is not a path, a name or images, or a field is invalid.
    """
    recipe, keep_size = change_recipe(recipe, fields), keep_size and "data.size" not in fields
    if data is None:
        return recipe
    if isinstance(data, str | Path):
        size = find_array_size(data, recipe.data.reading) if keep_size else None
        return replace(recipe, data=replace(recipe.data, source=str(data), size=size or recipe.data.size))
    given = give_images(data, recipe.data.values)
    free = "data.labels" not in fields and recipe.net.takes_classes
    labels = recipe.data.labels or (free and given.labelled)
    size = given.size if keep_size else recipe.data.size
    return replace(recipe, data=replace(recipe.data, source=given.text, size=size, labels=labels))


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


def accept_images(folder: Path, known: Mapping[str, Any], data: object) -> None:
    """Check the images that are given to a run when it is resumed, and record their new path.

    Args:
        folder: the run folder.
        known: the field `data` of the recipe of the run, as JSON.
        data: the new path of the images, or the images themselves; None if the recorded path is still right.

    Raises:
        UserError: if the given images are not the training images of the run.
    """
    if isinstance(data, str | Path):
        # A repeated command may give the old path of images that have moved. This path no longer exists, and
        # must not be recorded.
        if source_exists(str(data)):
            record_new_place(folder, str(data))
    elif data is not None and give_images(data, known["values"]).text != known["source"]:
        raise UserError(
            f"the given images are not the training images of run {folder}, so it cannot be resumed exactly: "
            "give the same images (a data set with random transforms returns other images each time), or "
            "start a new run from its weights with source="
        )


def reopen_split(folder: Path, recipe: Recipe, fingerprint: str, progress: Progress) -> SplitImages:
    """Return the split images of a run that is resumed; see `ddim.sampling.images.reopen_images`."""
    images = reopen_images(folder, recipe.data, fingerprint, progress)
    return split_images(images, recipe.data.validation, recipe.split_seed)


def read_exactly(document: Any) -> Recipe:  # noqa: ANN401 (JSON)
    """Return the recipe of a run to resume, from its JSON document.

    Raises:
        UserError: if a component that the user wrote is missing, or its source code has changed.
    """
    with warnings.catch_warnings(action="ignore"):
        recipe = load_recipe(document)
    for path in find_changed_parts(document, dump(recipe)):
        raise UserError(
            f"the source code of {path} has changed since the run began, so it cannot be resumed exactly: "
            "restore the old code, or start a new run from its weights with source= or --from"
        )
    return recipe


def measure_pixels(recipe: Recipe, parts: SplitImages) -> Pixels:
    """Return the map between images and model units: fixed by the recipe, or measured on training images."""
    channels = parts.images.pixels.shape[-1]

    def measure(deviation: float) -> Pixels:
        chunks = (parts.train[k : k + 256] for k in range(0, len(parts.train), 256))
        return Pixels.measured((to_unit(gather_batch(parts.images, chunk)) for chunk in chunks), deviation)

    return recipe.pixels.find_pixels(channels, measure)


def check_values(recipe: Recipe, images: Images) -> None:
    """Check that a recipe fits the values of its images.

    Raises:
        UserError: if the images have more than 8 bits, and the recipe adds noise within the bins of 8 bits.
    """
    if recipe.data.dequantise and not images.values.eight_bits:
        raise UserError(
            f"data.dequantise adds noise within the bins of 8-bit values, and these images have "
            f"{images.values.type}: leave it out"
        )


def start_training(
    recipe: Recipe, parts: SplitImages, runtime: Runtime, parent: LoadedRun | None
) -> Training:
    """Return a training at step 0.

    Args:
        recipe: the recipe of the run.
        parts: the images of the run, split into training and validation images.
        runtime: how the network runs.
        parent: the run whose EMA weights and pixels are used; None for random weights.

    Raises:
        UserError: if the images lack the labels or vectors that the recipe needs, or are too few for its
            clusters. Also if the labels, vectors, network, guidance or held-out images of the new run do not
            fit `parent`, or the recipe adds noise within 8-bit bins to images with more bits.
    """
    parts = take_vectors(recipe, label_clusters(recipe, parts, parent), parent)
    if parent:
        check_parent(parent, recipe, parts)
    recipe = count_vectors(count_classes(recipe, parts.images), parts.vectors)
    check_values(recipe, parts.images)
    pixels = parent.pixels if parent else measure_pixels(recipe, parts)
    training = Training(recipe, parts, pixels, runtime, Plan(recipe.images))
    if parent:
        training.start_from(parent.model.state_dict())
        warn_of_other_meaning(parent.recipe, recipe)
        if training.teacher:
            training.teacher.learn_from(parent, parts)
    return training


def estimate_seconds(recipe: Recipe, parts: SplitImages, threads: int | None) -> float:
    """Return the estimated duration of a run in seconds, on a machine without other programs.

    If the budget is a number of images, the time per image is that of `time_image`, divided by the threads.

    Args:
        recipe: the recipe of the run.
        parts: the images of the run, split into training and validation images.
        threads: number of processor threads of the run; None for one per core.
    """
    if recipe.images is None:
        return recipe.minutes * 60
    return time_image(recipe, parts.images.pixels.shape[-1]) * recipe.images / (threads or count_cores())


def time_image(recipe: Recipe, channels: int, precision: Precision = "fp32") -> float:
    """Return the seconds of processor time that training takes for one image, on one thread.

    Three updates of four blank images are run, and the fastest one counts. If an image takes more than a
    second, one update of two images is enough. Processor time does not depend on other programs.

    Args:
        recipe: the recipe; its images are not read.
        channels: number of channels of the images.
        precision: the precision of the network.
    """
    # Initial weights and dropout must not change the caller's random state.
    runtime = Runtime(precision=precision)
    with torch.random.fork_rng(devices=[]), runtime:
        model = runtime.place(build_model(recipe, channels))
        pixels, measure = Pixels.fixed(0.5, 0.5, model.shape.channels), recipe.objective.at(0.5, 0)

        def update(count: int) -> float:
            x0 = runtime.images(Noise(range(count)).like(model.blank(count)))
            begin = time.thread_time()
            with runtime.precise():
                denoise = model.with_blank_labels(count)
                loss = measure(denoise, x0, torch.full((count,), 0.5), x0, pixels).mean()
            loss.backward()
            return (time.thread_time() - begin) / count

        first = update(2)
        return first if first > 1 else min(update(4) for _ in range(3))
