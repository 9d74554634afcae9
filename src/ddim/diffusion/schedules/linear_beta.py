"""DDPM's linear beta in continuous time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.schedules.level import Level, as_double
from ddim.errors import UserError, check_part_values


@dataclass(frozen=True)
class LinearBeta:
    """DDPM's linear beta in continuous time: the variance-preserving SDE (Song et al. 2021b, eq. 32 and 33).

    `low` and `high` are beta(0) and beta(1) for t in [0, 1]. Their defaults are 1000 times DDPM's 1e-4 and
    0.02. At t = 0 the image is clean, alpha = 1 and sigma = 0; no grid contains t = 0.

    Attributes:
        low: beta at t = 0.
        high: beta at t = 1.
    """

    low: float = 0.1
    high: float = 20.0

    entries = None  # continuous

    def __post_init__(self) -> None:
        check_part_values(type(self).__name__, self)
        if not 0 < self.low < self.high:
            raise UserError(f"LinearBeta needs 0 < low < high, got {self.low} and {self.high}")

    def __call__(self, t: Tensor | float) -> Level:
        """Return the noise level at times t; see `Schedule`."""
        integral = self._integral(as_double(t))
        return Level((-integral / 2).exp(), (-torch.expm1(-integral)).sqrt())

    def inverse(self, log_snr: Tensor | float) -> Tensor:
        """Return the time of a log-SNR; see `Schedule`."""
        # alpha^2 = sigmoid(log_snr) = exp(-integral); the integral is a quadratic in t.
        slope = self.high - self.low
        integral = -torch.nn.functional.logsigmoid(as_double(log_snr)).clamp(min=-self.low - slope / 2)
        return (2 * integral / (self.low + (self.low**2 + 2 * slope * integral).sqrt())).clamp(0, 1)

    def _integral(self, t: Tensor) -> Tensor:
        """Return the integral of beta from 0 to t."""
        return self.low * t + (self.high - self.low) / 2 * t**2
