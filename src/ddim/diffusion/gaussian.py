"""Normal distributions: posteriors of diffusion steps, KL divergences, and probabilities of 8-bit values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.schedules import Level

_LEAST = 1e-12
"""The least probability of an 8-bit value. It replaces smaller ones, whose logarithm may be -infinity."""


@dataclass(frozen=True)
class Posterior:
    """The posterior q(x_s | x_t, x0) = N(x_weight * x_t + x0_weight * x0, small) for t > s.

    It generalises eq. 6 and 7 of Ho et al. 2020 to any two noise levels. The fields have the shape of the
    noise levels. `small` is the variance of this posterior. `large` is beta, the variance of q(x_t | x_s).
    """

    x_weight: Tensor
    x0_weight: Tensor
    small: Tensor
    large: Tensor

    def log_variance(self, mix: Tensor) -> Tensor:
        """Return log-variances with the shape of `mix`: log `small` at mix 0, log `large` at mix 1.

        Between 0 and 1 they are interpolated linearly (Nichol & Dhariwal 2021, eq. 15).
        """
        # Between equal noise levels the variance is 0, which has no logarithm. 1e-30 replaces it.
        low, high = (variance.clamp(min=1e-30).log().to(mix) for variance in (self.small, self.large))
        return torch.lerp(low, high, mix)


def posterior(now: Level, then: Level) -> Posterior:
    """Return the posterior of the step from noise level `now` to the cleaner `then`; then.sigma may be 0."""
    # This is 1 - SNR(t) / SNR(s), in a form that is accurate for almost equal SNRs and for sigma = 0.
    part = -torch.expm1(now.log_snr - then.log_snr)
    return Posterior(
        x_weight=now.alpha / then.alpha * (then.sigma / now.sigma) ** 2,
        x0_weight=then.alpha * part,
        small=then.sigma**2 * part,
        large=now.sigma**2 * part,
    )


def kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(other_mean, other_variance)) for each element, in nats.

    The variances are given by their logarithms; all shapes broadcast.
    """
    apart = (mean - other_mean).square() * (-other_log_variance).exp()
    narrower = log_variance - other_log_variance
    return (narrower.exp() - 1 - narrower + apart) / 2


def log_probability(values: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the log-probability, in nats, of the bin of each 8-bit value under N(mean, std^2).

    Ho et al. 2020, eq. 13. Values lie in [0, 255], mean and std are in the same units; all shapes broadcast.
    A bin is 1 wide. The bin of 0 extends to -infinity and the bin of 255 to infinity, so that the
    probabilities add up to 1.
    """
    below, above = (values - 0.5 - mean) / std, (values + 0.5 - mean) / std
    inside = torch.where(values > 254.5, _phi(-below), _mass(below, above))
    return torch.where(values < 0.5, _phi(above), inside).clamp(min=_LEAST).log()


def log_density(x: Tensor, variance: Tensor) -> Tensor:
    """Return log N(x; 0, variance) of each element, in nats."""
    return -(x.square() / variance + (2 * math.pi * variance).log()) / 2


def _mass(below: Tensor, above: Tensor) -> Tensor:
    """Return the standard normal probability between two points, each (B, C, H, W).

    An interval above 0 is replaced by its mirror image below 0, which has the same probability. Above 0 the
    result would lose digits, as the difference of two numbers close to 1.
    """
    flip = below > 0
    high, low = torch.where(flip, -below, above), torch.where(flip, -above, below)
    return _phi(high) - _phi(low)


def _phi(z: Tensor) -> Tensor:
    """Return the standard normal probability below z. In float32, torch's own ndtr loses all digits at -6."""
    return torch.special.erfc(-z / math.sqrt(2)) / 2
