"""A recipe: the tree of choices behind a run, as frozen values. See `codec` for recipes as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from ddim.data.augment import Augment
from ddim.data.images import check_size
from ddim.diffusion.conditioning import Conditioning, LogSNR
from ddim.diffusion.denoiser import Model, Shape
from ddim.diffusion.grids import Grid, Uniform
from ddim.diffusion.loss import Loss, Objective
from ddim.diffusion.parameterisation import Parameterisation, PredictsVelocity
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import DDIM, Sampler
from ddim.diffusion.schedules import Cosine, Schedule
from ddim.errors import UserError, check_positive
from ddim.metrics.catalogue import LEAST
from ddim.nn.ema import Averaging, Exponential
from ddim.nn.networks import NetworkSpec
from ddim.nn.unet import UNetSpec


@dataclass(frozen=True)
class Data:
    """The images: source, (height, width), channels (None: those of most), mirroring, validation share.

    `dequantise` adds uniform noise within the bin of each 8-bit value, each time an image is seen. `labels`
    conditions the network on the class, the folder, of each image. A share `unlabelled` of the labels is
    dropped, at random each time, so that it learns images without a class too, which guidance needs (Ho &
    Salimans 2022).
    """

    source: str = "blossoms"
    size: tuple[int, int] = (64, 64)
    channels: int | None = None
    flip: bool = True
    validation: float = 0.1
    dequantise: bool = False
    labels: bool = False
    unlabelled: float = 0.1

    def __post_init__(self) -> None:
        check_size(self.size)
        if self.channels not in (None, 1, 3, 4):
            raise UserError(f"data.channels must be 1 (gray), 3 (RGB), 4 (RGBA) or none, got {self.channels}")
        if not 0 <= self.validation < 1:
            raise UserError(f"data.validation must be at least 0 and less than 1, got {self.validation}")
        if not 0 <= self.unlabelled < 1:
            raise UserError(f"data.unlabelled must be at least 0 and less than 1, got {self.unlabelled}")

    def bins(self, pixels: Pixels) -> Pixels:
        """Return the pixels of a run, dequantised if the images are."""
        return pixels.dequantised if self.dequantise else pixels


class PixelRule(Protocol):
    """How images in [0, 1] become model units; a frozen dataclass, listed in `PIXELS`."""

    @property
    def deviation(self) -> float | None:
        """The standard deviation of the training images in model units; None if it is not known."""
        ...

    def find_pixels(self, channels: int, measure: Callable[[float], Pixels]) -> Pixels:
        """Return the pixels of a run; `measure` makes those that give the training set a deviation."""
        ...


@dataclass(frozen=True)
class Measured:
    """Each channel of the training set gets mean 0 and standard deviation `std`."""

    std: float = 1.0

    def __post_init__(self) -> None:
        check_positive("pixels", std=self.std)

    @property
    def deviation(self) -> float:
        """Return `std`."""
        return self.std

    def find_pixels(self, channels: int, measure: Callable[[float], Pixels]) -> Pixels:
        """Measure the training set; see `PixelRule`."""
        return measure(self.std)


@dataclass(frozen=True)
class Fixed:
    """Images minus `mean`, divided by `std`; 0.5 and 0.5 are the usual [-1, 1]."""

    mean: float = 0.5
    std: float = 0.5
    deviation = None  # the user's to know

    def __post_init__(self) -> None:
        check_positive("pixels", std=self.std)

    def find_pixels(self, channels: int, measure: Callable[[float], Pixels]) -> Pixels:
        """Return the same map for every channel; see `PixelRule`."""
        return Pixels.fixed(self.mean, self.std, channels)


PIXELS: dict[str, type[PixelRule]] = {"measured": Measured, "fixed": Fixed}
"""Every kind of pixels by its name in a recipe."""


@dataclass(frozen=True)
class Optim:
    """AdamW (Loshchilov & Hutter 2019) and its learning rate, a function of the images seen.

    An update takes `batch` images, in `accumulate` parts. Gradients are clipped to norm `clip`; 0 turns this
    off. The rate rises linearly over `warmup` images, then is constant or decays as a cosine to 0 at the end.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    batch: int = 64
    accumulate: int = 1
    clip: float = 1.0
    warmup: int = 0
    decay: Literal["constant", "cosine"] = "constant"

    def __post_init__(self) -> None:
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
    """What a run measures and shows while it trains, `events` times and between.

    At each event: a validation on at most `validation_images`, a sheet of `grid` samples in `steps` steps,
    KID of `kid` samples against the validation images (0: none), and a checkpoint. Between them: a line of
    losses every `log` updates, and a checkpoint every `checkpoint` seconds. The checkpoint with the lowest
    `best` is kept.
    """

    events: int = 10
    validation_images: int = 256
    grid: int = 16
    steps: int = 20
    log: int = 20
    checkpoint: float = 120.0
    kid: int = 0
    best: Literal["image_mae", "kid"] = "image_mae"

    def __post_init__(self) -> None:
        check_positive(
            "report",
            events=self.events,
            grid=self.grid,
            steps=self.steps,
            log=self.log,
            validation_images=self.validation_images,
        )
        if self.kid and self.kid < LEAST:
            raise UserError(f"report.kid must be 0 or at least {LEAST} samples, got {self.kid}")
        if self.best == "kid" and not self.kid:
            raise UserError("report.best kid needs report.kid, a number of samples above 0, got 0")


@dataclass(frozen=True)
class Recipe:
    """The tree of choices behind a run.

    The run is trained on `schedule`, and sampled on it unless `sampled_on` is another schedule with the same
    levels. `clip` limits the predicted x0 to what pixels can be. With little signal, as at the end of the
    cosine table, a small error of eps is a large error of x0. True recomputes eps from the clipped x0; "x0"
    leaves eps as predicted, as diffusers does.
    """

    name: str = "custom"
    data: Data = Data()
    pixels: PixelRule = Measured()
    net: NetworkSpec = UNetSpec()
    schedule: Schedule = Cosine()
    predicts: Parameterisation = PredictsVelocity()
    conditioning: Conditioning = LogSNR()
    objective: Loss = Objective()
    optim: Optim = Optim()
    ema: Averaging = Exponential()
    augment: Augment = Augment()
    grid: Grid = Uniform()
    sampler: Sampler = DDIM()
    sampled_on: Schedule | None = None
    clip: bool | Literal["x0"] = False
    report: Report = Report()
    minutes: float = 40.0
    images: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive("recipe", minutes=self.minutes, images=1 if self.images is None else self.images)
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed must lie in [0, 2^32), got {self.seed}")

    @property
    def sampling_schedule(self) -> Schedule:
        """Return the schedule whose times a sampler uses."""
        return self.sampled_on or self.schedule


def build_model(recipe: Recipe, channels: int) -> Model:
    """Build the model of a recipe; the global generator draws its initial weights."""
    shape = Shape(channels, *recipe.data.size)
    net = recipe.net.network(channels)
    return Model(net, recipe.schedule, recipe.predicts, recipe.conditioning, shape)
