"""Schedules with alpha = 1: noise is added to an image of constant scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.schedules.level import Level, as_double
from ddim.errors import UserError, check_part_values


@dataclass(frozen=True)
class KarrasSigma:
    """alpha = 1, and sigma^(1 / rho) linear in t from `sigma_min` to `sigma_max` (Karras et al. 2022, eq. 5).

    If rho is None, log sigma is linear in t. This is the limit of large rho, and it is the variance-exploding
    SDE of Song et al. 2021b, appendix C. The image at t = 0 is not clean: sigma(0) = sigma_min. The last
    noise level of a grid is above sigma_min, because no grid contains t = 0.

    Attributes:
        sigma_min: noise rate sigma at t = 0.
        sigma_max: noise rate sigma at t = 1.
        rho: larger values bring more of the times close to `sigma_min`; None for equal steps of log sigma.
    """

    sigma_min: float = 0.001
    sigma_max: float = 80.0
    rho: float | None = 7.0

    entries = None  # continuous

    def __post_init__(self) -> None:
        check_part_values(type(self).__name__, self)
        if not 0 < self.sigma_min < self.sigma_max < math.inf or not (self.rho is None or self.rho > 0):
            raise UserError(
                "KarrasSigma needs 0 < sigma_min < sigma_max and rho > 0 or none, "
                f"got {self.sigma_min}, {self.sigma_max} and {self.rho}"
            )

    def __call__(self, t: Tensor | float) -> Level:
        """Return the noise level at times t; see `Schedule`."""
        low, high = self._ends
        root = low + as_double(t) * (high - low)
        sigma = root.exp() if self.rho is None else root**self.rho
        return Level(torch.ones_like(sigma), sigma)

    def inverse(self, log_snr: Tensor | float) -> Tensor:
        """Return the time of a log-SNR; see `Schedule`."""
        low, high = self._ends
        log_sigma = -as_double(log_snr) / 2
        root = log_sigma if self.rho is None else (log_sigma / self.rho).exp()
        return ((root - low) / (high - low)).clamp(0, 1)

    @property
    def _ends(self) -> tuple[float, float]:
        """The quantity that is linear in t, sigma^(1 / rho) or log sigma, at t = 0 and at t = 1."""
        if self.rho is None:
            return math.log(self.sigma_min), math.log(self.sigma_max)
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
