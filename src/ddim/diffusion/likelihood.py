"""Likelihood: bits per dimension of 8-bit images under a model.

There are two measures. `bound_bits` is the variational bound for the distribution from which DDPM samples.
`flow_bits` is the likelihood for the distribution of the probability flow, from which deterministic samplers
sample. Both take 8-bit images x0 (B, C, H, W) in model units and return one number for each image.

The bound is -log p(x0) <= KL(q(x_1 | x0) || p) + sum over steps of KL(q(x_s | x_t, x0) || p(x_s | x_t)) - log
p(x0 | x_t), where the last t is the cleanest (Ho et al. 2020, eq. 5; Nichol & Dhariwal 2021, eq. 4 to 7).
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser, with_gradients
from ddim.diffusion.grids import Uniform, UniformLogSNR
from ddim.diffusion.noise import Noise
from ddim.diffusion.parameterisation import Prediction
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Level, Schedule, spread_over
from ddim.errors import UserError

FIRST = 0.25
"""The standard deviation of the noise, in 8-bit values, at which the probability flow starts.

The image is treated as if it contained this noise, which can make the result too large. For a distribution
with a width of 1.8 values, noise of 1.3 values adds 0.05 bits; noise of 0.25 values adds nothing measurable.
"""

LAST = 0.7
"""The standard deviation of the noise, in 8-bit values, at which the steps of the bound end.

With less noise, the steps also encode where a value lies within its bin, although an 8-bit value contains
only the bin. With more noise, the last prediction is too wide for images whose values differ little: it is a
normal distribution with this standard deviation.

With 1000 steps on the schedule of recipe edm, the bound is too large by these bits per dimension:

- for a distribution with a width of 1.8 values: 0.37 at noise 0.25, 0.16 at 0.5, 0.14 at 0.7, 0.15 at 1;
- for a distribution with a width of 25 values: 0.33 at noise 0.25, 0.11 at 0.5, 0.09 at 0.7, 0.08 at 1.

With other recipes, too, 0.7 is best for the narrow distribution.
"""

Variance = Literal["small", "large", "learned"]
"""The variance of p(x_s | x_t): `small` or `large` of the posterior, or predicted by the network."""


# Normal distributions


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

    def over(self, x: Tensor) -> "Posterior":
        """Return the posterior in a shape that multiplies images x (B, C, H, W), with their dtype."""
        return Posterior(*(spread_over(value, x) for value in vars(self).values()))

    def mean(self, x: Tensor, x0: Tensor) -> Tensor:
        """Return the mean of x_s (B, C, H, W), given x_t and x0 (B, C, H, W)."""
        return spread_over(self.x_weight, x) * x + spread_over(self.x0_weight, x) * x0

    def log_variance(self, variance: Variance, mix: Tensor | None = None) -> Tensor:
        """Return the log-variance of p(x_s | x_t).

        Args:
            variance: which variance.
            mix: the interpolation that the network predicts, for "learned": log `small` at 0 and log `large`
                at 1 (Nichol & Dhariwal 2021, eq. 15).

        Raises:
            UserError: if `variance` is "learned", but the network predicts no variance.
        """
        # Between equal noise levels the variance is 0, which has no logarithm. 1e-30 replaces it.
        low = self.small.clamp(min=1e-30).log()
        high = self.large.clamp(min=1e-30).log()
        if variance != "learned":
            return low if variance == "small" else high
        if mix is None:
            raise UserError('variance is "learned", but this network predicts no variance (net.outputs 1)')
        return low + mix * (high - low)


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
    probabilities add up to 1. A probability below 1e-12 counts as 1e-12.
    """
    below, above = (values - 0.5 - mean) / std, (values + 0.5 - mean) / std
    # An interval above 0 is replaced by its mirror image below 0, which has the same probability. Above 0 the
    # result would lose digits, as the difference of two numbers close to 1.
    flip = below > 0
    upper, lower = torch.where(flip, -below, above), torch.where(flip, -above, below)
    inside = _phi(upper) - _phi(lower)
    inside = torch.where(values > 254.5, _phi(-below), inside)
    return torch.where(values < 0.5, _phi(above), inside).clamp(min=1e-12).log()


def _phi(z: Tensor) -> Tensor:
    """Return the standard normal probability below z. In float32, torch's own ndtr loses all digits at -6."""
    return torch.special.erfc(-z / math.sqrt(2)) / 2


def nats_to_bits(nats: Tensor) -> Tensor:
    """Convert nats (B, C, H, W) to mean bits per dimension (B,)."""
    return nats.flatten(1).mean(1) / math.log(2)


