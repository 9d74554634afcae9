"""Denoisers: functions (x_t, t) -> predicted clean image and noise, which samplers and losses call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ddim.diffusion.conditioning import CONDITIONINGS, Conditioning, LogSNR
from ddim.diffusion.log_snr import check_schedule
from ddim.diffusion.parameterisation import PARAMETERISATIONS, Parameterisation
from ddim.diffusion.parts import choose_part, complete
from ddim.diffusion.prediction import Prediction, from_image
from ddim.diffusion.schedules import SCHEDULES, Schedule, as_double
from ddim.errors import UserError


class Denoiser(Protocol):
    """A model for samplers and losses: it has a noise schedule, and when called, it returns a prediction."""

    @property
    def schedule(self) -> Schedule:
        """The noise schedule; it defines the noise level of x_t at the time t of a call."""
        ...

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Prediction:
        """Return the prediction for noisy images x_t (B, C, H, W) at times t, scalar or (B,)."""
        ...


@dataclass(frozen=True)
class Shape:
    """Channels, height and width of a model's images."""

    channels: int
    height: int
    width: int


def check_output(
    output: object, x: Tensor, net: object, *, label: bool = False, outputs: Sequence[int] = (1, 2)
) -> None:
    """Check the shape of a network's output.

    Args:
        output: the output.
        x: the images (B, C, H, W) with which the network was called.
        net: the network, or its name for the message.
        label: whether the network was called with class labels.
        outputs: the allowed numbers of channels of the output, as multiples of C.

    Raises:
        UserError: if the output is not a tensor with one of the allowed shapes.
    """
    count, channels, *size = x.shape
    wanted = [(count, multiple * channels, *size) for multiple in outputs]
    if isinstance(output, Tensor) and output.shape in wanted:
        return
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise UserError(f"{describe_call(net, x, label=label)} must return {wanted[0]}, got {found}")


def describe_call(net: object, x: Tensor, *, label: bool) -> str:
    """Return the start of a message about a call of a network: its name and the shapes of its arguments.

    `label` says whether the network was called with class labels.
    """
    function = net.function if isinstance(net, Function) else net
    name = function if isinstance(function, str) else getattr(function, "__name__", type(function).__name__)
    last = f" and label ({len(x)},)," if label else ","
    return f"net {name}, called with x {tuple(x.shape)}, noise_level ({len(x)},){last}"


