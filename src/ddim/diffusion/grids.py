"""Grids: methods that choose the times (timesteps) at which a sampler evaluates the network.

`grid(steps, schedule)` returns `times`, (steps,) float64, strictly decreasing, in (0, 1]. t = 0 is never
included: the samples are the clean images that the model predicts at the last time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor

from ddim.diffusion.schedule import Schedule, equal_log_snr_times, time_of_ratio
from ddim.errors import UserError, check_count, check_part_values, check_positive, to_float


class Grid(Protocol):
    """A method that places the times (timesteps) of sampling between noise, t = 1, and image, t = 0."""

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """Return decreasing times (steps,), float64.

        Raises:
            UserError: if steps < 1 or > 1,000,000, or the grid cannot place `steps` times on this schedule.
        """
        ...


@dataclass(frozen=True)
class Uniform:
    """Equal steps of time: 1, 1 - 1/N, ..., 1/N for N steps, which `shift` can move towards noise.

    Without a shift, these are the times of Béres' code and, up to rounding, of Song et al. 2021.

    Attributes:
        shift: t becomes shift * t / (1 + (shift - 1) * t) (Esser et al. 2024, eq. 23). On `linear_path` this
            multiplies sigma / alpha by `shift`; images with n times as many pixels need the shift sqrt(n).
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        check_positive("grid", shift=self.shift)

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """Return the times; see `Grid`."""
        t = _uniform(steps)
        return self.shift * t / (1 + (self.shift - 1) * t)


@dataclass(frozen=True)
class Quadratic:
    """The squares of the uniform times, closer together near the image (Song et al. 2021, appendix D.2).

    On a table of 1000 entries, the plain squares would put 3 of 100 steps on the first entry. Therefore, if
    several steps would share the first entry, the k-th time from the clean end is at least k / entries.
    """

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """Return the times; see `Grid`."""
        squares, entries = _uniform(steps) ** 2, schedule.entries
        if entries and 4 * entries <= steps**2 and steps <= entries:
            return torch.maximum(squares, torch.arange(steps, 0, -1, dtype=torch.float64) / entries)
        return squares


@dataclass(frozen=True)
class UniformLogSNR:
    """Equal steps of log-SNR, from t = 1 to log-SNR `end` (Lu et al. 2022, section 5.1).

    If the log-SNR of the schedule does not reach `end`, the grid ends at the cleanest noise level.

    Attributes:
        end: log-SNR of the last time.
    """

    end: float = 6.0

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """Return the times; see `Grid`."""
        check_count("steps", steps)
        start = schedule(1.0).log_snr.item()
        last, end = _end(schedule, self.end)
        times = equal_log_snr_times(schedule, start, end, max(steps, 2))[:steps]
        return _fit(times, 1.0, last, f"{steps} steps of {self}")


@dataclass(frozen=True)
class Karras:
    """Equal steps of (sigma / alpha)^(1 / rho), down to `sigma_min` (Karras et al. 2022, eq. 5).

    The grid starts at `sigma_max`, or at t = 1 if `sigma_max` is None or above the largest sigma / alpha of
    the schedule. If the schedule does not reach `sigma_min`, the grid ends at its cleanest noise level.

    Attributes:
        sigma_min: sigma / alpha of the last time.
        sigma_max: sigma / alpha of the first time; None for t = 1.
        rho: larger values bring more of the times close to `sigma_min`.
    """

    sigma_min: float = 0.002
    sigma_max: float | None = None
    rho: float = 7.0

    def __post_init__(self) -> None:
        most = torch.inf if self.sigma_max is None else self.sigma_max
        if not 0 < self.sigma_min < most or not self.rho > 0:
            raise UserError(f"grid needs 0 < sigma_min < sigma_max and rho > 0, got {self}")

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """Return the times; see `Grid`."""
        check_count("steps", steps)
        high = math.exp(-schedule(1.0).log_snr.item() / 2)
        start = high if self.sigma_max is None else min(self.sigma_max, high)
        last, log_snr = _end(schedule, -2 * math.log(self.sigma_min))
        low = math.exp(-log_snr / 2)
        top, end = (ratio ** (1 / self.rho) for ratio in (start, low))
        ratios = torch.linspace(top, end, max(steps, 2), dtype=torch.float64)[:steps] ** self.rho
        first = 1.0 if start == high else None
        return _fit(time_of_ratio(schedule, ratios), first, last, f"{steps} steps of {self}")


@dataclass(frozen=True)
class Spaced:
    """Evenly spaced entries of a table of `entries` noise levels, at times i / entries for i = 1 ... entries.

    The spacing says which end is included (Lin et al. 2024, table 2). The position of each entry is rounded,
    not the distance between entries (Song et al. 2021, appendix D.2). Most code rounds the distance: 600
    leading steps on 1000 entries then have distance 1, and sampling starts at entry 600.

    Attributes:
        entries: number of entries of the table; None for those of the schedule, or 1000 if it has no table.
        spacing: "trailing" includes the noisiest entry, "leading" the cleanest.
    """

    entries: int | None = None
    spacing: Literal["leading", "trailing"] = "trailing"

    def __post_init__(self) -> None:
        check_part_values("grid", self)

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """Return the times; see `Grid`.

        Raises:
            UserError: if `steps` is larger than `entries`, or is 1 with "leading" spacing.
        """
        leading, n = self.spacing == "leading", self.entries or schedule.entries or 1000
        name, least = ("steps with leading spacing", min(2, n)) if leading else ("steps", 1)
        check_count(name, steps, least)
        if steps > n:
            raise UserError(f"steps must be at most {n}, the entries of the grid, got {steps}")
        k = torch.arange(steps, 0, -1, dtype=torch.float64)
        return (((k - 1) * n / steps).floor() + 1 if leading else (k * n / steps).round()) / n


