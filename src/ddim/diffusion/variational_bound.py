"""The variational bound on the likelihood of 8-bit images, term by term, in bits per dimension.

-log p(x0) <= KL(q(x_1 | x0) || p) + sum over steps of KL(q(x_s | x_t, x0) || p(x_s | x_t)) - log p(x0 | x_t),
where the last t is the cleanest (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021, eq. 4 to 7).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ddim.diffusion.gaussian import Posterior, kl, log_probability, posterior
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.prediction import Prediction
from ddim.diffusion.schedules import Level, Schedule
from ddim.errors import UserError

Variance = Literal["small", "large", "learned"]
"""The variance of p(x_s | x_t): `small` or `large` of the posterior, or predicted by the network."""


def bound_posterior(schedule: Schedule, t: Tensor, s: Tensor, least: Tensor) -> Posterior:
    """Return the posteriors of the steps from times t to times s.

    Args:
        schedule: the noise schedule.
        t: the times (B,) or () before the steps.
        s: the times, of the same shape, after the steps; s = 0 is the clean image.
        least: the value () that replaces the variance `small` of a step to the clean image. The true value is
            0, whose logarithm is infinite, so that a learned variance could not be interpolated. Nichol &
            Dhariwal use the variance `small` of the step before.
    """
    then = schedule(s)
    end = s <= 0
    clean = Level(torch.where(end, 1.0, then.alpha), torch.where(end, 0.0, then.sigma))
    q = posterior(schedule(t), clean)
    return replace(q, small=torch.where(end, least, q.small))


def step_bits(p: Prediction, x_t: Tensor, x0: Tensor, q: Posterior, variance: Variance) -> Tensor:
    """Return KL(q(x_s | x_t, x0) || p(x_s | x_t)) (B,), in bits per dimension.

    Args:
        p: the prediction of the network for x_t.
        x_t: noisy images (B, C, H, W).
        x0: clean images (B, C, H, W).
        q: the posterior of the step, () or (B,).
        variance: the variance of p(x_s | x_t).

    Raises:
        UserError: if `variance` is "learned", but the network does not predict a variance.
    """
    q = _over(q, x_t)
    mean, wanted = (q.x_weight * x_t + q.x0_weight * image for image in (p.x0, x0))
    apart = kl(wanted, q.log_variance(torch.zeros_like(x0)), mean, _log_variance(p, q, variance))
    return nats_to_bits(apart)


def image_bits(p: Prediction, x0: Tensor, q: Posterior, variance: Variance, pixels: Pixels) -> Tensor:
    """Return -log p(x0 | x_t) (B,), in bits per dimension, for the step q to the clean 8-bit image x0.

    The variance "small" is treated like "large", because q(x0 | x_t, x0) has variance 0.

    Args:
        p: the prediction of the network for x_t.
        x0: clean 8-bit images (B, C, H, W), in model units.
        q: the posterior of the step, () or (B,).
        variance: the variance of p(x0 | x_t).
        pixels: the map that defines the model units.

    Raises:
        UserError: if `variance` is "learned", but the network does not predict a variance.
    """
    q = _over(q, x0)
    deviation = (_log_variance(p, q, "learned" if variance == "learned" else "large") / 2).exp()
    std = deviation * pixels.units(x0)
    return nats_to_bits(-log_probability(pixels.values(x0).round(), pixels.values(p.x0), std))


def prior_bits(x0: Tensor, at: Level) -> Tensor:
    """Return KL(q(x_1 | x0) || N(0, alpha^2 + sigma^2)) (B,), bits per dimension, at noise level `at` ()."""
    at = at.over(x0)
    start = (at.alpha**2 + at.sigma**2).log()
    return nats_to_bits(kl(at.alpha * x0, 2 * at.sigma.log(), torch.zeros_like(x0), start))


def nats_to_bits(nats: Tensor) -> Tensor:
    """Convert nats (B, C, H, W) to mean bits per dimension (B,)."""
    return nats.flatten(1).mean(1) / math.log(2)


def _log_variance(p: Prediction, q: Posterior, variance: Variance) -> Tensor:
    """Return the log-variance (B, C, H, W) of p(x_s | x_t).

    Raises:
        UserError: if `variance` is "learned", but the network does not predict a variance.
    """
    if variance == "learned":
        if p.variance_mix is None:
            raise UserError(
                'variance is "learned", but this network predicts no variance: set net.outputs to 2'
            )
        return q.log_variance(p.variance_mix)
    return q.log_variance(torch.full_like(p.x0, variance == "large"))


def _over(q: Posterior, x: Tensor) -> Posterior:
    """Return the posterior with the dtype and device of x, reshaped to multiply x."""
    shape = (-1,) + (1,) * (x.ndim - 1)
    return Posterior(*(value.reshape(shape).to(x) for value in (q.x_weight, q.x0_weight, q.small, q.large)))