class Function(nn.Module):
    """A network without weights that calls a plain function."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.classes, self.augment, self.vector = (
            getattr(function, name, 0) for name in ("classes", "augment", "vector")
        )

    def forward(self, *args: Tensor | None, **options: Tensor) -> Tensor:
        """Call the wrapped function and return its output."""
        return self.function(*args, **options)


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
        conditioning: the function of the noise level that the network receives as `condition`, or its name.
        shape: channels, height and width of the images.

    Raises:
        UserError: if a name is unknown, or a part is given as a class instead of an instance.
        UserError: if the schedule returns no `Level`, or its log-SNR does not fall from t = 0 to t = 1.

    Example:
        >>> model = Model(net, Cosine(), predicts="velocity", shape=(3, 32, 32))
        >>> model(x, 0.5).x0
    """

    def __init__(
        self,
        net: nn.Module | Callable[..., Tensor],
        schedule: Schedule | str,
        predicts: Parameterisation | str = "velocity",
        conditioning: Conditioning | str = LogSNR(),  # noqa: B008  (a frozen value)
        shape: Shape | tuple[int, int, int] = (3, 32, 32),
    ) -> None:
        super().__init__()
        if isinstance(net, type) or not callable(net):
            given = net.__name__ if isinstance(net, type) else repr(net)
            raise UserError(f"net must be a module or a function, got {given}: make an instance of a class")
        self.net: nn.Module = net if isinstance(net, nn.Module) else Function(net)
        self.schedule = choose_part("schedule", schedule, SCHEDULES)
        check_schedule(self.schedule)
        self.predicts = choose_part("predicts", predicts, PARAMETERISATIONS)
        self.conditioning = complete(
            choose_part("conditioning", conditioning, CONDITIONINGS),
            entries=getattr(self.schedule, "entries", None),
        )
        if not isinstance(shape, Shape) and len(shape) != 3:
            raise UserError(f"shape must be (channels, height, width), got {shape}")
        self.shape = shape if isinstance(shape, Shape) else Shape(*shape)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor | float,
        label: Tensor | None = None,
        augment: Tensor | None = None,
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
            UserError: if the output of the network has neither the shape of x_t nor twice its channels.
        """
        t = as_double(t).expand(len(x_t))
        level = self.schedule(t)
        # The coefficients are float64: in float32, differences of almost equal values would lose digits.
        c = self.predicts(level)
        condition = self.conditioning(t, level).to(x_t)
        over = lambda value: value.reshape(-1, 1, 1, 1).to(x_t)  # noqa: E731
        labels = (label,) if self.classes or self.vector else ()
        augments = {} if augment is None else {"augment": augment.to(x_t)}
        output = self.net(over(c.inp) * x_t, condition, *labels, **augments)
        check_output(output, x_t, self.net, label=bool(labels))
        output = output.to(x_t.dtype)
        F, *more = output.split(x_t.shape[1], dim=1)
        p = from_image(x_t, over(c.skip) * x_t + over(c.out) * F, level.over(x_t))
        # If F has twice the channels, the second half predicts the variance. An output of 0 gives a mix of
        # 1/2, half-way between the smallest and the largest log-variance.
        return Prediction(p.x0, p.eps, more[0].sigmoid() if more else None)

    def __repr__(self) -> str:
        weights = sum(parameter.numel() for parameter in self.parameters())
        name = type(self.net).__name__
        choices = (self.schedule, self.predicts, self.conditioning, self.shape)
        return f"Model({name} of {weights:,} weights, {', '.join(map(repr, choices))})"

    @property
    def classes(self) -> int:
        """Number of classes of the network; 0 if it takes no class labels."""
        return self._count("classes")

    @property
    def vector(self) -> int:
        """Length of the vectors on which the network is conditioned; 0 if it takes none."""
        return self._count("vector")

    @property
    def augment(self) -> int:
        """Number of augmentation labels of the network; 0 if it takes none."""
        return self._count("augment")

    def _count(self, name: str) -> int:
        return getattr(self.net, name, 0)

    def with_labels(self, label: Tensor | int | None = None, augment: Tensor | None = None) -> Denoiser:
        """Return a denoiser that calls this model with fixed labels.

        Args:
            label: one class label for all images, labels (B,), or -1 or None for no class. A network with
                vectors takes standardised vectors (B, d), NaN for none.
            augment: augmentation labels (B, n) of `ddim.data.augment`, or None for no augmentation.

        Raises:
            UserError: if the network does not take these labels, or does not have this class.
        """
        if label is None and augment is None:
            return self
        if label is not None and self.vector:
            vectors = torch.as_tensor(label)
            if vectors.ndim != 2 or vectors.shape[1] != self.vector:
                raise UserError(f"label must hold vectors (B, {self.vector}), got {tuple(vectors.shape)}")
            return Labelled(self, vectors, augment)
        if label is not None and not self.classes:
            raise UserError(f"label must be None, since this model was trained without labels, got {label}")
        if augment is not None and augment.shape[-1] != self.augment:
            raise UserError(
                f"augment must hold the {self.augment} augmentation labels of this network for each image, "
                f"got {augment.shape[-1]}"
            )
        labels = None if label is None else torch.as_tensor(label)
        if labels is not None and not (labels.min() >= -1 and labels.max() < self.classes):
            raise UserError(
                f"label must be a class from 0 to {self.classes - 1}, or -1 for none, got {labels.tolist()}"
            )
        return Labelled(self, labels, augment)

    def with_blank_labels(self, n: int) -> Denoiser:
        """Return a denoiser for n images that calls this model with class 0, or with vectors of zeros.

        It serves to measure speed and memory, and to try a loss.
        """
        return self.with_labels(torch.zeros(n, self.vector) if self.vector else 0 if self.classes else None)

    def blank(self, n: int) -> Tensor:
        """Return zeros (n, C, H, W) with this model's image shape, dtype and device."""
        weight = next(self.parameters(), torch.empty(()))
        size = (n, self.shape.channels, self.shape.height, self.shape.width)
        return torch.zeros(size, dtype=weight.dtype, device=weight.device)


@dataclass(frozen=True)
class Labelled:
    """A denoiser that calls a model with fixed class labels and augmentation labels."""

    model: Model
    label: Tensor | None
    augment: Tensor | None

    @property
    def schedule(self) -> Schedule:
        """The schedule of the model."""
        return self.model.schedule

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Prediction:
        """Return the prediction; see `Denoiser`."""
        label = None if self.label is None else self.label.to(x_t.device)
        label = label.expand(len(x_t)) if label is not None and label.ndim < 2 else label
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

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Prediction:
        """Return the prediction; see `Denoiser`."""
        self.watch(self.evaluations)
        self.evaluations += 1
        return self.inner(x_t, t)
