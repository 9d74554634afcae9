"""A recipe: all choices of a run, as nested frozen dataclasses. See `codec` for recipes as YAML and JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ddim.data.augment import Augment
from ddim.data.clusters import Clusters
from ddim.data.images import check_size
from ddim.data.values import Reading
from ddim.diffusion.denoiser import Model, Shape, choose_part, complete
from ddim.diffusion.grids import GRIDS, Grid, UniformLogSNR
from ddim.diffusion.loss import LOSSES, WEIGHTINGS, Consistency, Loss, Objective, Weighting
from ddim.diffusion.parameterisation import (
    CONDITIONINGS,
    PARAMETERISATIONS,
    SIGMA_DATA,
    Conditioning,
    LogSNR,
    Parameterisation,
    PredictsVelocity,
    count_entries,
)
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.samplers import SAMPLERS, DPMSolver, Sampler
from ddim.diffusion.schedules import SCHEDULES, Cosine, Schedule
from ddim.diffusion.times import TIME_SAMPLINGS, NormalLogSNR, TimeSampling
from ddim.errors import UserError, check_count, check_part_values, to_float
from ddim.metrics.catalogue import LEAST
from ddim.nn.base import NetworkSpec
from ddim.nn.ema import AVERAGES, Averaging, Power
from ddim.nn.networks import NETWORKS, UserNetwork
from ddim.nn.unet import UNetSpec


@dataclass(frozen=True)
class Data:
    """The training images and how they are prepared.

    Attributes:
        source: a folder, an archive, a file of arrays, or the name of a built-in data set.
        size: (height, width) to which images are cropped and resized.
        channels: 1, 3 or 4; None for the number that most images have.
        flip: whether images are mirrored at random.
        validation: share of the images that is held out for validation.
        split_seed: the seed by which held-out images are drawn; None for the seed of the run. A run with
            --from holds out the same images as the run whose weights it starts from.
        dequantise: whether uniform noise within the bin of each 8-bit value is added each time an image is
            seen.
        labels: whether the network is conditioned on class labels, which are the names of the image folders,
            or clusters:K, for K classes of similar images that k-means finds. See `ddim.data.clusters`.
        unlabelled: share of the labels that is dropped, drawn anew each time an image is seen. The network
            then also learns images without a class, which guidance needs (Ho & Salimans 2022).
        vectors: a CSV file with numbers for each image, on which the network is conditioned in place of a
            class; each row holds the name of an image and its numbers, or only numbers if the rows are in the
            order of the images. See `ddim.data.vectors`. `unlabelled` holds for vectors too.
        values: the type in which the values of pixels are kept: "auto" for the type of most files, "uint8" to
            round them to 8 bits, "uint16" or "float32".
        range: the values LOW,HIGH of 16-bit or float images that become black and white; None means 0 and
            the largest integer for integers; for floats it means 0 and 1, or the smallest and the largest
            value if a value lies outside 0 to 1.
        axis: the axis of the channels in a file of arrays: "first" is the axis right after that of the
            images, "last" the last axis; "auto" for the axis that is shorter than height and width.
        array: the array of a .npz file that holds the images; None finds it.
    """

    source: str = "blossoms"
    size: tuple[int, int] = (64, 64)
    channels: int | None = None
    flip: bool = True
    validation: float = 0.1
    split_seed: int | None = None
    dequantise: bool = False
    labels: bool | Clusters = False
    unlabelled: float = 0.1
    vectors: str | None = None
    values: Literal["auto", "uint8", "uint16", "float32"] = "auto"
    range: tuple[float, float] | None = None
    axis: Literal["auto", "first", "last"] = "auto"
    array: str | None = None

    def __post_init__(self) -> None:
        check_part_values("data", self)
        check_size(self.size)
        if isinstance(self.labels, str):
            object.__setattr__(self, "labels", Clusters.parse(self.labels))

    @property
    def conditional(self) -> bool:
        """Whether the network is conditioned on class labels or vectors."""
        return bool(self.labels) or self.vectors is not None

    @property
    def unconditional(self) -> bool:
        """Whether the network is also trained without a class or vector, so that it can sample without."""
        return not self.conditional or self.unlabelled > 0

    @property
    def reading(self) -> Reading:
        """How the values of the files are read."""
        return Reading(self.values, self.range, self.axis, self.array)

    def bins(self, pixels: Pixels) -> Pixels:
        """Return the map between images and model units, for dequantised images if `dequantise` is set."""
        return pixels.dequantised if self.dequantise else pixels


@dataclass(frozen=True)
class Measured:
    """Normalise each channel of the training set to mean 0 and standard deviation `std`.

    Attributes:
        std: standard deviation of each channel in model units.
    """

    std: float = 1.0


@dataclass(frozen=True)
class Fixed:
    """Subtract `mean` from images and divide them by `std`; 0.5 and 0.5 give the usual range [-1, 1].

    Attributes:
        mean: the number that is subtracted from images in [0, 1].
        std: the number by which the difference is divided.
    """

    mean: float = 0.5
    std: float = 0.5


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
        check_part_values("optim", self, positive=("lr", "batch", "accumulate"))


@dataclass(frozen=True)
class Report:
    """Options of the measurements and files of a run during training.

    Attributes:
        events: number of validations, evenly spaced; each also saves samples and a checkpoint. None makes
            at most 10, and fewer or one with fewer images in a short run, so that they take at most about a
            tenth of its time.
        validation_images: largest number of images in a validation.
        grid: number of samples that each validation saves.
        log: updates between two lines of the log.
        checkpoint: seconds between two checkpoints. None means 120, or more if saving takes long: at most a
            thirtieth of the time is spent on it.
        kid: number of samples whose KID against the validation images is measured; 0 for no KID.
        best: the metric by which the best checkpoint is kept; the lowest value is the best; "none" keeps
            no best checkpoint. If the run ends with the squared error of `objective.finish`, only errors
            in this part count. With `objective.guidance`, errors rise in this part, and the newest
            checkpoint is the best.
        guide: share of the training budget after which a copy of the EMA weights is kept as the weights
            @guide, to guide the finished run (Karras et al. 2024); 0 keeps none.
        snapshots: number of snapshots of two averages of the weights that are kept, from which `ddim ema`
            reconstructs averages of other widths; 0 for none. Each takes the space of two EMAs.
    """

    events: int | None = None
    validation_images: int = 256
    grid: int = 16
    log: int = 20
    checkpoint: float | None = None
    kid: int = 0
    best: Literal["image_mae", "kid", "none"] = "image_mae"
    guide: float = 0.2
    snapshots: int = 0

    def __post_init__(self) -> None:
        check_part_values("report", self, positive=("events", "validation_images", "grid", "log"))
        if self.kid < LEAST and (self.kid or self.best == "kid"):
            raise UserError(f"report.kid must be at least {LEAST} samples, got {self.kid}; 0 measures no KID")


FAMILIES: dict[Any, Mapping[str, type]] = {
    Averaging: AVERAGES,
    Conditioning: CONDITIONINGS,
    Grid: GRIDS,
    Loss: LOSSES,
    NetworkSpec: NETWORKS,
    Parameterisation: PARAMETERISATIONS,
    Sampler: SAMPLERS,
    Schedule: SCHEDULES,
    TimeSampling: TIME_SAMPLINGS,
    Weighting: WEIGHTINGS,
}
"""The registry of classes for each protocol. A field annotated with the protocol can hold these classes."""


LOSS = Objective(
    "noise", "l1", NormalLogSNR(-1.0, 2.5), finish=0.3, finish_after=50_000, guidance=2.5, interval=(-2, 5)
)
"""The loss of `fast` for 64 pixels.

