"""Normal laws: the steps of a diffusion, how far two are apart, and what one gives an 8-bit value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.schedules import Level

_LEAST = 1e-12
"""The least probability of a value: a logarithm of 0 would end training."""


@dataclass(frozen=True)
class Step:
    """q(x_s | x_t, x0) = N(of_x * x_t + of_x0 * x0, small), for t > s; coefficients shaped like the levels.

    Ho et al. 2020, eq. 6 and 7, between any two levels. `large` is beta, the variance of q(x_t | x_s).
    """

    of_x: Tensor
    of_x0: Tensor
    small: Tensor
    large: Tensor

    def log_variance(self, mix: Tensor) -> Tensor:
        """The logarithm of a variance between `small` at mix 0 and `large` at mix 1, shaped like mix.

        Nichol & Dhariwal 2021, eq. 15.
        """
        # 0, as between equal levels, has no logarithm; the square of float32's digits of nothing will do.
        low, high = (variance.clamp(min=1e-30).log().to(mix) for variance in (self.small, self.large))
        return torch.lerp(low, high, mix)


def step(now: Level, then: Level) -> Step:
    """The step from one level to a cleaner one, which may be free of noise."""
    # 1 - SNR(t) / SNR(s), in which equal levels and a clean end lose no digits.
    part = -torch.expm1(now.log_snr - then.log_snr)
    return Step(
        of_x=now.alpha / then.alpha * (then.sigma / now.sigma) ** 2,
        of_x0=then.alpha * part,
        small=then.sigma**2 * part,
        large=now.sigma**2 * part,
    )


def kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, ...) || N(other_mean, ...)) of each element, in nats; shapes broadcast."""
    apart = (mean - other_mean).square() * (-other_log_variance).exp()
    narrower = log_variance - other_log_variance
    return (narrower.exp() - 1 - narrower + apart) / 2


def log_probability(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log of the mass of N(mean, std^2) in the bin of each 8-bit value, in nats (Ho et al. 2020, eq. 13).

    values 0 to 255, mean and std in the same units; all broadcast. A bin is 1 wide, but that of black is open
    to below and that of white to above: the masses add up to 1.
    """
    below, above = (values - 0.5 - mean) / std, (values + 0.5 - mean) / std
    inside = torch.where(values > 254.5, _phi(-below), _mass(below, above))
    return torch.where(values < 0.5, _phi(above), inside).clamp(min=_LEAST).log()


def log_density(x: Tensor, variance: Tensor) -> Tensor:
    """log N(x; 0, variance) of each element, in nats."""
    return -(x.square() / variance + (2 * math.pi * variance).log()) / 2


def _mass(below: Tensor, above: Tensor) -> Tensor:
    """The standard normal mass between two points, taken on the side of 0 where neither rounds to 1."""
    flip = below > 0
    high, low = torch.where(flip, -below, above), torch.where(flip, -above, below)
    return _phi(high) - _phi(low)


def _phi(z: Tensor) -> Tensor:
    """The standard normal mass below z. Torch's own ndtr has no digits left at -6 in float32."""
    return torch.special.erfc(-z / math.sqrt(2)) / 2
