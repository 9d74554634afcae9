"""A recipe: all choices of a run, as nested frozen dataclasses. See `codec` for recipes as YAML and JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from ddim.data.augment import Augment
from ddim.diffusion.denoiser import Model, Shape, choose_part
from ddim.diffusion.grids import GRIDS, Grid, Uniform
from ddim.diffusion.loss import Consistency, Loss, Objective
from ddim.diffusion.parameterisation import Conditioning, LogSNR, Parameterisation, PredictsVelocity
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, SAMPLERS, Sampler
from ddim.diffusion.schedules import SCHEDULES, Cosine, Schedule
from ddim.errors import UserError, check_count, check_part_values, check_positive, to_float
from ddim.metrics.catalogue import LEAST
from ddim.nn.base import NetworkSpec
from ddim.nn.ema import Averaging, Exponential
from ddim.nn.networks import UserNetwork
from ddim.nn.unet import UNetSpec
from ddim.recipe.recipe_data import Data


class PixelRule(Protocol):
    """A method that maps images in [0, 1] to model units; a frozen dataclass, listed in `PIXELS`."""

    @property
    def deviation(self) -> float | None:
        """The standard deviation of the training images in model units; None if it is not known."""
        ...

    def find_pixels(self, channels: int, measure: Callable[[float], Pixels]) -> Pixels:
        """Return the map between images and model units.

        Args:
            channels: number of channels of the images.
            measure: a function of a standard deviation. It returns the map under which each channel of the
                training set has mean 0 and this standard deviation.
        """
        ...


@dataclass(frozen=True)
class Measured:
    """Normalise each channel of the training set to mean 0 and standard deviation `std`.

    Attributes:
        std: standard deviation of each channel in model units.
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        check_positive("pixels", std=self.std)

    @property
    def deviation(self) -> float:
        """Return `std`."""
        return self.std

    def find_pixels(self, channels: int, measure: Callable[[float], Pixels]) -> Pixels:
        """Return the map that `measure` finds for `std`; see `PixelRule`."""
        return measure(self.std)


@dataclass(frozen=True)
class Fixed:
    """Subtract `mean` from images and divide them by `std`; 0.5 and 0.5 give the usual range [-1, 1].

    Attributes:
        mean: the number that is subtracted from images in [0, 1].
        std: the number by which the difference is divided.
    """

    mean: float = 0.5
    std: float = 0.5
    deviation = None  # depends on the images, which are not measured

    def __post_init__(self) -> None:
        check_positive("pixels", std=self.std)

    def find_pixels(self, channels: int, measure: Callable[[float], Pixels]) -> Pixels:
        """Return the same map for every channel; see `PixelRule`."""
        return Pixels.fixed(self.mean, self.std, channels)


PIXELS: dict[str, type[PixelRule]] = {"measured": Measured, "fixed": Fixed}
"""All methods that map pixels to model units, keyed by their names in a recipe."""


@dataclass(frozen=True)
class Optim:
    """The optimiser and its learning-rate schedule.

    Attributes:
        method: "adamw" for AdamW (Loshchilov & Hutter 2019), or "muon" for Muon (Jordan et al. 2024) on
            linear layers and convolutions with more than 8 inputs and outputs, and AdamW on all others.
        lr: the highest learning rate.
        weight_decay: decoupled weight decay.
        betas: decay rates of AdamW's two moments.
        batch: images per update.
        accumulate: number of parts in which a batch passes through the network, to save memory.
        clip: the largest norm of the gradient; 0 turns clipping off.
        warmup: images over which the learning rate rises linearly from 0.
        decay: the learning rate after the warm-up: "constant", or "cosine" down to 0 at the end of training.
    """

    method: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    batch: int = 64
    accumulate: int = 1
    clip: float = 1.0
    warmup: int = 0
    decay: Literal["constant", "cosine"] = "constant"

    def __post_init__(self) -> None:
        check_part_values("optim", self)
        check_positive("optim", lr=self.lr, batch=self.batch, accumulate=self.accumulate)
        if self.batch % self.accumulate:
            raise UserError(
                f"optim.batch {self.batch} must be a multiple of optim.accumulate {self.accumulate}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas must be at least 0 and less than 1, got {self.betas}")
        if min(self.weight_decay, self.clip, self.warmup) < 0:
            raise UserError("optim.weight_decay, optim.clip and optim.warmup must be at least 0")


@dataclass(frozen=True)
class Report:
    """Options of the measurements and files of a run during training.

    Attributes:
        events: number of validations, evenly spaced; each also saves samples and a checkpoint.
        validation_images: largest number of images in a validation.
        grid: number of samples that each validation saves.
        log: updates between two lines of the log.
        checkpoint: seconds between two checkpoints.
        kid: number of samples whose KID against the validation images is measured; 0 for no KID.
        best: the metric by which the best checkpoint is kept; the lowest value is the best; "none" keeps
            no best checkpoint. If the run ends with the squared error of `objective.finish`, only errors
            in this part count.
        guide: share of the training budget after which a checkpoint is kept in RUN/guide, to guide samples of
            the finished run (Karras et al. 2024); 0 keeps none.
        snapshots: number of snapshots of two averages of the weights that are kept, from which `ddim ema`
            reconstructs averages of other widths; 0 for none. Each takes the space of two EMAs.
    """

    events: int = 10
    validation_images: int = 256
    grid: int = 16
    log: int = 20
    checkpoint: float = 120.0
    kid: int = 0
    best: Literal["image_mae", "kid", "none"] = "image_mae"
    guide: float = 0.2
    snapshots: int = 0

    def __post_init__(self) -> None:
        check_part_values("report", self)
        check_positive(
            "report",
            events=self.events,
            grid=self.grid,
            log=self.log,
            validation_images=self.validation_images,
        )
        if not 0 <= self.guide < 1:
            raise UserError(f"report.guide must be at least 0 and less than 1, got {self.guide}")
        if self.kid and self.kid < LEAST:
            raise UserError(f"report.kid must be 0 or at least {LEAST} samples, got {self.kid}")
        if not 0 <= self.snapshots <= 1000:
            raise UserError(f"report.snapshots must be at least 0 and at most 1000, got {self.snapshots}")
        if self.best == "kid" and not self.kid:
            raise UserError("report.kid, the number of samples, must be above 0 if report.best is kid, got 0")


