"""The two halves of a noisy image, and how each way of predicting gives both."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ddim.diffusion.schedules import Level
from ddim.diffusion.short_repr import ShortRepr


@dataclass(frozen=True, repr=False)
class Prediction(ShortRepr):
    """Clean image and noise, both (B, C, H, W): x_t = alpha * x0 + sigma * eps.

    `variance_mix`, of the same shape, in [0, 1], comes from networks that predict a variance. It says where
    the log-variance of a step lies, from the smallest at 0 to the largest at 1 (Nichol & Dhariwal 2021,
    eq. 15).
    """

    x0: Tensor
    eps: Tensor
    variance_mix: Tensor | None = None


def from_noise(x_t: Tensor, eps: Tensor, at: Level) -> Prediction:
    """The prediction with this noise: x0 = (x_t - sigma * eps) / alpha (Ho et al. 2020, eq. 15)."""
    return Prediction((x_t - at.sigma * eps) / at.alpha, eps)


def from_image(x_t: Tensor, x0: Tensor, at: Level) -> Prediction:
    """The prediction with this clean image: eps = (x_t - alpha * x0) / sigma."""
    return Prediction(x0, (x_t - at.alpha * x0) / at.sigma)


def from_velocity(x_t: Tensor, v: Tensor, at: Level) -> Prediction:
    """The prediction with the velocity v = alpha * eps - sigma * x0 (Salimans & Ho 2022, appendix D)."""
    norm = at.alpha**2 + at.sigma**2
    return Prediction((at.alpha * x_t - at.sigma * v) / norm, (at.sigma * x_t + at.alpha * v) / norm)


def velocity(p: Prediction, at: Level) -> Tensor:
    """The velocity (B, C, H, W) of a prediction: alpha * eps - sigma * x0."""
    return at.alpha * p.eps - at.sigma * p.x0
