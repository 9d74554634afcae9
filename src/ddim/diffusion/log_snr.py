"""The log-SNR of a schedule: its range, its plateaus, and how times are spread over it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddim.diffusion.schedules import Schedule

CLEANEST = 1e-3
"""The first time that counts where t = 0 is a clean image, which no network sees."""

SLICES = 100_000
"""Number of even times that stand for the uniform density."""

BIN = 2
"""Width of a bin of log-SNR: within one, sigma / alpha grows by a factor e."""


def log_snr_range(schedule: Schedule) -> tuple[float, float]:
    """The greatest and the least log-SNR that a network sees under a schedule."""
    first, cleanest, noisiest = schedule(torch.tensor([0.0, CLEANEST, 1.0])).log_snr.tolist()
    return (first if math.isfinite(first) else cleanest), noisiest


def equal_log_snr_times(schedule: Schedule, first: float, last: float, count: int) -> Tensor:
    """(count,) times in equal steps of log-SNR, from log-SNR `first` to log-SNR `last`."""
    return schedule.inverse(torch.linspace(first, last, count, dtype=torch.float64))


def midpoints(count: int = SLICES) -> Tensor:
    """(count,) the middle of each of `count` equal parts of [0, 1]."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def log_snr_shares(schedule: Schedule, times: Tensor) -> dict[int, float]:
    """The share of times (N,) in each bin of log-SNR [b, b + 2), by b, growing."""
    found = log_snr_bins(schedule(times).log_snr)
    return {int(b): float((found == b).double().mean()) for b in found.unique()}


def plateaus(schedule: Schedule, least: float = 0.01) -> dict[float, float]:
    """Shares of uniform times that lie on one level, at least `least`, by log-SNR, growing: {-3.89: 0.38}.

    A continuous schedule has none. Training on a plateau is training on one level.
    """
    found, counts = schedule(midpoints()).log_snr.unique(return_counts=True)
    share = counts / SLICES
    return {level: s for level, s in zip(found.tolist(), share.tolist(), strict=True) if s >= least}


def log_snr_bins(log_snr: Tensor) -> Tensor:
    """The lower edge of each value's bin."""
    return (log_snr / BIN).floor() * BIN