# The variational bound


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
    """
    q = q.over(x_t)
    exact = q.log_variance("small")
    predicted = q.log_variance(variance, p.variance_mix)
    return nats_to_bits(kl(q.mean(x_t, x0), exact, q.mean(x_t, p.x0), predicted))


def image_bits(p: Prediction, x0: Tensor, q: Posterior, variance: Variance, pixels: Pixels) -> Tensor:
    """Return -log p(x0 | x_t) (B,), in bits per dimension, for the step q to the clean 8-bit image x0.

    The variance "small" is treated like "large", because q(x0 | x_t, x0) has variance 0.

    Args:
        p: the prediction of the network for x_t.
        x0: clean 8-bit images (B, C, H, W), in model units.
        q: the posterior of the step, () or (B,).
        variance: the variance of p(x0 | x_t).
        pixels: the map that defines the model units.
    """
    variance = "learned" if variance == "learned" else "large"
    log_variance = q.over(x0).log_variance(variance, p.variance_mix)
    std = (log_variance / 2).exp() * pixels.units(x0)
    values = pixels.values(x0).round()
    return nats_to_bits(-log_probability(values, pixels.values(p.x0), std))


def prior_bits(x0: Tensor, at: Level) -> Tensor:
    """Return KL(q(x_1 | x0) || N(0, alpha^2 + sigma^2)) (B,), bits per dimension, at noise level `at` ()."""
    at = at.over(x0)
    log_variance, start = 2 * at.sigma.log(), (at.alpha**2 + at.sigma**2).log()
    return nats_to_bits(kl(at.alpha * x0, log_variance, torch.zeros_like(x0), start))


def bound_times(steps: int, schedule: Schedule, pixels: Pixels, earliest: float = 0.0) -> Tensor:
    """Return decreasing times (steps,) for the variational bound.

    The times are in equal steps of log-SNR, from t = 1 to noise `LAST`. If the schedule is a table, they are
    in equal steps of time, from t = 1 to 1 / steps. All these times are entries of the table if `steps`
    divides the number of entries.

    Args:
        steps: number of times.
        schedule: the noise schedule.
        pixels: the map that defines the model units.
        earliest: the smallest training time. If its noise is above `LAST`, the times end at this time. It is
            not used for a table.
    """
    if schedule.entries:
        return Uniform()(steps, schedule)
    return UniformLogSNR(_clean_log_snr(schedule, pixels, LAST, earliest))(steps, schedule)


@torch.no_grad()
def bound_bits(
    denoise: Denoiser, x0: Tensor, pixels: Pixels, times: Tensor, noise: Noise, variance: Variance = "large"
) -> Tensor:
    """Return an unbiased estimate of the variational bound, with one draw of noise for each step.

    Args:
        denoise: the model.
        x0: 8-bit images (B, C, H, W) in model units.
        pixels: the map that defines the model units.
        times: decreasing times (T,), from `bound_times`.
        noise: the random streams, one for each image.
        variance: the variance of the steps p(x_s | x_t). "large" is right if the distribution of images is
            smooth on the scale of the noise, which holds near the clean end. "learned" needs a network that
            predicts a variance.

    Returns:
        Bits per dimension (B,), float64 on the CPU.

    Raises:
        UserError: if there are fewer than 2 times, or more than the schedule's table has entries.
    """
    schedule = denoise.schedule
    # If a table has fewer entries than times, some times lie between them, where the network is not trained.
    most = schedule.entries or math.inf
    if not 2 <= len(times) <= most:
        raise UserError(f"the bound needs 2 to {most} steps on this schedule, got {len(times)}")
    # Bits are added up on the CPU, because not every device has float64.
    total = prior_bits(x0, schedule(times[0])).cpu().double()
    least = posterior(schedule(times[-2]), schedule(times[-1])).small
    for t, s in pairwise([*times, torch.zeros_like(times[0])]):
        x_t = schedule(t).noisy(x0, noise.like(x0))
        p, q = denoise(x_t, t), bound_posterior(schedule, t, s, least)
        if s > 0:
            total += step_bits(p, x_t, x0, q, variance).cpu()
        else:
            total += image_bits(p, x0, q, variance, pixels).cpu()
    return total


# The probability flow


@with_gradients
def flow_bits(
    denoise: Denoiser, x0: Tensor, pixels: Pixels, noise: Noise, steps: int = 50, earliest: float = 0.0
) -> Tensor:
    """Return the likelihood along the probability flow (Song et al. 2021b, eq. 39).

    The flow goes from the low noise level `FIRST`, or from the `earliest` training time if this is noisier,
    to t = 1. It is solved with equal steps of log-SNR by the classical Runge-Kutta method of order 4.
    Uniform noise is added to each 8-bit value within its bin, so that the density bounds the probability of
    the values (Theis et al. 2016, section 3.1). The divergence is estimated without bias by one backward
    pass, with a random sign for each dimension (Hutchinson 1990; Grathwohl et al. 2019, eq. 7).

    Args:
        denoise: the model.
        x0: 8-bit images (B, C, H, W) in model units.
        pixels: the map that defines the model units.
        noise: the random streams, one for each image.
        steps: number of steps of the flow, each with 4 network evaluations.
        earliest: the smallest training time.

    Returns:
        Bits per dimension (B,), float64 on the CPU.

    Raises:
        UserError: if the schedule has plateaus, or is a table whose `read` is "floor".
    """
    schedule = denoise.schedule
    first = _clean_log_snr(schedule, pixels, FIRST, earliest)
    end = schedule(1.0).log_snr.item()
    clock = -torch.linspace(first, end, 2 * steps + 1, dtype=torch.float64, device="cpu") / 2
    times = schedule.inverse(-2 * clock)
    if not torch.allclose(-schedule(times).log_snr / 2, clock, atol=1e-6):
        raise UserError(
            "the probability flow needs a continuous schedule, or a table: read log_snr, clip none"
        )
    spread = torch.special.ndtr(noise.like(x0)) - 0.5
    signs = noise.like(x0).sign()
    y, fallen = _integrate(denoise, x0 + spread / pixels.units(x0), clock, times, signs)
    # The density of y = x / alpha at t = 1, where x is normal with variance alpha^2 + sigma^2.
    at = schedule(times[-1]).over(x0)
    variance = at.alpha**2 + at.sigma**2
    log_density = -((at.alpha * y).square() / variance + (2 * math.pi * variance).log()) / 2
    bits = nats_to_bits(pixels.units(x0).log() - (log_density + at.alpha.log())).cpu().double()
    return bits - fallen / math.log(2) / x0[0].numel()


def _integrate(
    denoise: Denoiser, y: Tensor, clock: Tensor, times: Tensor, signs: Tensor
) -> tuple[Tensor, Tensor]:
    """Move y = x / alpha (B, C, H, W) along the flow; return y and the decrease (B,) of log p(y) in nats.

    The decrease is float64 on the CPU, because not every device has float64.

    dy / d(sigma / alpha) = eps, and log p(y) decreases at the rate of the divergence of eps with respect to
    y.

    Args:
        denoise: the model.
        y: the start of the flow.
        clock: log(sigma / alpha) at the ends and the middles of the steps.
        times: the times at which log(sigma / alpha) has the values of `clock`.
        signs: random signs (B, C, H, W), with which the divergence is estimated.
    """
    fallen = torch.zeros(len(y), dtype=torch.float64, device="cpu")

    def slope(y: Tensor, k: int) -> tuple[Tensor, Tensor]:
        alpha = denoise.schedule(times[k]).over(y).alpha
        ratio = spread_over(clock[k].exp(), y)
        y = y.detach().requires_grad_()
        eps = denoise(alpha * y, times[k]).eps
        (pulled,) = torch.autograd.grad(eps, y, signs)
        return ratio * eps.detach(), ratio * (pulled * signs).flatten(1).sum(1)

    h = (clock[2] - clock[0]).item()
    for k in range(0, len(clock) - 1, 2):
        a = slope(y, k)
        b = slope(y + h / 2 * a[0], k + 1)
        c = slope(y + h / 2 * b[0], k + 1)
        d = slope(y + h * c[0], k + 2)
        move, fall = (p + 2 * q + 2 * r + s for p, q, r, s in zip(a, b, c, d, strict=True))
        y = y + move * h / 6
        fallen = fallen + (fall * h / 6).cpu()
    return y, fallen


def _clean_log_snr(schedule: Schedule, pixels: Pixels, noise: float, earliest: float) -> float:
    """Return the log-SNR at which the noise has a standard deviation of `noise` 8-bit values.

    The result is at most the log-SNR at time `earliest`. If channels differ, the channel with the most 8-bit
    values in a model unit is used.
    """
    wanted = 2 * math.log(255 * max(pixels.std) / noise)
    t = schedule.inverse(wanted).clamp(min=earliest)
    return schedule(t).log_snr.item()
