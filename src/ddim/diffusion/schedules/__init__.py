"""Noise schedules: functions t -> Level(alpha, sigma), the signal rate and the noise rate at time t.

In the whole package x_t = alpha * x0 + sigma * eps; t = 0 is the clean image and t = 1 is noise.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.schedules.cosine import Cosine
from ddim.diffusion.schedules.karras_sigma import KarrasSigma
from ddim.diffusion.schedules.level import Level, as_double, variance_preserving
from ddim.diffusion.schedules.linear_beta import LinearBeta
from ddim.diffusion.schedules.linear_in import LinearIn
from ddim.diffusion.schedules.table import BetaTable, Linear

__all__ = [
    "SCHEDULES",
    "BetaTable",
    "Cosine",
    "KarrasSigma",
    "Level",
    "Linear",
    "LinearBeta",
    "LinearIn",
    "Schedule",
    "as_double",
    "variance_preserving",
]


class Schedule(Protocol):
    """A noise schedule: a frozen dataclass that is called with times. The log-SNR never increases with t.

    A schedule of your own only needs `__call__` if its class inherits from this class:

        @dataclass(frozen=True)
        class Straight(ddim.Schedule):
            def __call__(self, t):
                t = as_double(t)
                return Level(1 - 0.999 * t, 0.001 + 0.999 * t)
    """

    @property
    def entries(self) -> int | None:
        """Number of noise levels if the schedule is a table; None if it is continuous."""
        return None

    def __call__(self, t: Tensor | float) -> Level:
        """Return the noise level at times t in [0, 1]: a `Level` of float64 tensors shaped like t."""
        ...

    def inverse(self, log_snr: Tensor | float) -> Tensor:
        """Return the earliest time at which the log-SNR is at most this value: float64, clamped to [0, 1].

        The default implementation finds it by bisection, to the last bit.
        """
        wanted = as_double(log_snr)
        early, late = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(64):
            middle = (early + late) / 2
            below = self(middle).log_snr <= wanted
            early, late = torch.where(below, early, middle), torch.where(below, middle, late)
        return torch.where(self(torch.zeros_like(wanted)).log_snr <= wanted, 0.0, late)


SCHEDULES: dict[str, type[Schedule]] = {
    "cosine": Cosine,
    "linear": Linear,
    "linear_beta": LinearBeta,
    "beta_table": BetaTable,
    "linear_in": LinearIn,
    "karras_sigma": KarrasSigma,
}
"""All schedules, keyed by their names in a recipe."""
