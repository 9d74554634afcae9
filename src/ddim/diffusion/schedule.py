"""What a schedule is: a function t -> Level(alpha, sigma), the signal rate and the noise rate at time t.

In the whole package x_t = alpha * x0 + sigma * eps; t = 0 is the clean image and t = 1 is noise.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from ddim.errors import UserError, check_part_values

CLEANEST = 1e-3
"""The time that replaces t = 0 if x_t at t = 0 is clean, as no network is evaluated on a clean image."""


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
        """Return this level, () or (B,), in a shape and dtype that multiply images x (B, C, H, W)."""
        return Level(spread_over(self.alpha, x), spread_over(self.sigma, x))

    def noisy(self, x0: Tensor, eps: Tensor) -> Tensor:
        """Return noisy images x_t = alpha * x0 + sigma * eps, all (B, C, H, W); alpha, sigma: () or (B,)."""
        at = self.over(x0)
        return at.alpha * x0 + at.sigma * eps


def spread_over(value: Tensor, x: Tensor) -> Tensor:
    """Return a value, () or (B,), in a shape that multiplies images x (B, C, H, W), with the dtype of x."""
    # A single value stays on the CPU: an accelerator gets it as a number, without waiting for a copy.
    return value.to(x.dtype) if value.ndim == 0 else value.reshape(-1, *(1,) * (x.ndim - 1)).to(x)


def variance_preserving(log_snr: Tensor) -> Level:
    """Return the noise level with this log-SNR and alpha^2 + sigma^2 = 1 (Kingma et al. 2021, sect. 3.2)."""
    log_snr = log_snr.double()
    return Level(log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt())


def as_double(value: Tensor | float | Sequence[float]) -> Tensor:
    """Convert times or log-SNRs, numbers or a tensor of any dtype, to a float64 tensor."""
    return torch.as_tensor(value, dtype=torch.float64)


def as_times(t: Tensor | float) -> Tensor:
    """Convert times to a float64 tensor.

    Raises:
        UserError: if a time lies outside [0, 1]. Times on an accelerator are not checked, because the program
            would wait for them.
    """
    t = as_double(t)
    if t.device.type == "cpu" and not ((t >= 0) & (t <= 1 + 1e-9)).all():
        raise UserError(f"times must lie in [0, 1], 0 for the image, got {t.min():g} to {t.max():g}")
    return t


@lru_cache(maxsize=128)
def copy_to_device(
    owner: Hashable, name: str, device: torch.device, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return the numbers in attribute `name` of a frozen dataclass as a tensor on a device.

    They are copied once, because the program waits for an accelerator when it copies numbers to it.
    """
    # The tensor may be used in training later, where one that was created in inference mode cannot be.
    with torch.inference_mode(False):
        return torch.as_tensor(getattr(owner, name), dtype=dtype).to(device, copy=True)


class Schedule(Protocol):
    """A noise schedule: a frozen dataclass that is called with times. The log-SNR never increases with t.

    A schedule of your own only needs `__call__` if its class inherits from this class::

        @dataclass(frozen=True)
        class Straight(ddim.Schedule):
            def __call__(self, t):
                t = as_double(t)
                return Level(1 - 0.999 * t, 0.001 + 0.999 * t)
    """

    def __post_init__(self) -> None:
        """Check the fields."""
        check_part_values(type(self).__name__, self)
        self._check_fields()

    def _check_fields(self) -> None: ...

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


def log_snr_range(schedule: Schedule) -> tuple[float, float]:
    """Return the largest and the smallest log-SNR at which a network is evaluated under a schedule."""
    first, cleanest, noisiest = schedule(torch.tensor([0.0, CLEANEST, 1.0])).log_snr.tolist()
    return (first if math.isfinite(first) else cleanest), noisiest


def time_of_ratio(schedule: Schedule, noise_to_signal: Tensor) -> Tensor:
    """Return the times at which sigma / alpha has these values."""
    return schedule.inverse(-2 * noise_to_signal.log())


def equal_log_snr_times(schedule: Schedule, first: float, last: float, count: int) -> Tensor:
    """Return times (count,) in equal steps of log-SNR, from log-SNR `first` to log-SNR `last`."""
    return schedule.inverse(torch.linspace(first, last, count, dtype=torch.float64))
