"""Normal distributions: the steps of a diffusion, KL divergences, and probabilities of 8-bit values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.schedules import Level

_LEAST = 1e-12
"""The least probability of a value: a logarithm of 0 would end training."""


@dataclass(frozen=True)
class Posterior:
    """q(x_s | x_t, x0) = N(x_weight * x_t + x0_weight * x0, small) for t > s, shaped like the levels.

    Ho et al. 2020, eq. 6 and 7, between any two levels. `large` is beta, the variance of q(x_t | x_s).
    """

    x_weight: Tensor
    x0_weight: Tensor
    small: Tensor
    large: Tensor

    def log_variance(self, mix: Tensor) -> Tensor:
        """The log-variance between `small` at mix 0 and `large` at mix 1, shaped like mix.

        Nichol & Dhariwal 2021, eq. 15.
        """
        # Between equal levels the variance is 0, which has no logarithm; 1e-30 is nothing in float32.
        low, high = (variance.clamp(min=1e-30).log().to(mix) for variance in (self.small, self.large))
        return torch.lerp(low, high, mix)


def posterior(now: Level, then: Level) -> Posterior:
    """The posterior of the step from one level to a cleaner one, which may be free of noise."""
    # 1 - SNR(t) / SNR(s), in which equal levels and a clean end lose no digits.
    part = -torch.expm1(now.log_snr - then.log_snr)
    return Posterior(
        x_weight=now.alpha / then.alpha * (then.sigma / now.sigma) ** 2,
        x0_weight=then.alpha * part,
        small=then.sigma**2 * part,
        large=now.sigma**2 * part,
    )


def kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, ...) || N(other_mean, ...)) of each element, in nats; shapes broadcast."""
    apart = (mean - other_mean).square() * (-other_log_variance).exp()
    narrower = log_variance - other_log_variance
    return (narrower.exp() - 1 - narrower + apart) / 2


def log_probability(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The log-probability, in nats, of the bin of each 8-bit value under N(mean, std^2).

    Ho et al. 2020, eq. 13. Values are 0 to 255, mean and std in the same units; all broadcast. A bin is 1
    wide; that of black is open below and that of white open above, so that the probabilities add up to 1.
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
