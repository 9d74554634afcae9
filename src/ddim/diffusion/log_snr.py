"""The log-SNR of a schedule: its range, its plateaus, and how times are distributed over it."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from ddim.diffusion.schedules import SCHEDULES, Level, Schedule, as_double
from ddim.errors import UserError

CLEANEST = 1e-3
"""The time that replaces t = 0 if x_t at t = 0 is clean, as no network is evaluated on a clean image."""

Interval = tuple[float | None, float | None]
"""The lowest and the highest log-SNR of a range of noise levels; None is an open end."""

SLICES = 100_000
"""Number of equally spaced times that represent the uniform distribution."""

BIN = 2
"""Width of a bin of log-SNR; sigma / alpha changes by a factor e over one bin."""


CHECKED = 9
"""Number of times at which a schedule that the user wrote is checked."""


def check_schedule(schedule: Schedule) -> None:
    """Check a schedule that the user wrote: its log-SNR must fall from t = 0 to t = 1.

    Raises:
        UserError: if the schedule does not return a `Level` for each time, or its log-SNR rises, is constant
            or is NaN.
    """
    if type(schedule) in SCHEDULES.values():
        return
    name, times = f"schedule {type(schedule).__name__}", torch.linspace(0, 1, CHECKED, dtype=torch.float64)
    level = schedule(times) if callable(schedule) else schedule
    if not isinstance(level, Level) or {level.alpha.shape, level.sigma.shape} != {times.shape}:
        found = level if isinstance(level, Level) else type(level).__name__
        raise UserError(f"{name} must return a ddim.Level, alpha and sigma shaped like t, got {found}")
    log_snr = as_double(level.log_snr)
    # On a plateau, rounding in float32 may raise the log-SNR slightly, so 1e-3 is tolerated.
    falls = (log_snr[1:] <= log_snr[:-1] + 1e-3).all() and log_snr[0] > log_snr[-1]
    if not falls:
        first, last = log_snr[0].item(), log_snr[-1].item()
        mend = "; it may need 1 - t in place of t" if first < last else ""
        wrong = ", ".join(f"{value:.3g}" for value in log_snr.tolist())
        raise UserError(
            f"{name} must have a log-SNR that falls from t = 0, the clean image, to t = 1, noise, got {wrong}"
            f"{mend}"
        )


def log_snr_range(schedule: Schedule) -> tuple[float, float]:
    """Return the largest and the smallest log-SNR at which a network is evaluated under a schedule."""
    first, cleanest, noisiest = schedule(torch.tensor([0.0, CLEANEST, 1.0])).log_snr.tolist()
    return (first if math.isfinite(first) else cleanest), noisiest


def find_ends(interval: Interval | None, name: str) -> tuple[float, float]:
    """Return the ends of an interval as numbers; an open end is infinite.

    Args:
        interval: the interval; None for all noise levels.
        name: the name of this option for the message.

    Raises:
        UserError: if `interval` is not a pair, or an end is not a number.
    """
    ends = (None, None) if interval is None else interval
    if (
        not isinstance(ends, tuple | list)
        or len(ends) != 2
        or not all(end is None or isinstance(end, Real) for end in ends)
    ):
        raise UserError(
            f"{name} must be two values of log-SNR, such as (-2, 5), or None for an open end, "
            f"got {interval!r}"
        )
    low, high = ends
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def equal_log_snr_times(schedule: Schedule, first: float, last: float, count: int) -> Tensor:
    """Return times (count,) in equal steps of log-SNR, from log-SNR `first` to log-SNR `last`."""
    return schedule.inverse(torch.linspace(first, last, count, dtype=torch.float64))


def midpoints(count: int = SLICES) -> Tensor:
    """Return the midpoints (count,) of `count` equal parts of [0, 1]."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def log_snr_shares(schedule: Schedule, times: Tensor) -> dict[int, float]:
    """Return the share of the times (N,) in each bin [b, b + 2) of log-SNR, as {b: share}, b increasing."""
    found = log_snr_bins(schedule(times).log_snr)
    return {int(b): float((found == b).double().mean()) for b in found.unique()}


def plateaus(schedule: Schedule) -> dict[float, float]:
    """Return the plateaus of a schedule as {log-SNR: share of times}, such as {-3.89: 0.38}.

    A plateau is a noise level that many times have: at least 1 % of all times in [0, 1]. The plateaus
    are in the order of increasing log-SNR. A continuous schedule has no plateaus. All times of a plateau
    train the network on the same noise level.
    """
    found, counts = schedule(midpoints()).log_snr.unique(return_counts=True)
    share = counts / SLICES
    return {level: s for level, s in zip(found.tolist(), share.tolist(), strict=True) if s >= 0.01}


def log_snr_bins(log_snr: Tensor) -> Tensor:
    """Return the lower edge of the bin of each log-SNR."""
    return (log_snr / BIN).floor() * BIN
