"""Noise schedules: how much signal and how much noise an image holds at each time, t -> Level(alpha, sigma).

x_t = alpha * x0 + sigma * eps, with t = 0 clean and t = 1 noise, everywhere.
"""

from __future__ import annotations

from typing import Protocol

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
    """A small immutable value; its log-SNR never grows with t."""

    @property
    def entries(self) -> int | None:
        """Number of levels where the schedule is a table; None where it is continuous."""
        ...

    def __call__(self, t: Tensor | float) -> Level:
        """Times t in [0, 1] of any shape -> the level at each, float64."""
        ...

    def inverse(self, log_snr: Tensor | float) -> Tensor:
        """The earliest time at which the log-SNR is at most this value, float64, clamped to [0, 1]."""
        ...


SCHEDULES: dict[str, type[Schedule]] = {
    "cosine": Cosine,
    "linear": Linear,
    "linear_beta": LinearBeta,
    "beta_table": BetaTable,
    "linear_in": LinearIn,
    "karras_sigma": KarrasSigma,
}
"""Every kind of schedule by its name in a recipe."""
