"""Which levels a run visits: frozen values, grid(steps, schedule) -> times.

`times` are (steps,) float64, strictly decreasing, each in (0, 1]: the levels at which the network is asked.
None is free of noise; the picture is one more prediction from the last of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError, check_count


class Grid(Protocol):
    """A choice of levels."""

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """(steps,) decreasing times, float64; UserError if steps < 1."""
        ...


@dataclass(frozen=True)
class Uniform:
    """1, 1 - 1/N, ..., 1/N: the levels of Béres and, up to rounding, of Song et al."""

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """See `Grid`."""
        return _uniform(steps)


@dataclass(frozen=True)
class Quadratic:
    """The squares of the uniform times, closer together near the image (Song et al. 2021, appendix D.2)."""

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """See `Grid`."""
        return _uniform(steps) ** 2


@dataclass(frozen=True)
class UniformLogSNR:
    """Equal steps of log-SNR, from t = 1 to the level of log-SNR `end` (Lu et al. 2022, section 5.1).

    A schedule that does not come so near to the image is walked to its own cleanest level.
    """

    end: float = 6.0

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """See `Grid`; UserError where `end` is noisier than t = 1."""
        _check(steps)
        start = schedule(torch.ones((), dtype=torch.float64)).log_snr.item()
        if not start < self.end < torch.inf:
            raise UserError(f"grid.end must be above the log-SNR at t = 1, {start:.2f}, got {self.end}")
        last, end = _end(schedule, self.end)
        levels = torch.linspace(start, end, max(steps, 2), dtype=torch.float64)[:steps]
        return _fitting(schedule.inverse(levels), 1.0, last, f"{steps} steps of equal log-SNR up to {end:g}")


@dataclass(frozen=True)
class Karras:
    """Equal steps of (sigma / alpha)^(1 / rho), down to `sigma_min` (Karras et al. 2022, eq. 5).

    From `sigma_max`, or where that is None or noisier than the schedule, from t = 1. A schedule that does not
    come as near to the image as `sigma_min` is walked to its own cleanest level.
    """

    sigma_min: float = 0.002
    sigma_max: float | None = None
    rho: float = 7.0

    def __post_init__(self) -> None:
        most = torch.inf if self.sigma_max is None else self.sigma_max
        if not 0 < self.sigma_min < most or not self.rho > 0:
            raise UserError(
                "grid needs 0 < sigma_min < sigma_max and rho > 0, "
                f"got {self.sigma_min}, {self.sigma_max} and {self.rho}"
            )

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """See `Grid`; UserError where nothing of the schedule lies between `sigma_max` and `sigma_min`."""
        _check(steps)
        high = math.exp(-schedule(torch.ones((), dtype=torch.float64)).log_snr.item() / 2)
        start = high if self.sigma_max is None else min(self.sigma_max, high)
        last, log_snr = _end(schedule, -2 * math.log(self.sigma_min))
        low = math.exp(-log_snr / 2)
        if not low < start:
            raise UserError(
                "grid.sigma_min and grid.sigma_max leave nothing of this schedule, whose sigma / alpha is at "
                f"most {high:.4g}, got {low:.4g} and {start:.4g}"
            )
        top, end = (bar ** (1 / self.rho) for bar in (start, low))
        bars = torch.linspace(top, end, max(steps, 2), dtype=torch.float64)[:steps] ** self.rho
        first = 1.0 if start == high else None
        return _fitting(schedule.inverse(-2 * bars.log()), first, last, f"Karras steps, {steps},")


@dataclass(frozen=True)
class Spaced:
    """Of the `entries` levels of a discrete schedule, i / entries for i = 1 ... entries, every so many-th.

    "leading" counts from the cleanest, entry 1, as Song et al. and most code does: it never starts from pure
    noise. "trailing" counts from the noisiest and does (Lin et al. 2024, table 2).
    """

    entries: int = 1000
    spacing: Literal["leading", "trailing"] = "trailing"

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """See `Grid`; UserError where there are more steps than entries."""
        _check(steps)
        if steps > self.entries:
            raise UserError(f"steps must be at most {self.entries}, the entries of the grid, got {steps}")
        if self.spacing == "leading":
            index = torch.arange(steps - 1, -1, -1) * (self.entries // steps) + 1
        else:
            index = (torch.arange(steps, 0, -1, dtype=torch.float64) * self.entries / steps).round()
        return index.double() / self.entries


@dataclass(frozen=True)
class Sections:
    """Of the `entries` of a discrete schedule, cut into equal sections, so many of each as its share says.

    From the first of a section to its last, evenly (Nichol & Dhariwal 2021, section 4). Shares (1,) space all
    steps over the whole table; (3, 2, 1) give half of them to the cleanest third.
    """

    entries: int = 1000
    shares: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        if min(self.shares, default=0) < 1 or len(self.shares) > self.entries:
            raise UserError(
                f"grid.shares must be one to {self.entries} whole numbers above 0, got {self.shares}"
            )

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """See `Grid`; UserError where the shares do not divide the steps, or a section has fewer entries."""
        _check(steps)
        each, rest = divmod(steps, sum(self.shares))
        if rest:
            raise UserError(
                f"steps must be a multiple of {sum(self.shares)}, the sum of grid.shares, got {steps}"
            )
        sizes = [self.entries // len(self.shares)] * len(self.shares)
        for k in range(self.entries % len(self.shares)):
            sizes[k] += 1
        index, begin = [], 0
        for size, share in zip(sizes, self.shares, strict=True):
            count = each * share
            if count > size:
                raise UserError(f"grid.shares ask for {count} levels of a section that has {size}")
            last = size - 1 if count > 1 else 0
            index.append(begin + 1 + torch.linspace(0, last, count, dtype=torch.float64).round())
            begin += size
        return torch.cat(index).flip(0) / self.entries


@dataclass(frozen=True)
class Listed:
    """Times that the user wrote down, decreasing, in (0, 1]."""

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.times, self.times[1:], strict=False))
        if not self.times or not falling or not 0 < self.times[-1] <= self.times[0] <= 1:
            raise UserError(f"grid.times must decrease and lie in (0, 1], got {self.times}")

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """See `Grid`; steps must be the number of times."""
        if steps != len(self.times):
            raise UserError(f"steps must be {len(self.times)}, the number of grid.times, got {steps}")
        return torch.tensor(self.times, dtype=torch.float64)


def _uniform(steps: int) -> Tensor:
    _check(steps)
    return torch.arange(steps, 0, -1, dtype=torch.float64) / steps


def _end(schedule: Schedule, log_snr: float) -> tuple[float, float]:
    """The time of a level and its log-SNR, or those of the schedule's cleanest where none is so clean."""
    t = schedule.inverse(torch.tensor(log_snr, dtype=torch.float64)).clamp(min=0)
    # No grid holds t = 0; this time comes before the second entry of any table of less than 10,000.
    t = t if t > 0 else torch.full_like(t, 1e-4)
    return t.item(), min(log_snr, schedule(t).log_snr.item())


def _fitting(times: Tensor, first: float | None, last: float, what: str) -> Tensor:
    """The times, checked; their ends, but for a first that is None, themselves, not their images under
    roundings.
    """
    if len(times) > 1:
        times[-1] = last
    if first is not None:
        times[0] = first
    if not ((times.diff() < 0).all() and times[-1] > 0):
        raise UserError(f"{what} do not fit this schedule")
    return times


def _check(steps: int) -> None:
    check_count("steps", steps)
