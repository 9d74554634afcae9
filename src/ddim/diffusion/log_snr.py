"""Levels of noise on the clock of log-SNR: which there are, where times lie among them, means by level."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddim.diffusion.schedules import Schedule

CLEANEST = 1e-3
"""The first time that is looked at where t = 0 is a clean image, which no network sees."""

SLICES = 100_000
"""Even times that stand for the uniform density."""

BIN = 2
"""Width of a bin of log-SNR: within one, sigma / alpha grows by a factor e."""


def ends(schedule: Schedule) -> tuple[float, float]:
    """The greatest and the least log-SNR that a network sees under a schedule."""
    first, cleanest, noisiest = schedule(torch.tensor([0.0, CLEANEST, 1.0])).log_snr.tolist()
    return (first if math.isfinite(first) else cleanest), noisiest


def evenly(schedule: Schedule, count: int) -> Tensor:
    """(count,) times, growing, at about equal steps of log-SNR from end to end of a schedule."""
    return schedule.inverse(torch.linspace(*ends(schedule), count, dtype=torch.float64))


def slices(count: int = SLICES) -> Tensor:
    """(count,) the middle of each of `count` equal parts of [0, 1]."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def shares(schedule: Schedule, times: Tensor) -> dict[int, float]:
    """The share of times (N,) in each bin of log-SNR [b, b + 2), by b, growing."""
    found = bins(schedule(times).log_snr)
    return {int(b): float((found == b).double().mean()) for b in found.unique()}


def plateaus(schedule: Schedule, least: float = 0.01) -> dict[float, float]:
    """Levels that hold at least this share of uniform times, by log-SNR, growing: {-3.89: 0.38}.

    A continuous schedule has none; training on a plateau is training on one level.
    """
    found, counts = schedule(slices()).log_snr.unique(return_counts=True)
    share = counts / SLICES
    return {level: s for level, s in zip(found.tolist(), share.tolist(), strict=True) if s >= least}


def bins(log_snr: Tensor) -> Tensor:
    """The lower edge of each value's bin."""
    return (log_snr / BIN).floor() * BIN
