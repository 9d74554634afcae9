"""The protocol of schedules, from which a schedule can inherit."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.schedules.level import Level, as_double


class Schedule(Protocol):
    """A noise schedule: a frozen dataclass that is called with times. The log-SNR never increases with t.

    A schedule of your own only needs `__call__` if its class inherits from this class::

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

        The default implementation finds this time by bisection, to the last bit. For a table whose `read` is
        "log_snr", the result is at least 1 / entries, the time of the first entry.
        """
        wanted = as_double(log_snr)
        early, late = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(64):
            middle = (early + late) / 2
            below = self(middle).log_snr <= wanted
            early, late = torch.where(below, early, middle), torch.where(below, middle, late)
        return torch.where(self(torch.zeros_like(wanted)).log_snr <= wanted, 0.0, late)
