"""How fast the error of a sampler falls with its number of steps, where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Counted, Denoiser
from ddim.diffusion.grids import Karras
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import Sampler, last, picture
from ddim.diffusion.samplers.line import bar
from ddim.diffusion.schedules import Schedule

FLOOR = 1e-11
"""Errors below this are rounding."""

Clock = Callable[[int, Schedule, float], Tensor]
"""(levels, schedule, end) -> (levels,) times to `end`, from 1: the ends do not depend on the number."""


@dataclass(frozen=True)
class Errors:
    """Of one run: its evaluations, and the largest error of its last state and of its picture."""

    nfe: int
    state: float
    picture: float


def uniform(levels: int, schedule: Schedule, end: float, first: float = 1.0) -> Tensor:
    """Equal steps of time."""
    return torch.linspace(first, end, levels, dtype=torch.float64)


def quadratic(levels: int, schedule: Schedule, end: float, first: float = 1.0) -> Tensor:
    """Squares of equal steps."""
    return torch.linspace(math.sqrt(first), math.sqrt(end), levels, dtype=torch.float64) ** 2


def uniform_log_snr(levels: int, schedule: Schedule, end: float, first: float = 1.0) -> Tensor:
    """Equal steps of log-SNR."""
    noisy, clean = schedule(torch.tensor([first, end], dtype=torch.float64)).log_snr.tolist()
    return schedule.inverse(torch.linspace(noisy, clean, levels, dtype=torch.float64))


def karras(levels: int, schedule: Schedule, end: float, first: float = 1.0) -> Tensor:
    """Equal steps of the seventh root of sigma / alpha."""
    high, low = bar(schedule(torch.tensor([first, end], dtype=torch.float64))).tolist()
    return Karras(low, high)(levels, schedule)


def warped(seed: int) -> Clock:
    """Equal steps of a smooth clock drawn from a seed; neighbouring steps differ by a factor below 3."""

    def clock(levels: int, schedule: Schedule, end: float) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        phase, size = torch.rand(2, 3, generator=draw, dtype=torch.float64)
        u = torch.linspace(0, 1, levels, dtype=torch.float64)
        for k in range(3):
            wave = 2 * math.pi * (k + 1)
            height = size[k] / wave / 4
            u = u + height * ((wave * (u + phase[k])).sin() - (wave * phase[k]).sin())
        u = u / u[-1]
        return 1 - (1 - end) * u

    return clock


def errors(sampler: Sampler, denoise: Denoiser, x: Tensor, times: Tensor, truth: Tensor) -> Errors:
    """Errors of a run from x (B, C, H, W) at times[0], against the exact state `truth` at times[-1]."""
    counted = Counted(denoise)
    end = last(sampler(counted, x, times, Noise(range(len(x)))))
    exact = denoise(truth, times[-1]).x0
    away = (picture(counted, end) - exact).abs().max().item()
    return Errors(counted.evaluations, (end.x - truth).abs().max().item(), away)


def slope(levels: Sequence[int], found: Sequence[float]) -> float:
    """The order of convergence: the slope of log error over log step; NaN for fewer than two errors."""
    points = [(math.log(n - 1), math.log(e)) for n, e in zip(levels, found, strict=True) if e > FLOOR]
    if len(points) < 2:
        return math.nan
    x, y = torch.tensor(points, dtype=torch.float64).T
    x, y = x - x.mean(), y - y.mean()
    return -((x * y).sum() / (x * x).sum()).item()
