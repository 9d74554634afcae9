"""How a run uses the machine, and how long it will take: a long run is worth compiling its network."""

import time
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Model
from ddim.diffusion.pixels import Pixels
from ddim.errors import to_int
from ddim.machine.distributed import Processes
from ddim.machine.runtime import Precision, Runtime, choose_runtime, count_allowed, count_cores, find_device
from ddim.recipe.recipe import Recipe, build_model
from ddim.recipe.user_parts import is_user_part

SMALL = 64
"""The largest side in pixels of an image whose time is measured; larger for networks with many stages."""

BACKWARD = 3
"""Training on an image takes as long as this number of evaluations of the network."""

VALIDATED = 0.1
"""The share of a run that validations may take, relative to the time of training."""

MOST_EVENTS = 10
"""The largest number of validations, unless `report.events` gives a number."""


@dataclass(frozen=True)
class Machine:
    """How a run should use the machine; defaults depend on this machine and on other running programs.

    Args:
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32 or bf16.
        compiling: compile the network, or do not (default: if this makes the whole run shorter).
        threads: number of processor threads; None uses one thread for each core that other programs leave
            free, and changes the number during training if they leave more or fewer cores.
        recompute: compute activations again in the backward pass: less memory, same results.
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
        given, device = self.compiling is not None, find_device(self.device)
        seconds = 0.0 if given else estimate_seconds(recipe, channels, device, threads, processes.count)
        runtime = processes.broadcast(replace(self, threads=threads).choose(recipe, seconds))
        return replace(runtime, device=processes.assign_device(runtime.device))

    def change(self, runtime: Runtime, threads: int | None, processes: Processes) -> Runtime:
        """Return the runtime of a run that is resumed: as recorded, except for what this value names.

        Args:
            runtime: the recorded runtime. A number of threads that nobody gave is at most one for each core.
            threads: the number of threads that the user gave, now or before, if any.
            processes: the processes.
        """
        most = max(1, count_allowed() // processes.local_count)
        device = processes.assign_device(runtime.device if self.device == "auto" else self.device)
        return replace(
            runtime,
            device=find_device(device),
            # pyrefly: ignore[bad-argument-type] (checked by `check_runtime`)
            precision=runtime.precision if self.precision == "auto" else self.precision,
            compile=runtime.compile if self.compiling is None else self.compiling,
            threads=threads or min(runtime.threads, most),
            recompute=runtime.recompute or self.recompute,
        )


def estimate_seconds(recipe: Recipe, channels: int, device: str, threads: int | None, count: int) -> float:
    """Return the estimated duration of a run in seconds, on a machine without other programs.

    Args:
        recipe: the recipe of the run.
        channels: number of channels of the images.
        device: the device of the run.
        threads: number of processor threads of a run on a CPU; None for one per core.
        count: number of processes, which share the images of a run but not its minutes.
    """
    if recipe.images is None:
        return recipe.minutes * 60
    share = count * ((threads or count_cores()) if device == "cpu" else 1)
    return time_image(recipe, channels, device=device) * recipe.images / share


def time_image(recipe: Recipe, channels: int, precision: Precision = "fp32", device: str = "cpu") -> float:
    """Return the seconds that training takes for one image.

    The fastest of three updates of a few blank images counts. If an image takes more than a second, one
    update of two images is enough. The time of a large image is that of `SMALL` times `SMALL` pixels, scaled
    up. On a CPU the result is the processor time of one thread, which does not
    depend on other programs.

    Args:
        recipe: the recipe; its images are not read.
        channels: number of channels of the images.
        precision: the precision of the network.
        device: the device of the network.
    """
    runtime, cpu = Runtime(device, precision), device == "cpu"
    clock = time.thread_time if cpu else time.monotonic
    size = reduce_size(recipe, SMALL)
    # Initial weights and dropout must not change the caller's random state.
    with torch.random.fork_rng([device] if device.startswith("cuda") else []), runtime:
        model = runtime.place(build_model(recipe, channels))

        def update(count: int) -> float:
            begin = clock()
            blank_loss(model, recipe, runtime, size, count).mean().backward()
            # An accelerator computes after the call; reading a number waits until it is done.
            next(model.parameters()).sum().item()
            return (clock() - begin) / count * prod(recipe.data.size) / prod(size)

        first = update(2)
        # An accelerator is hardly slower with more images.
        few = 4 if cpu else min(16, recipe.optim.batch // recipe.optim.accumulate)
        return first if cpu and first > 1 else min(update(few) for _ in range(3))


def validation_cost(recipe: Recipe, held_out: int) -> float:
    """Return how many images could be trained in the time of one validation.

    The validation evaluates the network for errors on held-out images, for the sheet and for KID. The time
    that KID takes for features, and the time to save a checkpoint, are not included.

    Args:
        recipe: the recipe of the run.
        held_out: number of validation images of the run.
    """
    report = recipe.report
    samples = (report.grid + report.kid) * recipe.sampler.evaluations(recipe.steps)
    return (min(report.validation_images, held_out) + samples) / BACKWARD


def plan_validations(recipe: Recipe, cost: float, images: int) -> tuple[int, float]:
    """Return the number of validations in a training, and the share of its images that each takes.

    If `report.events` is given, there are as many whole validations. Otherwise they take at most the share
    `VALIDATED` of the training: fewer validations, or one with fewer images. Both numbers do not depend on
    the clock, so that a resumed run makes the same validations.

    Args:
        recipe: the recipe of the run.
        cost: see `validation_cost`.
        images: number of training images, counting repetitions.
    """
    if recipe.report.events is not None:
        return recipe.report.events, 1.0
    affordable = VALIDATED * images / cost
    return min(max(1, int(affordable)), MOST_EVENTS), min(1.0, affordable)


def reduce_size(recipe: Recipe, side: int) -> tuple[int, int]:
    """Return the height and width of images of a recipe, each at most `side` if the network allows it.

    A network that the user wrote may take no other size than that of the recipe.
    """
    side = max(recipe.data.size) if is_user_part(recipe.net) else max(side, recipe.net.multiple)
    height, width = recipe.data.size
    return min(height, side), min(width, side)


def blank_loss(model: Model, recipe: Recipe, runtime: Runtime, size: tuple[int, int], count: int) -> Tensor:
    """Return the loss (count,) of blank images of this size, in the middle of the training.

    The images have class 0, or vectors of zeros.
    """
    x0 = runtime.images(torch.ones_like(model.blank(count)[..., : size[0], : size[1]]))
    pixels, objective = Pixels.fixed(0.5, 0.5, model.shape.channels), recipe.objective.at(0.5, 0)
    label = torch.zeros(count, model.vector, device="cpu") if model.vector else 0 if model.classes else None
    with runtime.precise():
        return objective(model.with_labels(label), x0, torch.full((count,), 0.5, device="cpu"), x0, pixels)
