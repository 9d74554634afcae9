"""Losses: the training error of each image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ddim.diffusion.consistency import Consistency
from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.gaussian import posterior
from ddim.diffusion.learned_weight import LearnedLosses, LearnedWeight
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.prediction import On, Prediction, quantity
from ddim.diffusion.schedules import Level, Schedule
from ddim.diffusion.time_sampling import Memory, TableTimes, TimeSampling, UniformTimes
from ddim.diffusion.variational_bound import bound_posterior, image_bits, step_bits
from ddim.diffusion.weighting import Unweighted, Weighting
from ddim.errors import UserError, check_part_values

Error = Literal["l1", "mse", "huber"]

LossFunction = Callable[[Denoiser, Tensor, Tensor, Tensor, Pixels], Tensor]
"""Returns the loss (B,) of each image; the arguments are those of `Loss.__call__`."""

_ERRORS: dict[str, Callable[..., Tensor]] = {"l1": F.l1_loss, "mse": F.mse_loss, "huber": F.huber_loss}


class Loss(Protocol):
    """The loss that training minimises.

    A class of your own that inherits from this class needs only `__call__`.
    """

    @property
    def times(self) -> TimeSampling:
        """The distribution of the training times, by default uniform."""
        return UniformTimes()

    @property
    def needs_variance(self) -> bool:
        """Whether the network must predict a variance, as it does if `net.outputs` is 2."""
        return False

    def at(self, progress: float, seen: int) -> LossFunction:
        """Return the loss at a point of the training; by default this loss.

        Args:
            progress: the finished share of the training, from 0 at its start to 1 at its end.
            seen: number of training images seen so far; repetitions count.
        """
        return self

    def __call__(self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, pixels: Pixels) -> Tensor:
        """Return the loss (B,) of each image.

        Args:
            denoise: the model.
            x0: clean images (B, C, H, W) in model units.
            t: times (B,); noise is added to the images up to the noise level of these times.
            eps: standard normal noise with the shape of x0.
            pixels: the map between images in [0, 1] and model units.
        """
        ...


@dataclass(frozen=True)
class Objective:
    """The error `error` of the predicted quantity `on`, at times drawn from `times`, weighted by `weight`.

    `on` need not be the quantity that the network outputs: predictions are converted.

    The network that minimises the absolute error predicts the median of each pixel, and samplers need its
    mean, which minimises the squared error. But with the absolute error a network learns faster. With
    `finish`, training begins with one and ends with the other; the reported loss then changes its meaning.
    In short trainings the absolute error alone gives better samples, hence `finish_after`.

    Attributes:
        on: the predicted quantity whose error is the loss.
        error: "l1" for the absolute error, "mse" for the squared error, "huber" for the Huber error.
        times: the distribution from which training times are drawn.
        weight: the weight of each noise level.
        finish: share of the training, at its end, whose loss is the squared error of the velocity.
        finish_after: number of training images before which `finish` does not begin.
    """

    on: On = "noise"
    error: Error = "l1"
    times: TimeSampling = UniformTimes()
    weight: Weighting = Unweighted()
    finish: float = 0.0
    finish_after: int = 0

    needs_variance = False

    def __post_init__(self) -> None:
        check_part_values("objective", self)
        if not 0 <= self.finish <= 1:
            raise UserError(f"objective.finish must lie in [0, 1], got {self.finish}")
        if not self.finish_after >= 0:
            raise UserError(f"objective.finish_after must be at least 0, got {self.finish_after}")
        if isinstance(self.weight, LearnedWeight) and self.times.memory() is not None:
            raise UserError(
                "objective.weight learned and objective.times loss_aware both weigh the loss by its past "
                "values: choose one of them"
            )

    def at(self, progress: float, seen: int) -> Self:
        """Return the loss at this progress of training, after `seen` images; see `Loss`."""
        if self.finish == 0 or progress < 1 - self.finish or seen < self.finish_after:
            return self
        return replace(self, on="velocity", error="mse", finish=0.0)

    def __call__(
        self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, pixels: Pixels | None = None
    ) -> Tensor:
        """Return the loss (B,) before the finish; see `Loss`. `pixels` is not used."""
        level = denoise.schedule(t)
        p = denoise(level.noisy(x0, eps), t)
        return self.weight(level, self.on).to(x0) * _error(self, p, Prediction(x0, eps), level.over(x0))


@dataclass(frozen=True)
class Hybrid:
    """L_simple + `vlb` * L_vlb, for networks that predict a variance (Nichol & Dhariwal 2021, eq. 16).

    L_simple is the error `error` of the predicted quantity `on`, as in `Objective`. L_vlb is the variational
    bound in bits per dimension, over the table of `times`, estimated from one random time for each image. In
    L_vlb the predicted image is detached, so that this term trains only the variance.

    Attributes:
        on: the predicted quantity whose error is L_simple.
        error: "l1" for the absolute error, "mse" for the squared error, "huber" for the Huber error.
        times: the distribution from which training times are drawn, on a table.
        vlb: the weight of the variational bound.
    """

    on: On = "noise"
    error: Error = "mse"
    times: TimeSampling = TableTimes()
    vlb: float = 0.001

    needs_variance = True

    def __post_init__(self) -> None:
        if not self.vlb >= 0:
            raise UserError(f"objective.vlb must be at least 0, got {self.vlb}")
        if not isinstance(self.times, TableTimes):
            raise UserError("objective.times must be table_times or loss_aware for hybrid")

    @property
    def entries(self) -> int:
        """Number of entries of the table of times."""
        return self.times.entries or 1000

    def at(self, progress: float, seen: int) -> Self:
        """Return this loss, which is the same during the whole training; see `Loss`."""
        return self

    def __call__(self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, pixels: Pixels) -> Tensor:
        """Return the loss (B,) of 8-bit images; see `Loss`."""
        level = denoise.schedule(t)
        x_t = level.noisy(x0, eps)
        p = denoise(x_t, t)
        simple = _error(self, p, Prediction(x0, eps), level.over(x0))
        detached = Prediction(p.x0.detach(), p.eps.detach(), p.variance_mix)
        bits = self._bits(detached, denoise.schedule, x_t, x0, t, pixels)
        return simple + self.vlb * self.entries * bits

    def _bits(
        self, p: Prediction, schedule: Schedule, x_t: Tensor, x0: Tensor, t: Tensor, pixels: Pixels
    ) -> Tensor:
        """Return the term (B,) of the variational bound at each time, in bits per dimension."""
        # The shape of both times is (1,): a table that is read at a scalar waits for an accelerator.
        first, second = torch.arange(1, 3, dtype=torch.float64, device=t.device)[:, None] / self.entries
        s = ((t.double() * self.entries).round() - 1) / self.entries
        q = bound_posterior(schedule, t, s, posterior(schedule(second), schedule(first)).small[0])
        between = step_bits(p, x_t, x0, q, "learned")
        return torch.where((s > 0).to(x0.device), between, image_bits(p, x0, q, "learned", pixels))


LOSSES: dict[str, type[Loss]] = {"objective": Objective, "hybrid": Hybrid, "consistency": Consistency}
"""All losses, keyed by their names in a recipe."""


def make_memory(loss: Loss, schedule: Schedule, device: str = "cpu") -> Memory | None:
    """Return an empty memory if the times or the weights of a loss depend on past losses, else None.

    Args:
        loss: the loss.
        schedule: the noise schedule of training.
        device: the device of the memory, which must support float64.
    """
    weight = getattr(loss, "weight", None)
    learned = LearnedLosses(weight, loss.times, schedule) if isinstance(weight, LearnedWeight) else None
    memory = learned or loss.times.memory()
    return memory and memory.to(device)


def _error(loss: Objective | Hybrid, p: Prediction, truth: Prediction, at: Level) -> Tensor:
    """Return the mean error (B,) of a prediction over the pixels and channels of each image."""
    found, wanted = (quantity(half, at, loss.on) for half in (p, truth))
    return _ERRORS[loss.error](found, wanted, reduction="none").flatten(1).mean(1)
