"""A weight of the loss that is learned during training: 1 / E[loss] at each noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from ddim.diffusion.prediction import On
from ddim.diffusion.schedules import Level, Schedule
from ddim.diffusion.time_sampling import TimeSampling
from ddim.errors import check_positive

FARTHEST = 20.0
"""The function u of `LearnedWeight` has knots from log-SNR -20 to 20, and is constant outside this range."""

BETAS = (0.9, 0.99)
"""Decay rates of the two moments of Adam."""


@dataclass(frozen=True)
class LearnedWeight:
    """Weight exp(-u), where u(log-SNR) is trained to minimise loss / exp(u) + u.

    See Karras et al. 2024, eq. 14 and 15. At the optimum, exp(u) is the expected loss at a noise level. So
    all noise levels contribute equally (Kendall et al. 2018). u is trained beside the network, by Adam. Its
    gradient needs only the losses of the images. Here u is linear between knots; the paper has one layer on
    Fourier features. Checkpoints hold u, and sampling does not use it. The weighted loss, which training
    reports, tends to 1 and does not show the progress of training. The validation errors show this progress.

    Attributes:
        spacing: distance of the knots of u, in units of log-SNR.
        rate: learning rate of u.
    """

    spacing: float = 1.0
    rate: float = 0.01

    def __post_init__(self) -> None:
        check_positive("objective.weight", spacing=self.spacing, rate=self.rate)

    def __call__(self, at: Level, on: On) -> Tensor:
        """Return 1. The learned weights come with the times of a batch instead; see `LearnedLosses.draw`."""
        return torch.ones_like(at.sigma)


class LearnedLosses:
    """The learned logarithm u of the expected loss at each noise level, and the times of training.

    It satisfies `Memory`.

    Args:
        weight: the options of u.
        times: the distribution of the times.
        schedule: the noise schedule of training.
    """

    def __init__(self, weight: LearnedWeight, times: TimeSampling, schedule: Schedule) -> None:
        self.weight, self.times, self.schedule = weight, times, schedule
        self.knots = torch.arange(math.ceil(2 * FARTHEST / weight.spacing) + 1, dtype=torch.float64)
        zeros = torch.zeros_like(self.knots)
        self.slots = {"values": zeros, "first": zeros.clone(), "second": zeros.clone()}
        self.slots["updates"] = torch.zeros((), dtype=torch.float64)

    def to(self, device: str) -> Self:
        """Move the tensors to a device, which must support float64, and return this object."""
        self.knots = self.knots.to(device)
        self.slots = {name: value.to(device) for name, value in self.slots.items()}
        return self

    def log_losses(self, log_snr: Tensor) -> Tensor:
        """Return u (B,), the learned logarithm of the expected loss, at log-SNRs (B,)."""
        return self._features(log_snr) @ self.slots["values"]

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Return times (B,) in (0, 1] and their weights exp(-u) (B,), from random numbers (B,) in [0, 1)."""
        times = self.times(uniform, self.schedule)
        return times, (-self.log_losses(self.schedule(times).log_snr)).exp()

    def update(self, times: Tensor, losses: Tensor, valid: Tensor | bool = True) -> None:
        """Take a step of Adam on the mean of loss / exp(u) + u, if `valid` is true.

        Args:
            times: the times (B,) of the images.
            losses: their losses (B,), without the weights.
            valid: whether the losses are finite.
        """
        log_snr = self.schedule(times).log_snr
        slope = 1 - losses.double() * (-self.log_losses(log_snr)).exp()
        gradient = (slope[:, None] * self._features(log_snr)).mean(0)
        slots, count = self.slots, self.slots["updates"] + 1
        first = torch.lerp(gradient, slots["first"], BETAS[0])
        second = torch.lerp(gradient.square(), slots["second"], BETAS[1])
        scale = (second / (1 - BETAS[1] ** count)).sqrt() + 1e-8
        step = self.weight.rate * first / (1 - BETAS[0] ** count) / scale
        newest = {"values": slots["values"] - step, "first": first, "second": second, "updates": count}
        valid = torch.as_tensor(valid)
        self.slots = {name: torch.where(valid, value, slots[name]) for name, value in newest.items()}

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint saves, keyed by name."""
        return self.slots

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a state that `state` returned."""
        for name, value in self.slots.items():
            value.copy_(state[name])

    def _features(self, log_snr: Tensor) -> Tensor:
        """Return the share (B, knots) of each knot in u at log-SNRs (B,), by linear interpolation."""
        place = (log_snr.double().clamp(-FARTHEST, FARTHEST) + FARTHEST) / self.weight.spacing
        return (1 - (place[:, None] - self.knots).abs()).clamp(min=0)
