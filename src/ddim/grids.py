"""Which levels a run visits: frozen values, grid(steps, schedule) -> times.

`times` are (steps,) float64, strictly decreasing, each in (0, 1]: the levels at which the network is asked.
None is free of noise; the picture is one more prediction from the last of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddim.errors import UserError
from ddim.schedules import Schedule


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
    """Equal steps of log-SNR, from t = 1 to the level of log-SNR `end` (Lu et al. 2022, section 5.1)."""

    end: float = 6.0

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """See `Grid`."""
        _check(steps)
        top, start = schedule(torch.tensor([0.0, 1.0], dtype=torch.float64)).log_snr.tolist()
        if not start < self.end < top:
            raise UserError(
                f"grid.end must lie between the log-SNR at t = 1 and at t = 0, {start:.2f} and {top:.2f}, "
                f"got {self.end}"
            )
        if steps == 1:
            return torch.ones(1, dtype=torch.float64)
        levels = torch.linspace(start, self.end, steps, dtype=torch.float64)
        times = schedule.inverse(levels)
        times[0] = 1  # the start itself, not its image under two roundings
        if not ((times.diff() < 0).all() and times[-1] > 0):
            raise UserError(f"{steps} steps of equal log-SNR up to {self.end} do not fit this schedule")
        return times


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


def _check(steps: int) -> None:
    if steps < 1:
        raise UserError(f"steps must be at least 1, got {steps}")
