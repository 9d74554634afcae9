"""The cosine schedule of Béres' Keras example."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.schedules.level import Level, as_double
from ddim.errors import UserError, check_part_values


@dataclass(frozen=True)
class Cosine:
    """alpha = cos and sigma = sin of an angle that grows linearly with t, between two signal rates.

    This is the schedule of Béres' Keras example, after Nichol & Dhariwal 2021, eq. 17. With the original
    bounds, 0.95 and 0.02, the image at t = 0 is not clean: sigma(0) = 0.31.

    Attributes:
        min_signal: signal rate alpha at t = 1.
        max_signal: signal rate alpha at t = 0.
    """

    min_signal: float = 0.02
    max_signal: float = 0.95

    entries = None  # continuous

    def __post_init__(self) -> None:
        check_part_values(type(self).__name__, self)
        if not 0 < self.min_signal < self.max_signal <= 1:
            raise UserError(
                f"Cosine needs 0 < min_signal < max_signal <= 1, got {self.min_signal} and {self.max_signal}"
            )

    def __call__(self, t: Tensor | float) -> Level:
        """Return the noise level at times t; see `Schedule`."""
        start, end = math.acos(self.max_signal), math.acos(self.min_signal)
        angle = start + as_double(t) * (end - start)
        return Level(angle.cos(), angle.sin())

    def inverse(self, log_snr: Tensor | float) -> Tensor:
        """Return the time of a log-SNR; see `Schedule`."""
        start, end = math.acos(self.max_signal), math.acos(self.min_signal)
        angle = torch.atan((-as_double(log_snr) / 2).exp())
        return ((angle - start) / (end - start)).clamp(0, 1)
