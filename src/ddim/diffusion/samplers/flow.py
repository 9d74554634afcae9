"""The probability flow as samplers see it: x / alpha moves with slope eps over sigma / alpha."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ddim.diffusion.schedules import Level, Schedule


def move(x: Tensor, slope: Tensor, now: Level, then: Level) -> Tensor:
    """x (B, C, H, W) carried from one level () to another by a slope d(x / alpha) / d(sigma / alpha).

    With the slope eps this is a step of DDIM (Song et al. 2021, eq. 13). Levels are in float64: on a fine
    grid the rates of two neighbours are almost equal.
    """
    scale = then.alpha / now.alpha
    return scale.to(x) * x + (then.sigma - scale * now.sigma).to(x) * slope


def time_of_ratio(schedule: Schedule, noise_to_signal: Tensor) -> Tensor:
    """The times at which sigma / alpha has these values."""
    return schedule.inverse(-2 * noise_to_signal.log())


def interpolation_weights(nodes: Tensor, moments: Tensor) -> Tensor:
    """Weights (k,) with which k values at `nodes` (k,) integrate like the polynomial through them.

    `moments` (k,) are the integrals of 1, u, u^2, ... against the weight function of the method.
    """
    powers = torch.vander(nodes, increasing=True).T  # row m: nodes^m
    return torch.linalg.solve(powers, moments)


def weighted_sum(weights: Iterable[Tensor | float], values: Sequence[Tensor]) -> Tensor:
    """The sum of values (B, C, H, W), each times its weight ()."""
    total = torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        total = total + torch.as_tensor(weight, dtype=torch.float64).to(value) * value
    return total
