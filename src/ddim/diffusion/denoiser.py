"""The one method and one attribute that pass between a model and all that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ddim.diffusion.parameterisation import Conditioning, Parameterisation
from ddim.diffusion.prediction import Prediction, from_image
from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError


class Denoiser(Protocol):
    """All that a sampler may know of a model."""

    @property
    def schedule(self) -> Schedule:
        """The schedule whose times this denoiser is asked at."""
        ...

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """x_t (B, C, H, W), t () or (B,) -> both halves, shaped like x_t."""
        ...


@dataclass(frozen=True)
class Shape:
    """Channels, height and width of a model's images."""

    channels: int
    height: int
    width: int


class Model(nn.Module):
    """A network made into a denoiser; the only denoiser with weights."""

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        predicts: Parameterisation,
        conditioning: Conditioning,
        shape: Shape,
    ) -> None:
        super().__init__()
        self.net, self.schedule = net, schedule
        self.predicts, self.conditioning, self.shape = predicts, conditioning, shape

    def forward(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Prediction:
        """x_t (B, C, H, W), t () or (B,) -> Prediction like x_t.

        label (B,), -1 or None for the null class; augment (B, n) or None for no augmentation, which is zeros.
        """
        t = t.expand(len(x_t))
        level = self.schedule(t)
        # Coefficients in float64, where a difference of almost equal rates still has digits.
        c = self.predicts(level)
        told = self.conditioning(t, level).to(x_t)
        over = lambda value: value.reshape(-1, 1, 1, 1).to(x_t)  # noqa: E731
        told_more = {} if augment is None else {"augment": augment.to(x_t)}
        output = self.net(over(c.inp) * x_t, told, label, **told_more).to(x_t.dtype)
        F, *more = output.split(x_t.shape[1], dim=1)
        p = from_image(x_t, over(c.skip) * x_t + over(c.out) * F, level.over(x_t))
        # A network with twice the channels predicts the variance too: 0 is halfway.
        return Prediction(p.x0, p.eps, more[0].sigmoid() if more else None)

    @property
    def classes(self) -> int:
        """How many labels the network tells apart; 0 where it is told of none."""
        return getattr(self.net, "classes", 0)

    @property
    def augment(self) -> int:
        """How many labels of augmentation the network is told; 0 where it is told of none."""
        return getattr(self.net, "augment", 0)

    def given(self, label: Tensor | int | None = None, augment: Tensor | None = None) -> Denoiser:
        """This model told a class: an index for all images, (B,) indices, or -1 or None for the null class.

        And told how its images were augmented: (B, n) labels of `ddim.data.augment`, or None for not at all.
        UserError if the network was built without, or for a class that it does not have.
        """
        if label is None and augment is None:
            return self
        if label is not None and not self.classes:
            raise UserError(f"label must be None, since this model was trained without labels, got {label}")
        if augment is not None and augment.shape[-1] != self.augment:
            raise UserError(
                f"augment must hold {self.augment} labels an image, those that this network is told of, "
                f"got {augment.shape[-1]}"
            )
        told = None if label is None else torch.as_tensor(label)
        if told is not None and not (told.min() >= -1 and told.max() < self.classes):
            raise UserError(f"label must be a class, 0 to {self.classes - 1}, or none, got {told.tolist()}")
        return Given(self, told, augment)

    def blank(self, n: int) -> Tensor:
        """(n, C, H, W) zeros of this model's shape, type and device."""
        weight = next(self.parameters())
        size = (n, self.shape.channels, self.shape.height, self.shape.width)
        return torch.zeros(size, dtype=weight.dtype, device=weight.device)


@dataclass(frozen=True)
class Given:
    """A model with its labels bound."""

    model: Model
    label: Tensor | None
    augment: Tensor | None

    @property
    def schedule(self) -> Schedule:
        """The model's."""
        return self.model.schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """See `Denoiser`."""
        label = None if self.label is None else self.label.to(x_t.device).expand(len(x_t))
        return self.model(x_t, t, label, self.augment)


class Counted:
    """A denoiser that counts how often it is asked: `evaluations` is the NFE of the runs it has served.

    Round a model, inside of any guidance: a guided step of two passes counts two. It has state, the count,
    because that is all it is for.
    """

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.evaluations = inner, 0

    @property
    def schedule(self) -> Schedule:
        """The inner denoiser's."""
        return self.inner.schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """See `Denoiser`."""
        self.evaluations += 1
        return self.inner(x_t, t)