_NAMED: dict[str, Mapping[str, type]] = {
    "schedule": SCHEDULES,
    "sampled_on": SCHEDULES,
    "grid": GRIDS,
    "sampler": SAMPLERS,
}
"""The fields that `Recipe(...)` also takes as a name, with the registries of these names."""


@dataclass(frozen=True)
class Recipe:
    """All choices of a run. A schedule, grid or sampler can be given by its name, such as "cosine".

    Attributes:
        name: a name for folders and tables.
        data: the training images.
        pixels: the map from images to model units.
        net: the network architecture, or your own network: FILE.py:NAME on the command line; a class,
            function or module in Python (see `UserNetwork`).
        schedule: the noise schedule of training.
        predicts: the meaning of the network's output, such as the noise or the velocity.
        conditioning: the form in which the network gets the noise level.
        objective: the loss.
        optim: the optimiser.
        ema: the averaging method of the EMA weights.
        augment: augmentation of the training images.
        grid: the times (timesteps) at which a sampler evaluates the network.
        sampler: the sampler.
        steps: sampling steps, unless a command or a call gives another number; also those of the samples
            during training.
        sampled_on: another noise schedule for sampling, within the noise levels of `schedule`; None for
            `schedule`.
        clip: whether the predicted x0 is clipped to the range from black to white. If there is little signal,
            a small error of eps is a large error of x0. True recomputes eps from the clipped x0; "x0" keeps
            eps as predicted, as diffusers does.
        report: options of the measurements and files during training.
        minutes: training budget in minutes, if `images` is None.
        images: training budget in images.
        seed: the seed of all random numbers of the run.
    """

    name: str = "custom"
    data: Data = Data()
    pixels: PixelRule = Measured()
    net: NetworkSpec = UNetSpec()
    schedule: Schedule = Cosine(0.02, 0.95)
    predicts: Parameterisation = PredictsVelocity()
    conditioning: Conditioning = LogSNR()
    objective: Loss = Objective()
    optim: Optim = Optim()
    ema: Averaging = Exponential()
    augment: Augment = Augment()
    grid: Grid = Uniform()
    sampler: Sampler = DDIM()
    steps: int = 20
    sampled_on: Schedule | None = None
    clip: bool | Literal["x0"] = False
    report: Report = Report()
    minutes: float = 40.0
    images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        # A callable is a module, or a class or function that makes a module; specs are not callable.
        if callable(self.net):
            object.__setattr__(self, "net", UserNetwork(self.net))
        for name, registry in _NAMED.items():
            if (part := getattr(self, name)) is not None:
                object.__setattr__(self, name, choose_part(name, part, registry))
        check_count("steps", self.steps)
        if self.clip not in (True, False, "x0"):
            raise UserError(f"clip must be true, false or x0, got {self.clip!r}")
        for name, value in (("minutes", self.minutes), ("images", self.images)):
            if value is not None and not to_float(name, value) > 0:
                raise UserError(f"{name} (--{name}) must be above 0, got {value}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed must lie in [0, 2^32), got {self.seed}")

    @property
    def split_seed(self) -> int:
        """The seed by which held-out images are drawn: `data.split_seed`, or else `seed`."""
        return self.seed if self.data.split_seed is None else self.data.split_seed

    @property
    def is_student(self) -> bool:
        """Whether the run is a student, as `ddim.distill` trains it."""
        return isinstance(self.objective, Consistency)

    @property
    def sampling_schedule(self) -> Schedule:
        """The noise schedule of sampling: `sampled_on`, or else `schedule`."""
        return self.sampled_on or self.schedule

    def choose_steps(self, steps: int | None) -> int:
        """Return `steps`, or the recipe's own number of sampling steps if `steps` is None.

        Raises:
            UserError: if the number is not allowed.
        """
        if steps is None:
            return self.steps
        check_count("steps", steps)
        return steps


def may_leave_weights_unused(recipe: Recipe) -> bool:
    """Return whether some weights of the network may have no part in the loss.

    These are the embeddings of classes, vectors or augmentations that training never gives, and any weights
    of a network that the user wrote.
    """
    net = recipe.net
    if isinstance(net, UserNetwork):
        return True
    unlabelled = not recipe.data.conditional and (net.classes > 0 or net.vector > 0)
    return unlabelled or (net.augment > 0 and not recipe.augment.probability)


def build_model(recipe: Recipe, channels: int) -> Model:
    """Build the model of a recipe for images with this number of channels.

    The initial weights are drawn from torch's global generator.
    """
    shape = Shape(channels, *recipe.data.size)
    net = recipe.net.network(channels)
    return Model(net, recipe.schedule, recipe.predicts, recipe.conditioning, shape)
