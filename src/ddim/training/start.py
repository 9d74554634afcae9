"""What a run starts from: its recipe, its images and their pixels, the runtime, the weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ddim.data import SplitImages, open_images, split_images
from ddim.data.batch import gather_batch, to_unit
from ddim.diffusion.noise import Noise
from ddim.diffusion.pixels import Pixels
from ddim.errors import UserError
from ddim.nn.runtime import Runtime, choose_runtime
from ddim.runs.classes import count_classes
from ddim.runs.images import check_source_exists
from ddim.runs.named_recipes import find_recipe
from ddim.runs.pipeline import LoadedRun, load, read_run_recipe
from ddim.runs.recipe import Recipe, build_model
from ddim.training.loop import Plan, Training


@dataclass(frozen=True)
class Machine:
    """How a user wants a run to use the machine; what is left at its default is chosen by measuring.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "auto", "fp32" or "bf16".
        compiling: whether to use torch.compile; None compiles if the run is long enough to repay it.
        threads: processor threads; None means one per core.
    """

    device: str = "auto"
    precision: str = "auto"
    compiling: bool | None = None
    threads: int | None = None

    def choose(self, seconds: float = 0.0) -> Runtime:
        """Choose the runtime of a run of about `seconds`."""
        return choose_runtime(self.device, self.precision, self.compiling, self.threads, seconds)


def load_named_recipe(name: str, source: Path | None) -> Recipe:
    """Return the recipe of a name or a file, with the pixels of the run that it starts from, if any."""
    recipe = find_recipe(name)
    return recipe if source is None else replace(recipe, pixels=read_run_recipe(source).pixels)


def open_split(recipe: Recipe, progress: Callable[[int, int], None] | None = None) -> SplitImages:
    """Open the images of a recipe and split them by its seed."""
    d = recipe.data
    images = open_images(d.source, d.size, d.channels, progress=progress)
    return split_images(images, d.validation, recipe.seed)


def reopen_split(folder: Path, recipe: Recipe, progress: Callable[[int, int], None] | None) -> SplitImages:
    """Open the images of a run that is resumed.

    Raises:
        UserError: if they are missing.
    """
    check_source_exists(folder, recipe.data.source)
    return open_split(recipe, progress)


def measure_pixels(recipe: Recipe, parts: SplitImages) -> Pixels:
    """Return the map between images and model units: fixed, or measured over the training images."""
    channels = parts.images.pixels.shape[-1]

    def measure(deviation: float) -> Pixels:
        chunks = (parts.train[k : k + 256] for k in range(0, len(parts.train), 256))
        return Pixels.measured((to_unit(gather_batch(parts.images, chunk)) for chunk in chunks), deviation)

    return recipe.pixels.find_pixels(channels, measure)


def load_parent(source: Path | None) -> LoadedRun | None:
    """Load the run from whose weights a new run starts, on the CPU; return None if `source` is None."""
    return None if source is None else load(source, device="cpu")


def start_training(
    recipe: Recipe, parts: SplitImages, runtime: Runtime, parent: LoadedRun | None
) -> Training:
    """Return a training at step 0, with random weights or with the EMA weights of the run `parent`.

    Raises:
        UserError: if the recipe needs class labels that the images do not have, or that differ from those of
            `parent`.
    """
    known, count = parent.model.classes if parent else 0, len(parts.images.classes)
    if parent and recipe.data.labels and known != count:
        raise UserError(
            f"--from gives the weights of a network with {known} classes, and {recipe.data.source} has "
            f"{count}: train it without labels (--data.labels no), or start without --from"
        )
    recipe = count_classes(recipe, parts.images)
    pixels = parent.pixels if parent else measure_pixels(recipe, parts)
    training = Training(recipe, parts, pixels, runtime, Plan(recipe.images))
    if parent:
        training.start_from(parent.model.state_dict())
    return training


def estimate_seconds(recipe: Recipe, parts: SplitImages) -> float:
    """Estimate how long the run will take, by timing one update of four images."""
    if recipe.images is None:
        return recipe.minutes * 60
    few = 4
    # Weights and dropout must not move the caller's random state.
    with torch.random.fork_rng(devices=[]):
        model = Runtime().place(build_model(recipe, parts.images.pixels.shape[-1]))
        x0 = Runtime().images(Noise(range(few)).like(model.blank(few)))
        pixels = Pixels.fixed(0.5, 0.5, model.shape.channels)

        def update() -> float:
            begin = time.perf_counter()
            recipe.objective(model, x0, torch.full((few,), 0.5), x0, pixels).mean().backward()
            return time.perf_counter() - begin

        update()
        return update() * recipe.images / few
