"""Orders of convergence: how fast the error of a sampler falls with the number of steps.

The errors are measured against exact solutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ddim.diffusion.denoiser import Counted, Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import Sampler, last_state
from ddim.diffusion.schedules import Schedule
from ddim.evaluation.sampler_errors import TimeRange

FLOOR = 1e-11
"""Errors below this are rounding errors."""


@dataclass(frozen=True)
class RunErrors:
    """The NFE of a sampling run, and the largest errors of its last state and of its final sample."""

    nfe: int
    state: float
    sample: float


def lay_grid(name: str, steps: int, schedule: Schedule, last: float) -> Tensor:
    """Return decreasing times (steps,) from 1 to `last`.

    Args:
        name: a key of `TimeRange.lay_grids`, or "warped SEED" for equal steps of a smooth random function of
            time. The lengths of neighbouring warped steps differ by a factor below 3.2.
        steps: number of times.
        schedule: the noise schedule.
        last: the last time.
    """
    if not name.startswith("warped"):
        return TimeRange(schedule, last).lay_grids(steps)[name]
    draw = torch.Generator().manual_seed(int(name.split()[1]))
    phase, size = torch.rand(2, 3, generator=draw, dtype=torch.float64)
    u = torch.linspace(0, 1, steps, dtype=torch.float64)
    for k in range(3):
        wave = 2 * math.pi * (k + 1)
        height = size[k] / wave / 4
        u = u + height * ((wave * (u + phase[k])).sin() - (wave * phase[k]).sin())
    return 1 - (1 - last) * (u / u[-1])


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
    away = (end.x0 - exact).abs().max().item()
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


def exact_flow(denoise: Denoiser, x: Tensor, t: float, s: float) -> Tensor:
    """Return x (B, C, H, W) moved by the probability flow from time t to time s, accurate to about 1e-11.

    The result is float64. The equation is dy / d(sigma / alpha) = eps for y = x / alpha (Song et al. 2021,
    eq. 14). It is solved by the method of Dormand and Prince of order 8, with asinh(sigma / alpha) as the
    independent variable. sigma must be above 0 at both times, and the schedule must be continuous.
    """
    schedule = denoise.schedule
    now, then = schedule(t), schedule(s)

    def slope(clock: float, y: np.ndarray) -> np.ndarray:
        time = schedule.inverse(-2 * math.log(math.sinh(clock)))
        eps = denoise(schedule(time).alpha * torch.from_numpy(y).reshape(x.shape), time).eps
        return (math.cosh(clock) * eps).flatten().numpy()

    span = [at.noise_to_signal.asinh().item() for at in (now, then)]
    start = (x.double() / now.alpha).flatten().numpy()
    end = solve_ivp(slope, span, start, method="DOP853", t_eval=span[1:], rtol=1e-13, atol=1e-13).y[:, -1]
    return then.alpha * torch.from_numpy(end).reshape(x.shape)
