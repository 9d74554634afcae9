"""Prepare a training: how it uses the machine, its images, and its state at step 0."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ddim.data import SplitImages, open_images, split_images
from ddim.data.images import gather_batch, to_unit
from ddim.diffusion.pixels import Pixels
from ddim.errors import UserError, to_int
from ddim.machine.distributed import Processes
from ddim.machine.progress import Progress, ignore_progress, watch_reading
from ddim.machine.runtime import (
    Runtime,
    check_runtime,
    choose_runtime,
    count_allowed,
    count_cores,
    find_device,
)
from ddim.recipe.recipe import Recipe
from ddim.runs.names import check_no_run
from ddim.runs.state import Plan
from ddim.sampling.labels import count_classes, count_vectors
from ddim.sampling.pipeline import LoadedRun
from ddim.training.budget import estimate_seconds
from ddim.training.parent import check_parent, label_clusters, take_vectors, warn_of_other_meaning
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

    def __post_init__(self) -> None:
        if self.threads is not None:
            # JSON refuses numbers of NumPy.
            object.__setattr__(self, "threads", to_int("threads", self.threads))

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
        UserError: if it cannot, or `machine` is not a `Machine`.
    """
    if not isinstance(machine, Machine):
        raise UserError(f"machine must be a value such as ddim.Machine(device='cpu'), got {machine!r}")
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


def start_training(recipe: Recipe, parts: SplitImages, runtime: Runtime, parent: LoadedRun | None) -> Trainer:
    """Return a training at step 0.

    Args:
        recipe: the recipe of the run.
        parts: the images of the run, split into training and validation images.
        runtime: how the network runs.
        parent: the run whose EMA weights and pixels are used; None for random weights.

    Raises:
        UserError: if the images lack the labels or vectors that the recipe needs, or are too few for its
            clusters. Also if the new run does not fit `parent`, or the recipe adds noise within 8-bit bins
            to images with more bits.
    """
    parts = take_vectors(recipe, label_clusters(recipe, parts, parent), parent)
    if parent:
        check_parent(parent, recipe, parts)
    recipe = count_vectors(count_classes(recipe, parts.images), parts.vectors)
    if recipe.data.dequantise and not parts.images.values.eight_bits:
        raise UserError(
            f"data.dequantise adds noise within the bins of 8-bit values, and these images have "
            f"{parts.images.values.type}: leave it out"
        )
    recipe = name_teacher(recipe, parent, parts) if parent else recipe
    pixels = parent.pixels if parent else measure_pixels(recipe, parts)
    trainer = Trainer(recipe, parts, pixels, runtime, Plan(recipe.images))
    if parent:
        trainer.start_from(parent.model.state_dict())
        warn_of_other_meaning(parent.recipe, recipe)
    return trainer
