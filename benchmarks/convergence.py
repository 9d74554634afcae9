"""Orders of convergence: how fast the error of a sampler falls with the number of steps.

The errors are measured against exact solutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Counted, Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import Sampler, final_sample, last_state
from ddim.diffusion.schedules import Schedule

FLOOR = 1e-11
"""Errors below this are rounding errors."""


@dataclass(frozen=True)
class RunErrors:
    """The NFE of a sampling run, and the largest errors of its last state and of its final sample."""

    nfe: int
    state: float
    sample: float


@dataclass(frozen=True)
class Warped:
    """A `Spacing` with equal steps of a smooth random function of time, which `seed` determines.

    The lengths of neighbouring steps differ by a factor below 3.2. See `ddim.diffusion.grids`.
    """

    seed: int

    def between(self, steps: int, schedule: Schedule, first: float, last: float) -> Tensor:
        """Return the times; see `Spacing`."""
        draw = torch.Generator().manual_seed(self.seed)
        phase, size = torch.rand(2, 3, generator=draw, dtype=torch.float64)
        u = torch.linspace(0, 1, steps, dtype=torch.float64)
        for k in range(3):
            wave = 2 * math.pi * (k + 1)
            height = size[k] / wave / 4
            u = u + height * ((wave * (u + phase[k])).sin() - (wave * phase[k]).sin())
        return first - (first - last) * (u / u[-1])


def run_errors(sampler: Sampler, denoise: Denoiser, x: Tensor, times: Tensor, truth: Tensor) -> RunErrors:
    """Run a sampler and return its NFE and its errors.

    Args:
        sampler: the sampler.
        denoise: an exact denoiser.
        x: the start (B, C, H, W), at times[0].
        times: decreasing times (N,).
        truth: the exact state (B, C, H, W) at times[-1].
    """
    counted = Counted(denoise)
    end = last_state(sampler(counted, x, times, Noise(range(len(x)))))
    exact = denoise(truth, times[-1]).x0
    away = (final_sample(counted, end) - exact).abs().max().item()
    return RunErrors(counted.evaluations, (end.x - truth).abs().max().item(), away)


def convergence_order(levels: Sequence[int], errors: Sequence[float]) -> float:
    """Return the order of convergence: the slope of log(error) as a function of log(step size).

    Args:
        levels: the number of times of each run, which is the number of steps plus 1.
        errors: the error of each run.

    Returns:
        The slope, or NaN if fewer than two errors are above `FLOOR`.
    """
    points = [(math.log(n - 1), math.log(e)) for n, e in zip(levels, errors, strict=True) if e > FLOOR]
    if len(points) < 2:
        return math.nan
    x, y = torch.tensor(points, dtype=torch.float64).T
    x, y = x - x.mean(), y - y.mean()
    return -((x * y).sum() / (x * x).sum()).item()
