"""Multistep samplers: Adams-Bashforth, DPM-Solver++ and UniPC, which reuse the predictions of earlier steps.

Adams-Bashforth integrates the probability flow d(x / alpha) / d(sigma / alpha) = eps. DPM-Solver++ and UniPC
share an exponential step. With lambda = log(alpha / sigma), half the log-SNR, and h = lambda_s - lambda_t,
the exact solution from time t to s is

    x_s = (sigma_s / sigma_t) e^(-eta h) x_t + alpha_s (1 + eta) int_0^h e^(-(1 + eta)(h - tau)) x0 dtau
          + sigma_s sqrt(1 - e^(-2 eta h)) z.

In the integral, x0 is the prediction on the exact path at lambda_t + tau. z is standard normal noise.
With eta = 0 this is the probability flow (Lu et al. 2022b, proposition 4.1), with eta = 1 the SDE of the same
paper. Other values are from k-diffusion.

eps and x0 along the path are not known. All methods replace them by the polynomial through the most recent
predictions. If the schedule is a table, two times can have the same noise level. A step between them does
nothing. The methods here evaluate the network at all times but the last, and `Sampler` does it once more, at
the last time. So a grid of N times takes N evaluations.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.parameterisation import Prediction
from ddim.diffusion.sampler import Sampler, State, Steps, move
from ddim.diffusion.schedules import Level, spread_over

Known = tuple[Level, Tensor]
"""A scalar noise level, and the eps or x0 (B, C, H, W) predicted at it."""
History = Sequence[tuple[Level, Prediction]]
"""Scalar noise levels, and the predictions at them, the newest last."""


@dataclass(frozen=True)
class UsesHistory(Sampler):
    """A sampler that makes each step with the last `order` predictions; a subclass needs only `advance`."""

    order: int = 2

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Steps:
        """Keep the last predictions, and call `advance` for each step between two different noise levels."""
        known: deque[tuple[Level, Prediction]] = deque(maxlen=int(self.order))
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            p = denoise(x, t)
            yield State(x, t.item(), p.x0)
            if now.log_snr != then.log_snr:
                known.append((now, p))
                x = self.advance(x, known, then, noise)
        return x

    def advance(self, x: Tensor, known: History, then: Level, noise: Noise) -> Tensor:
        """Return the images (B, C, H, W) after a step to the noise level `then`.

        Args:
            x: noisy images at the last of the known noise levels.
            known: the last noise levels, and the predictions at them.
            then: the scalar noise level of the result.
            noise: the random streams, one for each image.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class AdamsBashforth(UsesHistory):
    """Adams-Bashforth method: each step integrates the polynomial through the last `order` slopes.

    The variable of the polynomial is sigma / alpha. If `steps` is "unequal", the polynomial goes through the
    slopes at their actual noise levels. If it is "equal", the textbook weights for equal steps are used on
    any grid, as in Béres' multistep sampler and iPNDM (Liu et al. 2022, eq. 9). "equal" converges with order
    2 if the ratio of neighbouring steps in sigma / alpha tends to 1, else with order 1.

    Step k uses k slopes until there are `order` of them. The error of the first step, which has one slope,
    limits the order of convergence to 2. More slopes make the whole error smaller.

    Attributes:
        order: number of slopes that a step uses; the first steps have fewer.
        steps: "unequal" computes the weights from the actual step sizes, "equal" assumes equal steps.
    """

    order: Literal[1, 2, 3, 4, 5] = 2
    steps: Literal["unequal", "equal"] = "unequal"

    def advance(self, x: Tensor, known: History, then: Level, noise: Noise) -> Tensor:
        """Step with the polynomial through the last slopes, averaged over the step; see `UsesHistory`.

        The step begins at the noise level of the last slope, and is mapped to u in [0, 1].
        """
        now, count = known[-1][0], len(known)
        nodes = torch.arange(1 - count, 1, device="cpu").double()
        if self.steps == "unequal":
            ratios = torch.stack([at.noise_to_signal for at, _ in known])
            nodes = (ratios - ratios[-1]) / (then.noise_to_signal - ratios[-1])
        moments = 1 / torch.arange(1, count + 1, device="cpu").double()  # the integrals of 1, u, u^2, ...
        slopes = [(at, p.eps) for at, p in known]
        return move(x, weighted_sum(interpolation_weights(nodes, moments), slopes), now, then)


@dataclass(frozen=True)
class DPMSolver(UsesHistory):
    """DPM-Solver++, the multistep methods 2M and 3M, and their stochastic variants (Lu et al. 2022b).

    `eta` is the amount of noise that each step adds. 0 is deterministic, 1 is the paper's SDE variant. Other
    values, and stochastic variants of order 3, are from k-diffusion.

    With order 3, the first step uses one prediction and the second two. The error of the first step limits
    the deterministic method to convergence of order 2. The method 3M of diffusers and k-diffusion differs
    from this one: there the quadratic term of the polynomial has half of its exact weight.

    Attributes:
        order: number of predictions that a step uses; the first steps have fewer.
        eta: amount of noise that each step adds: 0 is deterministic, 1 is the stochastic variant.
    """

    order: Literal[1, 2, 3] = 2
    eta: float = 0.0

    def advance(self, x: Tensor, known: History, then: Level, noise: Noise) -> Tensor:
        """Make an exponential step with the last predicted images, and add noise; see `UsesHistory`."""
        x = exponential_step(x, [(at, p.x0) for at, p in known], then, self.eta)
        if not self.stochastic:
            return x
        h = (then.log_snr - known[-1][0].log_snr) / 2
        deviation = then.sigma * (-torch.expm1(-2 * self.eta * h)).sqrt()
        return x + spread_over(deviation, x) * noise.like(x)


@dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC, the unified predictor-corrector, with predictions of clean images (Zhao et al. 2023).

    The predictor of each step uses the last `order` predictions of the network. The network is evaluated once
    at the end of each step. This prediction both corrects the step and begins the next one. Only the last
    step stays uncorrected. The x of each `State` is uncorrected, because the network is evaluated there. The
    order of convergence is `order` + 1, but at most 3, because the first step limits it.

    `variant` is the paper's B(h), here for predictions of clean images. It matters only with exactly
    two predictions; a corrector counts the new one too. With more, B(h) cancels.

    Attributes:
        order: number of predictions that the predictor uses.
        variant: the paper's B(h): "bh1" is h, "bh2" is 1 - e^(-h).
    """

    order: Literal[1, 2, 3] = 3
    variant: Literal["bh1", "bh2"] = "bh2"

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Steps:
        """Make exponential steps: predicted, and corrected at the next evaluation; see `Sampler.walk`."""
        images: deque[Known] = deque(maxlen=int(self.order))
        start = None  # the images at the start of the previous step
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            p = denoise(x, t)
            yield State(x, t.item(), p.x0)
            if start is not None:
                # Repeat the previous step, which ends at `now`, with the image predicted there.
                x = exponential_step(start, images, now, variant=self.variant, end=p.x0)
                start = None
            if now.log_snr != then.log_snr:
                images.append((now, p.x0))
                start = x
                x = exponential_step(x, images, then, variant=self.variant)
        return x


def exponential_step(
    x: Tensor,
    images: Sequence[Known],
    then: Level,
    eta: float = 0.0,
    variant: Literal["bh1", "bh2"] = "bh2",
    end: Tensor | None = None,
) -> Tensor:
    """Return images after a step to the noise level `then`. If eta is above 0, the caller adds the noise.

    Args:
        x: noisy images (B, C, H, W) at the noise level of the last of `images`.
        images: pairs of a recent noise level and the clean images predicted at it, the newest last. The
            polynomial through them replaces x0 in the integral.
        then: the scalar noise level to which x is moved.
        eta: the amount of noise, as in `DPMSolver`.
        variant: B(h) of `UniPC`. With two predictions, the slope of the polynomial has the weight B(h) / 2,
            as in the papers of DPM-Solver++ and UniPC. Here B(h) is h for "bh1" and 1 - e^(-(1 + eta) h) for
            "bh2". For eta = 0, the error of a step is of order h^3 with either variant.
        end: the clean images predicted at `then`, if they are known: the polynomial goes through them too.

    Returns:
        The images (B, C, H, W) at noise level `then`.
    """
    now, known = images[-1][0], list(images)
    if end is not None:
        known.append((then, end))
    h = (then.log_snr - now.log_snr) / 2
    nodes = torch.stack([(at.log_snr - now.log_snr) / 2 for at, _ in known]) / h
    moments = exponential_moments((1 + eta) * h, len(known))
    if len(known) == 2:  # the papers' weight of the slope; moments[0] is 1 - e^(-(1 + eta) h)
        moments[1] = (h if variant == "bh1" else moments[0]) / 2
    weights = then.alpha * interpolation_weights(nodes, moments)
    kept = spread_over(then.sigma / now.sigma * (-eta * h).exp(), x) * x
    return kept + weighted_sum(weights, known)


_GAUSS = torch.from_numpy(np.stack(np.polynomial.legendre.leggauss(24)))
_NODES, _WEIGHTS = (1 + _GAUSS[0]) / 2, _GAUSS[1] / 2
"""Gauss-Legendre quadrature on [0, 1] with 24 nodes."""


def exponential_moments(rate: Tensor, count: int) -> Tensor:
    """Return the integrals (count,) of r e^(-r (1 - u)) u^m over u in [0, 1], for m = 0, 1, ...; r is `rate`.

    Quadrature is accurate to rounding for r below 30; usual steps have a smaller r. The closed forms
    (phi functions) lose digits with each power m if r is small.
    """
    weight = rate * (-rate * (1 - _NODES)).exp() * _WEIGHTS
    return torch.stack([(weight * _NODES**m).sum() for m in range(count)])


def interpolation_weights(nodes: Tensor, moments: Tensor) -> Tensor:
    """Return weights (k,) such that the weighted sum of k values is the integral of p(u) w(u).

    p is the polynomial of degree k - 1 through the values. The integral is over u in [0, 1], and w is the
    weight function whose moments are given.

    Args:
        nodes: positions u (k,) of the values.
        moments: integrals (k,) of w(u), u w(u), u^2 w(u), ...
    """
    powers = torch.vander(nodes, increasing=True).T  # row m: nodes^m
    return torch.linalg.solve(powers, moments)


def weighted_sum(weights: Tensor, known: Sequence[Known]) -> Tensor:
    """Return the sum of the predictions (B, C, H, W), each multiplied by its weight."""
    total = torch.zeros_like(known[0][1])
    for weight, (_, value) in zip(weights, known, strict=True):
        total = total + spread_over(weight, value) * value
    return total
