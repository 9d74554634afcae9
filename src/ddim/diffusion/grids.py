"""Grids: methods that choose the times (timesteps) at which a sampler evaluates the network.

`grid(steps, schedule)` returns `times`, (steps,) float64, strictly decreasing, in (0, 1]. t = 0 is never
included: the samples are the clean images that the model predicts at the last time.
"""

import math
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Literal, Protocol

import torch
from torch import Tensor

from ddim.diffusion.parameterisation import count_entries
from ddim.diffusion.schedules import Schedule, as_double, time_of_ratio
from ddim.errors import check_part_values


class Grid(Protocol):
    """A method that places the times (timesteps) of sampling between noise, t = 1, and image, t = 0.

    Whether the times decrease is checked where a run is sampled: `ddim.recipe.checks.check_steps`.
    """

    def __post_init__(self) -> None:
        """Check that names and numbers are what they must be."""
        check_part_values("grid", self)

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """Return decreasing times (steps,), float64."""
        ...


@dataclass(frozen=True)
class Uniform(Grid):
    """Equal steps of time: 1, 1 - 1/N, ..., 1/N for N steps, which `shift` can move towards noise.

    Without a shift, these are the times of Béres' code and, up to rounding, of Song et al. 2021.

    Attributes:
        shift: t becomes shift * t / (1 + (shift - 1) * t) (Esser et al. 2024, eq. 23). On `linear_path` this
            multiplies sigma / alpha by `shift`; images with n times as many pixels need the shift sqrt(n).
    """

    shift: float = 1.0

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        t = count_down(steps) / steps
        return self.shift * t / (1 + (self.shift - 1) * t)


@dataclass(frozen=True)
class Quadratic(Grid):
    """The squares of the uniform times, closer together near the image (Song et al. 2021, appendix D.2).

    On a table of 1000 entries, the plain squares would put 3 of 100 steps on the first entry. Therefore, if
    several steps would share the first entry, the k-th time from the clean end is at least k / entries.
    """

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        k, entries = count_down(steps), schedule.entries
        squares = (k / steps) ** 2
        if entries and 4 * entries <= steps**2 and steps <= entries:
            return torch.maximum(squares, k / entries)
        return squares


@dataclass(frozen=True)
class UniformLogSNR(Grid):
    """Equal steps of log-SNR, from t = 1 to log-SNR `end` (Lu et al. 2022, section 5.1).

    If the log-SNR of the schedule does not reach `end`, the grid ends at the cleanest noise level.

    Attributes:
        end: log-SNR of the last time.
    """

    end: float = 6.0

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        start = schedule(1.0).log_snr.item()
        last, end = _end(schedule, self.end)
        times = equal_log_snr_times(schedule, start, end, max(steps, 2))[:steps]
        # The ends get their exact values, without the rounding of the inverse; a single time is the first.
        times[-1] = last
        times[0] = 1.0
        return times


@dataclass(frozen=True)
class Karras(Grid):
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

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        high = math.exp(-schedule(1.0).log_snr.item() / 2)
        start = high if self.sigma_max is None else min(self.sigma_max, high)
        last, log_snr = _end(schedule, -2 * math.log(self.sigma_min))
        low = math.exp(-log_snr / 2)
        top, end = start ** (1 / self.rho), low ** (1 / self.rho)
        roots = torch.linspace(top, end, max(steps, 2), dtype=torch.float64, device="cpu")[:steps]
        times = time_of_ratio(schedule, roots**self.rho)
        if steps > 1:
            times[-1] = last
        if start == high:
            times[0] = 1.0
        return times


@dataclass(frozen=True)
class Spaced(Grid):
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

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        k, entries = count_down(steps), count_entries(schedule, self.entries)
        if self.spacing == "leading":
            return (((k - 1) * entries / steps).floor() + 1) / entries
        return (k * entries / steps).round() / entries


@dataclass(frozen=True)
class Sections(Grid):
    """A table of `entries` noise levels cut into equal sections, each with its own share of the steps.

    The steps of a section are evenly spaced from its first entry to its last (Nichol & Dhariwal 2021, section
    4). Shares (1,) spread all steps over the whole table. Shares (3, 2, 1) give half of the steps to the
    cleanest third. The number of steps must be a multiple of the sum of the shares.

    Attributes:
        entries: number of entries of the table; None for those of the schedule, or 1000 if it has no table.
        shares: share of the steps in each section, the cleanest first.
    """

    entries: int | None = None
    shares: tuple[int, ...] = (1,)

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        each = steps // sum(self.shares)
        entries = count_entries(schedule, self.entries)
        size, longer = divmod(entries, len(self.shares))
        index, first = [], 1
        for k, share in enumerate(self.shares):
            length, count = size + (k < longer), each * share
            stride = (length - 1) / max(count - 1, 1)
            # Add and round as `space_timesteps` of Nichol & Dhariwal's code does, to get the same entries.
            places = accumulate(repeat(stride, count - 1), initial=0.0)
            index += [first + round(place) for place in places]
            first += length
        return as_double(index[::-1]) / entries


@dataclass(frozen=True)
class Listed(Grid):
    """Times given by the user, decreasing, in (0, 1]; a list of numbers means this grid.

    Attributes:
        times: the times, decreasing, such as 1,0.5,0.1.
    """

    times: tuple[float, ...]

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        return as_double(self.times)


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


def count_down(steps: int) -> Tensor:
    """Return the numbers steps, ..., 2, 1 (steps,), float64."""
    return torch.arange(steps, 0, -1, device="cpu").double()


def equal_log_snr_times(schedule: Schedule, first: float, last: float, count: int) -> Tensor:
    """Return times (count,) in equal steps of log-SNR, from log-SNR `first` to log-SNR `last`."""
    return schedule.inverse(torch.linspace(first, last, count, dtype=torch.float64, device="cpu"))


def _end(schedule: Schedule, log_snr: float) -> tuple[float, float]:
    """Return the last time of a grid that ends at `log_snr`, and the log-SNR at this time.

    If the schedule does not reach `log_snr`, the grid ends at its cleanest noise level.
    """
    # No grid contains t = 0, so 1e-4 replaces it. In a table of less than 10,000 entries, the time 1e-4 has
    # the noise level of the first entry.
    t = schedule.inverse(log_snr).item() or 1e-4
    return t, min(log_snr, schedule(t).log_snr.item())
