"""Predictions of the clean image and the noise of a noisy image, and conversions between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddim.diffusion.schedules import Level
from ddim.diffusion.short_repr import ShortRepr

On = Literal["noise", "image", "velocity", "flow"]
"""A quantity of a prediction: eps, x0, alpha * eps - sigma * x0, or eps - x0."""


@dataclass(frozen=True, repr=False)
class Prediction(ShortRepr):
    """Predicted clean images x0 and noise eps, both (B, C, H, W), with x_t = alpha * x0 + sigma * eps.

    Networks that predict a variance also predict `variance_mix`, of the same shape, in [0, 1]. It
    interpolates the log-variance of a step, from the smallest at 0 to the largest at 1 (Nichol & Dhariwal
    2021, eq. 15).
    """

    x0: Tensor
    eps: Tensor
    variance_mix: Tensor | None = None


def from_noise(x_t: Tensor, eps: Tensor, at: Level) -> Prediction:
    """Return the prediction with this noise: x0 = (x_t - sigma * eps) / alpha (Ho et al. 2020, eq. 15)."""
    return Prediction((x_t - at.sigma * eps) / at.alpha, eps)


def from_image(x_t: Tensor, x0: Tensor, at: Level) -> Prediction:
    """Return the prediction with this clean image: eps = (x_t - alpha * x0) / sigma."""
    return Prediction(x0, (x_t - at.alpha * x0) / at.sigma)


def from_velocity(x_t: Tensor, v: Tensor, at: Level) -> Prediction:
    """Return the prediction with velocity v = alpha * eps - sigma * x0 (Salimans & Ho 2022, appendix D)."""
    norm = at.alpha**2 + at.sigma**2
    return Prediction((at.alpha * x_t - at.sigma * v) / norm, (at.sigma * x_t + at.alpha * v) / norm)


def velocity(p: Prediction, at: Level) -> Tensor:
    """Return the velocity (B, C, H, W) of a prediction: alpha * eps - sigma * x0."""
    return at.alpha * p.eps - at.sigma * p.x0


def quantity(p: Prediction, at: Level, on: On) -> Tensor:
    """Return the noise, image, velocity or flow (B, C, H, W) of a prediction."""
    if on == "velocity":
        return velocity(p, at)
    if on == "flow":
        return p.eps - p.x0
    return p.eps if on == "noise" else p.x0


def error_ratio(at: Level, on: On) -> Tensor:
    """Return the size of the error of the quantity `on` for an error of size 1 in the image, at a fixed x_t.

    Since x_t = alpha * x0 + sigma * eps is fixed, an error d of x0 is an error -(alpha / sigma) d of eps.
    """
    noise = at.alpha / at.sigma
    if on == "velocity":
        return at.alpha * noise + at.sigma
    if on == "flow":
        return noise + 1
    return noise if on == "noise" else torch.ones_like(noise)
