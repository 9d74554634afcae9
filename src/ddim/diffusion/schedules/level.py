"""Noise levels: the signal rate and the noise rate at a time, with which noisy images are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """A noise level: signal rate alpha and noise rate sigma, tensors of the same shape.

    Schedules return float64.
    """

    alpha: Tensor
    sigma: Tensor

    @property
    def log_snr(self) -> Tensor:
        """2 log(alpha / sigma); infinite where there is no noise."""
        return 2 * (self.alpha.log() - self.sigma.log())

    @property
    def noise_to_signal(self) -> Tensor:
        """sigma / alpha: the noise rate after x_t is divided by alpha (Song et al. 2021, section 4.3)."""
        return self.sigma / self.alpha

    def over(self, x: Tensor) -> Level:
        """Return this level, () or (B,), reshaped to (1 or B, 1, 1, 1), with the dtype and device of x."""
        shape = (-1,) + (1,) * (x.ndim - 1)
        return Level(self.alpha.reshape(shape).to(x), self.sigma.reshape(shape).to(x))

    def noisy(self, x0: Tensor, eps: Tensor) -> Tensor:
        """Return noisy images x_t = alpha * x0 + sigma * eps, all (B, C, H, W); alpha, sigma: () or (B,)."""
        at = self.over(x0)
        return at.alpha * x0 + at.sigma * eps


def variance_preserving(log_snr: Tensor) -> Level:
    """Return the noise level with this log-SNR and alpha^2 + sigma^2 = 1 (Kingma et al. 2021, sect. 3.2)."""
    log_snr = log_snr.double()
    return Level(log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt())


def as_double(value: Tensor | float | Sequence[float]) -> Tensor:
    """Convert times or log-SNRs, numbers or a tensor of any dtype, to a float64 tensor."""
    return torch.as_tensor(value, dtype=torch.float64)