@dataclass(frozen=True)
class Sections:
    """A table of `entries` noise levels cut into equal sections, each with its own share of the steps.

    The steps of a section are evenly spaced from its first entry to its last (Nichol & Dhariwal 2021, section
    4). Shares (1,) spread all steps over the whole table. Shares (3, 2, 1) give half of the steps to the
    cleanest third.

    Attributes:
        entries: number of entries of the table; None for those of the schedule, or 1000 if it has no table.
        shares: share of the steps in each section, the cleanest first.
    """

    entries: int | None = None
    shares: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        if min(self.shares, default=0) < 1:
            raise UserError(f"grid.shares must be whole numbers above 0, got {self.shares}")

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """Return the times; see `Grid`.

        Raises:
            UserError: if `steps` is not a multiple of the sum of the shares, or a section has fewer entries
                than steps.
        """
        check_count("steps", steps)
        each, rest = divmod(steps, total := sum(self.shares))
        if rest:
            raise UserError(f"steps must be a multiple of {total}, the sum of grid.shares, got {steps}")
        entries = self.entries or schedule.entries or 1000
        size, longer = divmod(entries, len(self.shares))
        index, begin = [], 0
        for k, share in enumerate(self.shares):
            length, count = size + (k < longer), each * share
            if count > length:
                raise UserError(f"grid.shares ask for {count} times of a section that has {length}")
            stride = (length - 1) / (count - 1) if count > 1 else 0.0
            # Add and round as `space_timesteps` of Nichol & Dhariwal's code does, to get the same entries.
            position = 0.0
            for _ in range(count):
                index.append(begin + 1 + round(position))
                position += stride
            begin += length
        return torch.tensor(index[::-1], dtype=torch.float64) / entries


@dataclass(frozen=True, repr=False)
class Listed:
    """Times given by the user, decreasing, in (0, 1]; a list of numbers means this grid.

    Attributes:
        times: the times, decreasing, such as 1,0.5,0.1.
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(to_float("grid.times", time) for time in self.times))
        falling = all(a > b for a, b in pairwise(self.times))
        if not self.times or not falling or not 0 < self.times[-1] <= self.times[0] <= 1:
            raise UserError(f"grid.times must decrease and lie in (0, 1], got {self.times}")

    def __repr__(self) -> str:
        if len(self.times) <= 6:
            return f"Listed(times={self.times})"
        return f"Listed({len(self.times)} times from {self.times[0]:g} to {self.times[-1]:g})"

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """Return the listed times; see `Grid`. `steps` must be the number of listed times."""
        if steps != len(self.times):
            raise UserError(f"steps must be {len(self.times)}, the number of grid.times, got {steps}")
        return torch.tensor(self.times, dtype=torch.float64)


GRIDS: dict[str, type[Grid]] = {
    "uniform": Uniform,
    "quadratic": Quadratic,
    "uniform_log_snr": UniformLogSNR,
    "karras": Karras,
    "spaced": Spaced,
    "sections": Sections,
    "listed": Listed,
}
"""All grids, keyed by their names in a recipe."""


def _uniform(steps: int) -> Tensor:
    check_count("steps", steps)
    return torch.arange(steps, 0, -1, dtype=torch.float64) / steps


def _end(schedule: Schedule, log_snr: float) -> tuple[float, float]:
    """Return the last time of a grid that ends at `log_snr`, and the log-SNR at this time.

    If the schedule does not reach `log_snr`, the grid ends at its cleanest noise level.
    """
    t = schedule.inverse(log_snr).clamp(min=0)
    # No grid contains t = 0, so 1e-4 replaces it. In a table of less than 10,000 entries, the time 1e-4 has
    # the noise level of the first entry.
    t = t if t > 0 else torch.full_like(t, 1e-4)
    return t.item(), min(log_snr, schedule(t).log_snr.item())


def _fit(times: Tensor, first: float | None, last: float, what: str) -> Tensor:
    """Set the ends of the times to their exact values, without rounding, check the times and return them.

    Args:
        times: the times, changed in place.
        first: the exact first time; None keeps the computed time.
        last: the exact last time; if there is only one time, it is the first.
        what: the subject of the error message.

    Raises:
        UserError: if the times do not decrease, or include 0.
    """
    if len(times) > 1:
        times[-1] = last
    if first is not None:
        times[0] = first
    if not ((times.diff() < 0).all() and times[-1] > 0):
        raise UserError(f"{what} do not fit this schedule: give fewer steps, or another grid or end of it")
    return times
