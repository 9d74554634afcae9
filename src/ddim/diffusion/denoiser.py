"""Denoisers: functions (x_t, t) -> predicted clean image and noise, which samplers and losses call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ddim.diffusion.parameterisation import (
    CONDITIONINGS,
    PARAMETERISATIONS,
    Conditioning,
    Parameterisation,
    Prediction,
    from_image,
)
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import SCHEDULES, Number, Schedule, as_times, check_schedule, spread_over
from ddim.errors import UserError, check_choice

T = TypeVar("T")
P = ParamSpec("P")


class Denoiser(Protocol):
    """A model for samplers and losses: it has a noise schedule, and when called, it returns a prediction."""

    @property
    def schedule(self) -> Schedule:
        """The noise schedule; it defines the noise level of x_t at the time t of a call."""
        ...

    def __call__(self, x_t: Tensor, t: Number) -> Prediction:
        """Return the prediction for noisy images x_t (B, C, H, W) at times t, scalar or (B,)."""
        ...


@dataclass(frozen=True)
class Shape:
    """Channels, height and width of a model's images."""

    channels: int
    height: int
    width: int


class Model(nn.Module):
    """A denoiser that evaluates a network; the only denoiser with weights.

    Args:
        net: a module or a function net(x, condition) -> F, with x (B, C, H, W) and condition (B,). Its output
            F has the shape of x, or twice the channels if the network also predicts a variance. If
            `net.classes` is above 0, class labels (B,) are the third argument. If `net.vector` is above 0,
            vectors (B, d) are the third argument. This argument is None if no image has a label.
            Augmentation labels are passed as `augment=` (B, n).
        schedule: the noise schedule, or its name, such as "cosine".
        predicts: the meaning of F: a parameterisation, or its name "velocity", "noise", "image", "edm",
            "score" or "flow".
        conditioning: the function of the noise level that the network receives as `condition`, or its name:
            "log_snr", "sigma", "noise_variance", "signal_variance", "timestep", "c_noise" or "time".
        shape: channels, height and width of the images.

    Attributes:
        pixels: the map between images and model units: to [-1, 1], or as in the run of the model.

    Raises:
        UserError: if a name is unknown, or `check_schedule` refuses the schedule.

    Example:
        >>> model = Model(net, Cosine(), predicts="velocity", shape=(3, 32, 32))
        >>> model(x, 0.5).x0
    """

    def __init__(
        self,
        net: nn.Module | Callable[..., Tensor],
        schedule: Schedule | str,
        predicts: Parameterisation | str = "velocity",
        conditioning: Conditioning | str = "log_snr",
        shape: Shape | tuple[int, int, int] = (3, 32, 32),
    ) -> None:
        super().__init__()
        self.net: Any = net
        # The number of classes, the length of vectors and the number of augmentation labels that it takes.
        self.classes = int(getattr(net, "classes", 0))
        self.vector = int(getattr(net, "vector", 0))
        self.augment = int(getattr(net, "augment", 0))
        self.schedule = choose_part("schedule", schedule, SCHEDULES)
        check_schedule(self.schedule)
        self.predicts = choose_part("predicts", predicts, PARAMETERISATIONS)
        conditioning = choose_part("conditioning", conditioning, CONDITIONINGS)
        self.conditioning = complete(conditioning, entries=getattr(self.schedule, "entries", None))
        self.shape = shape if isinstance(shape, Shape) else Shape(*shape)
        self.pixels = Pixels.fixed(0.5, 0.5, self.shape.channels)

    def forward(
        self, x_t: Tensor, t: Number, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Prediction:
        """Return the prediction for noisy images.

        Args:
            x_t: noisy images (B, C, H, W).
            t: times: a number, a scalar tensor or (B,).
            label: class labels (B,), with -1 for no class, or vectors (B, d), with NaN for no vector. If
                `label` is None, no image has a label.
            augment: augmentation labels (B, n); None or zeros mean no augmentation.

        Returns:
            Predicted clean images and noise, with the shape and dtype of x_t.

        Raises:
            UserError: if a time lies outside [0, 1], or the network returns images of another shape.
        """
        t = as_times(t)
        # The coefficients are float64: in float32, differences of almost equal values would lose digits.
        level = self.schedule(t)
        c = self.predicts(level)
        # The addition brings a single value to the device of x_t without waiting for a copy.
        # In bf16, timestep 999 would become 1000.
        zeros = x_t.new_zeros(len(x_t), dtype=torch.promote_types(x_t.dtype, torch.float32))
        condition = zeros + spread_over(self.conditioning(t, level), zeros)
        labels = (label,) if self.classes or self.vector else ()
        augments = {} if augment is None else {"augment": augment.to(x_t)}
        inp = (spread_over(c.inp, x_t) * x_t).to(self.dtype or x_t.dtype)
        output = self.net(inp, condition, *labels, **augments)
        size, channels, *sides = x_t.shape
        if output.shape not in {(size, channels, *sides), (size, 2 * channels, *sides)}:
            raise UserError(f"the network must return images {tuple(x_t.shape)}, got {tuple(output.shape)}")
        F, *more = output.to(x_t.dtype).split(channels, dim=1)
        x0 = spread_over(c.skip, x_t) * x_t + spread_over(c.out, x_t) * F
        p = from_image(x_t, x0, level.over(x_t))
        # If F has twice the channels, the second half v predicts the variance. As in the code of Nichol &
        # Dhariwal, v = -1 gives the smallest variance and v = 1 the largest, and v may leave this range.
        return Prediction(p.x0, p.eps, (more[0] + 1) / 2 if more else None)

    def denoise_at_sigma(self, x: Tensor, sigma: Number, label: Tensor | None = None) -> Tensor:
        """Return D(x, sigma) (B, C, H, W), the clean images that Karras et al. 2022 write with sigma for t.

        Args:
            x: noisy images x0 + sigma * eps (B, C, H, W).
            sigma: the noise rate, a number or (B,): sigma / alpha of this model's schedule.
            label: see `forward`.
        """
        t = self.schedule.inverse(-2 * torch.as_tensor(sigma, dtype=torch.float64).log())
        return self(self.schedule(t).over(x).alpha * x, t, label).x0

    def __repr__(self) -> str:
        parts = self.schedule, self.predicts, self.conditioning, self.shape
        return f"Model({type(self.net).__name__}, {', '.join(map(repr, parts))})"

    def with_labels(self, label: Tensor | int | None = None, augment: Tensor | None = None) -> Denoiser:
        """Return a denoiser that calls this model with fixed labels; they are sent to its device once.

        Args:
            label: one class label for all images, labels (B,), or -1 or None for no class. A network with
                vectors takes standardised vectors (B, d), NaN for none.
            augment: augmentation labels (B, n) of `ddim.data.augment`, or None for no augmentation.

        Raises:
            UserError: if the network does not have this class, or takes no labels.
        """
        if label is None:
            return Labelled(self, None, augment)
        label = torch.as_tensor(label)
        if not self.vector and not (label.min() >= -1 and label.max() < self.classes):
            raise UserError(f"label must be one of the {self.classes} classes, or -1, got {label.tolist()}")
        return Labelled(self, label.to(self.blank(0).device), augment)

    def blank(self, n: int) -> Tensor:
        """Return zeros (n, C, H, W) with this model's image shape, on its device, at least in float32.

        Weights may be bf16; in the sums of a sampler it would lose digits.
        """
        weight = next(self.parameters(), torch.empty((), device="cpu"))
        size = (n, self.shape.channels, self.shape.height, self.shape.width)
        kind = torch.promote_types(weight.dtype, torch.float32)
        return torch.zeros(size, dtype=kind, device=weight.device)

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of the network's weights, in which it gets images; None without weights."""
        return next((weight.dtype for weight in self.parameters()), None)


@dataclass(frozen=True)
class Labelled:
    """A denoiser that calls a model with fixed class labels and augmentation labels."""

    model: Model
    label: Tensor | None
    augment: Tensor | None = None

    @property
    def schedule(self) -> Schedule:
        """The schedule of the model."""
        return self.model.schedule

    def __call__(self, x_t: Tensor, t: Number) -> Prediction:
        label = self.label
        label = label.expand(len(x_t)) if label is not None and label.ndim == 0 else label
        return self.model(x_t, t, label, self.augment)


class Counted:
    """A denoiser that counts evaluations of the inner denoiser: `evaluations` is the NFE so far.

    With guidance, put one `Counted` around each denoiser inside `Guided`, not around `Guided`. A guided step
    evaluates the network twice, but a `Counted` around `Guided` would count one evaluation.

    Before each evaluation, `watch` is called with the number of earlier evaluations.
    """

    def __init__(self, inner: Denoiser, watch: Callable[[int], object] = lambda evaluations: None) -> None:
        self.inner, self.watch, self.evaluations = inner, watch, 0

    @property
    def schedule(self) -> Schedule:
        """The schedule of the inner denoiser."""
        return self.inner.schedule

    def __call__(self, x_t: Tensor, t: Number) -> Prediction:
        self.count()
        return self.inner(x_t, t)

    def count(self) -> None:
        """Count an evaluation of the inner denoiser."""
        self.watch(self.evaluations)
        self.evaluations += 1


def choose_part(name: str, value: T | type[T] | str | Sequence[float], registry: Mapping[str, type[T]]) -> T:
    """Return a part of a model: `value` itself or, for a class or its name, a part with default fields.

    Args:
        name: the name of the argument, for messages.
        value: the part, its class, or the name of its class; for a grid, also its times.
        registry: the classes that can be given by name, such as `SCHEDULES`.

    Raises:
        UserError: if the name is unknown.
    """
    if isinstance(value, str):
        check_choice(name, value, registry)
        value = registry[value]
    if isinstance(value, list | tuple | Tensor):
        return registry["listed"](tuple(map(float, value)))  # pyrefly: ignore[bad-argument-count]
    return value() if isinstance(value, type) else value  # pyrefly: ignore[bad-return]


def complete(part: T, **numbers: float | None) -> T:
    """Return a part whose fields that are None have numbers, such as `entries=1000`; so have its inner parts.

    A number of a model stands once: a part whose `entries` or `sigma_data` is None takes the number of the
    schedule or of the pixels.
    """
    if not is_dataclass(part):
        return part
    changes = {}
    for name in (field.name for field in fields(part) if field.init):
        value = getattr(part, name)
        changes[name] = numbers.get(name) if value is None else complete(value, **numbers)
    return replace(part, **changes)  # pyrefly: ignore[bad-specialization]


def with_gradients(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that records gradients even if its caller has turned them off.

    The mode of the caller, such as `torch.no_grad` or `torch.inference_mode`, is restored after each call.
    """

    # The decorators of torch would add a frame of torch, which `warn_user` would name as the caller's line.
    @wraps(function)
    def recorded(*args: P.args, **options: P.kwargs) -> T:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **options)

    return recorded
