"""The straight path from image to noise, on which flow matching trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.schedules.level import Level, as_double
from ddim.errors import UserError, check_part_values


@dataclass(frozen=True)
class LinearPath:
    """alpha falls linearly with t and sigma = 1 - alpha: x_t lies on the straight line from x0 to eps.

    This is the path of flow matching with optimal transport (Lipman et al. 2023, eq. 22), of rectified flow
    (Liu et al. 2023, eq. 1) and of Esser et al. 2024, eq. 13. Along this path dx_t / dsigma = eps - x0, and a
    step of DDIM is a step of Euler's method.

    The papers let alpha run from 1 to 0. At these ends the log-SNR is infinite, and no sampler but Euler's
    method can start. Here alpha runs from `max_signal` to `min_signal`, by default from log-SNR 13.8 to
    -13.8. The time is rescaled: by default sigma(t) differs from t by at most 0.001.

    Attributes:
        min_signal: signal rate alpha at t = 1.
        max_signal: signal rate alpha at t = 0; 1 makes the image at t = 0 clean.
    """

    min_signal: float = 0.001
    max_signal: float = 0.999

    entries = None  # continuous

    def __post_init__(self) -> None:
        check_part_values(type(self).__name__, self)
        if not 0 < self.min_signal < self.max_signal <= 1:
            raise UserError(
                "LinearPath needs 0 < min_signal < max_signal <= 1, "
                f"got {self.min_signal} and {self.max_signal}"
            )

    def __call__(self, t: Tensor | float) -> Level:
        """Return the noise level at times t; see `Schedule`."""
        t, span = as_double(t), self.max_signal - self.min_signal
        # Both rates are sums of positive numbers. The difference 1 - alpha would lose the digits of small
        # sigmas.
        return Level(self.min_signal + span * (1 - t), (1 - self.max_signal) + span * t)

    def inverse(self, log_snr: Tensor | float) -> Tensor:
        """Return the time of a log-SNR; see `Schedule`."""
        sigma = torch.sigmoid(-as_double(log_snr) / 2)
        return ((sigma - (1 - self.max_signal)) / (self.max_signal - self.min_signal)).clamp(0, 1)
