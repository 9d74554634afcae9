"""The probability flow ODE: d(x / alpha) / d(sigma / alpha) = eps, and tools for multistep methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ddim.diffusion.schedules import Level, Schedule


def move(x: Tensor, slope: Tensor, now: Level, then: Level) -> Tensor:
    """Move x (B, C, H, W) from noise level `now` to `then` with a slope d(x / alpha) / d(sigma / alpha).

    With the slope eps this is a step of DDIM (Song et al. 2021, eq. 13). The noise levels are scalars in
    float64, because the difference of almost equal values of sigma would lose digits in float32.
    """
    scale = then.alpha / now.alpha
    return scale.to(x) * x + (then.sigma - scale * now.sigma).to(x) * slope


def time_of_ratio(schedule: Schedule, noise_to_signal: Tensor) -> Tensor:
    """Return the times at which sigma / alpha has these values."""
    return schedule.inverse(-2 * noise_to_signal.log())


def interpolation_weights(nodes: Tensor, moments: Tensor) -> Tensor:
    """Return weights (k,) such that the weighted sum of k values is the integral of p(u) w(u).

    Here p is the polynomial of degree k - 1 through the values, and w is a function that the sampler chooses.

    Args:
        nodes: positions u (k,) of the values.
        moments: integrals (k,) of w(u), u w(u), u^2 w(u), ...
    """
    powers = torch.vander(nodes, increasing=True).T  # row m: nodes^m
    return torch.linalg.solve(powers, moments)


def weighted_sum(weights: Iterable[Tensor | float], values: Sequence[Tensor]) -> Tensor:
    """Return the sum of values (B, C, H, W), each multiplied by its scalar weight."""
    total = torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        total = total + torch.as_tensor(weight, dtype=torch.float64).to(value) * value
    return total