The L1 error of the noise is alpha / sigma times the L1 error of the image. This factor is small at noisy
times, so noisy times are drawn more often. At the end, the squared error moves predictions from the median to
the mean, which samplers need, and guidance moves them towards typical images. In short trainings the squared
error gave worse samples.
"""


@dataclass(frozen=True)
class Recipe:
    """All choices of a run; the defaults are those of the recipe `fast`.

    A schedule, grid, sampler, loss, or what the network predicts and receives can be given by its name, such
    as "cosine". A number stands once: if `entries` or `sigma_data` of a part is None, it is taken from the
    schedule or the pixels.

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
    pixels: Measured | Fixed = Measured()
    net: NetworkSpec = UNetSpec()
    schedule: Schedule = Cosine(0.014, 0.99995)
    predicts: Parameterisation = PredictsVelocity()
    conditioning: Conditioning = LogSNR()
    objective: Loss = LOSS
    optim: Optim = Optim(
        method="muon", lr=4e-3, weight_decay=1e-2, betas=(0.9, 0.99), batch=32, warmup=3200, decay="cosine"
    )
    ema: Averaging = Power(16.97)
    augment: Augment = Augment()
    grid: Grid = UniformLogSNR(3.0)
    sampler: Sampler = DPMSolver(2, eta=0.5)
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
        named = {"schedule": Schedule, "sampled_on": Schedule, "grid": Grid, "sampler": Sampler}
        named |= {"predicts": Parameterisation, "conditioning": Conditioning, "objective": Loss}
        for name, family in named.items():
            if (part := getattr(self, name)) is not None:
                object.__setattr__(self, name, choose_part(name, part, FAMILIES[family]))
        for name, numbers in self.shared_numbers.items():
            object.__setattr__(self, name, complete(getattr(self, name), **numbers))
        check_count("steps", self.steps)
        for name, value in (("minutes", self.minutes), ("images", self.images)):
            if value is not None and not to_float(name, value) > 0:
                raise UserError(f"{name} (--{name}) must be above 0, got {value}")

    @property
    def shared_numbers(self) -> dict[str, dict[str, float]]:
        """The numbers that parts take from the schedule and the pixels, keyed by part and then by field.

        They are 1000 entries for a schedule without a table, and EDM's sigma_data for unknown pixels.
        """
        table: dict[str, float] = {"entries": count_entries(self.schedule)}
        predicted = getattr(self.predicts, "sigma_data", None)
        known = self.pixels.std if isinstance(self.pixels, Measured) else None
        return {
            "conditioning": table,
            "grid": {"entries": count_entries(self.sampling_schedule)},
            "predicts": {"sigma_data": known or SIGMA_DATA},
            "objective": table | {"sigma_data": known or predicted or SIGMA_DATA},
        }

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

    def times(self, steps: int) -> Tensor:
        """Return the decreasing times (steps,) of the grid, float64."""
        return self.grid(steps, self.sampling_schedule)

    def choose_steps(self, steps: int | None) -> int:
        """Return `steps`, or the number of sampling steps of the recipe if `steps` is None.

        Raises:
            UserError: if the number is not allowed.
        """
        if steps is None:
            return self.steps
        check_count("steps", steps)
        return int(steps)


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
