"""Multistep samplers: Adams-Bashforth, DPM-Solver++ and UniPC, which reuse earlier predictions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.sampler import Sampler, State, interpolation_weights, move, time_of_ratio, weighted_sum
from ddim.diffusion.schedules import Level
from ddim.errors import UserError, check_part_values

_LARGEST = 5

_RUNGE_KUTTA: dict[int, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    2: (((1 / 2,),), (0, 1)),
    3: (((1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6)),
    4: (((1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""Runge-Kutta methods (Kutta 1901), keyed by order.

The first tuple of an entry holds the weights of the earlier slopes, for each stage after the first stage. The
second tuple holds the weights of all slopes in the step.
"""


@dataclass(frozen=True)
class AdamsBashforth(Sampler):
    """Adams-Bashforth method: each step integrates the polynomial through the last `order` slopes.

    The variable of the polynomial is sigma / alpha. If `steps` is "unequal", the polynomial goes through the
    slopes at their actual noise levels. If it is "equal", the textbook weights for equal steps are used on
    any grid, as in Béres' multistep sampler and iPNDM (Liu et al. 2022, eq. 9). If the steps in sigma / alpha
    are not equal, "equal" has at most order 2. If the step sizes do not change smoothly, "equal" has order 1.

    `start` defines the first steps, which have no earlier slopes. "ramp" uses orders 1, 2, 3, ...; its first
    step limits the whole run to order 2. "exact" keeps the full order: it begins with order - 2 steps of a
    Runge-Kutta method of order `order` - 1, each with order - 2 additional evaluations. On a table whose
    `read` is "floor", which has no noise levels between its entries, these steps have order 1.

    A grid of N times takes N - 1 network evaluations, plus the additional evaluations of the start. The
    final sample takes one more.

    Attributes:
        order: number of slopes that each step uses, 1 to 5.
        steps: "unequal" computes the weights from the actual step sizes, "equal" assumes equal steps.
        start: "ramp" makes the first steps with lower orders, "exact" with additional evaluations.
    """

    order: int = 2
    steps: Literal["unequal", "equal"] = "unequal"
    start: Literal["ramp", "exact"] = "ramp"

    def __post_init__(self) -> None:
        check_part_values("sampler", self)
        if self.order not in range(1, _LARGEST + 1):
            raise UserError(f"sampler.order must lie between 1 and {_LARGEST}, got {self.order}")

    @property
    def _single_steps(self) -> int:
        """Number of Runge-Kutta steps at the start."""
        return max(0, self.order - 2) if self.start == "exact" else 0

    def evaluations(self, levels: int) -> int:
        """Return the number of network evaluations of a sampling run; see `Sampler`."""
        return levels + min(self._single_steps, levels - 1) * (self.order - 2)

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """Yield the state after each step; see `Sampler`."""
        # (sigma / alpha, slope), newest last
        past: deque[tuple[Tensor, Tensor]] = deque(maxlen=int(self.order))
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            p = denoise(x, t)
            if now.noise_to_signal == then.noise_to_signal:  # two times with the same noise level of a table
                yield State(x, s.item(), p.x0)
                continue
            past.append((now.noise_to_signal, p.eps))
            if len(past) <= self._single_steps:
                slope = _runge_kutta_slope(denoise, x, t, s, p.eps, self.order - 1)
            else:
                slope = self._slope(past, then.noise_to_signal)
            x = move(x, slope, now, then)
            yield State(x, s.item(), p.x0)

    def _slope(self, past: deque[tuple[Tensor, Tensor]], end: Tensor) -> Tensor:
        """Return the mean of the polynomial of slopes over the step that ends at sigma / alpha = `end`."""
        begin = past[-1][0]
        if self.steps == "equal":
            nodes = torch.arange(1 - len(past), 1, dtype=torch.float64)
        else:
            nodes = (torch.stack([level for level, _ in past]) - begin) / (end - begin)
        weights = interpolation_weights(nodes, 1 / torch.arange(1, len(past) + 1, dtype=torch.float64))
        return weighted_sum(weights, [slope for _, slope in past])


def _runge_kutta_slope(
    denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, first: Tensor, order: int
) -> Tensor:
    """Return the mean slope of the step from x at time t to time s, by the Runge-Kutta method of `order`.

    `first` is the slope at time t.
    """
    now, then = denoise.schedule(t), denoise.schedule(s)
    stages, weights = _RUNGE_KUTTA[order]
    slopes = [first]
    for row in stages:
        part = sum(row)
        between = torch.lerp(now.noise_to_signal, then.noise_to_signal, part)
        where = s if part == 1 else time_of_ratio(denoise.schedule, between)
        slope = weighted_sum([a / part for a in row], slopes)
        slopes.append(denoise(move(x, slope, now, denoise.schedule(where)), where).eps)
    return weighted_sum(weights, slopes)


Known = tuple[Tensor, Tensor]
"""lambda (a scalar) of a noise level, and the clean images (B, C, H, W) predicted at this noise level."""

_GAUSS = torch.from_numpy(np.stack(np.polynomial.legendre.leggauss(24)))
_NODES, _WEIGHTS = (1 + _GAUSS[0]) / 2, _GAUSS[1] / 2
_MOST = 3


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++, the multistep methods 2M and 3M, and their stochastic variants (Lu et al. 2022b).

    `eta` is the amount of noise that each step adds. 0 is deterministic, 1 is the paper's SDE variant. Other
    values, and stochastic variants of order 3, are from k-diffusion.

    `start` defines the first steps of order 3. "ramp" uses orders 1 and 2, as published; its first step
    limits the deterministic method to order 2. "exact" begins with one single step of order 2 (2S). This
    costs one more evaluation and keeps order 3.

    A grid of N times takes N - 1 network evaluations, plus one for an "exact" start of order 3. The final
    sample takes one more. The method 3M of diffusers and k-diffusion differs from this method: its weight of
    the second difference is half of the exact weight, so it has order 2 with any start.

    Attributes:
        order: 1, 2 or 3.
        eta: amount of noise that each step adds: 0 is deterministic, 1 is the stochastic variant.
        start: for order 3: "ramp" takes the first steps with lower orders, "exact" uses one more network
            evaluation instead.
    """

    order: int = 2
    eta: float = 0.0
    start: Literal["ramp", "exact"] = "ramp"

    def __post_init__(self) -> None:
        check_part_values("sampler", self)
        _check_order(self.order)
        if not 0 <= self.eta <= 2:
            raise UserError(f"sampler.eta must lie in [0, 2], got {self.eta}")

    @property
    def stochastic(self) -> bool:
        """Whether sampling draws noise; see `Sampler`."""
        return self.eta > 0

    def evaluations(self, levels: int) -> int:
        """Return the number of network evaluations of a sampling run; see `Sampler`."""
        return levels + (self.order == _MOST and self.start == "exact" and levels > 1)

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """Yield the state after each step; see `Sampler`."""
        past: deque[Known] = deque(maxlen=int(self.order))
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            p = denoise(x, t)
            # In a table, both times of a step can have the same noise level.
            if half_log_snr(now) == half_log_snr(then):
                yield State(x, s.item(), p.x0)
                continue
            past.append((half_log_snr(now), p.x0))
            used = [*past]
            if len(past) == 1 and self.order == _MOST and self.start == "exact":
                # The network is also evaluated in the middle of the step, which a step of order 1 reaches.
                middle = denoise.schedule.inverse(half_log_snr(now) + half_log_snr(then))
                at = denoise.schedule(middle)
                if half_log_snr(at) != half_log_snr(now):
                    used.append((half_log_snr(at), denoise(exponential_step(x, past, now, at), middle).x0))
            x = exponential_step(x, used, now, then, self.eta)
            if self.eta > 0:
                h = half_log_snr(then) - half_log_snr(now)
                x = x + (then.sigma * (-torch.expm1(-2 * self.eta * h)).sqrt()).to(x) * noise.like(x)
            yield State(x, s.item(), p.x0)


@dataclass(frozen=True)
class UniPC(Sampler):
    """UniPC, the unified predictor-corrector, with predictions of clean images (Zhao et al. 2023).

    The predictor of each step uses the last `order` predictions of the network. The next evaluation, at the
    end of the step, also corrects the step; this needs no additional evaluation. The order of convergence is
    `order` + 1, but at most 3, because the first step limits it. A grid of N times takes N - 1 network
    evaluations; the final sample takes one more.

    `variant` is the paper's B(h): "bh1" is h, "bh2" is e^h - 1, which becomes 1 - e^(-h) for predictions of
    clean images. It matters only for steps that use exactly two predictions. With more predictions B(h)
    cancels.

    Attributes:
        order: number of predictions that the predictor uses.
        variant: the paper's B(h): "bh1" is h, "bh2" is 1 - e^(-h).
    """

    order: int = 3
    variant: Literal["bh1", "bh2"] = "bh2"

    def __post_init__(self) -> None:
        check_part_values("sampler", self)
        _check_order(self.order)

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """Yield the state after each step; see `Sampler`."""
        past: deque[Known] = deque(maxlen=int(self.order))
        before = None  # the noise level and the images x at the start of the last step
        for k, (t, s) in enumerate(pairwise(times)):
            now, then = denoise.schedule(t), denoise.schedule(s)
            p = denoise(x, t)
            if before is not None:
                known = [*past, (half_log_snr(now), p.x0)]
                x = exponential_step(before[1], known, before[0], now, variant=self.variant)
            if k:  # the step to time t is complete only now
                yield State(x, t.item(), past[-1][1] if past else torch.zeros_like(x))
            # In a table, both times of a step can have the same noise level.
            if half_log_snr(now) == half_log_snr(then):
                before = None
                continue
            past.append((half_log_snr(now), p.x0))
            before = (now, x)
            x = exponential_step(x, past, now, then, variant=self.variant)
        if len(times) > 1:
            yield State(x, times[-1].item(), past[-1][1] if past else torch.zeros_like(x))


def half_log_snr(at: Level) -> Tensor:
    """Return lambda = log(alpha / sigma), half the log-SNR."""
    return at.log_snr / 2


def exponential_step(
    x: Tensor,
    known: Sequence[Known],
    now: Level,
    then: Level,
    eta: float = 0.0,
    variant: Literal["bh1", "bh2"] = "bh2",
) -> Tensor:
    """Move images from one noise level to another. If eta is above 0, the caller adds the noise.

    Args:
        x: noisy images (B, C, H, W) at noise level `now`.
        known: lambda and predicted clean images of the last noise levels. The polynomial through them
            replaces x0 in the integral.
        now: the scalar noise level of x.
        then: the scalar noise level to which x is moved.
        eta: the amount of noise, as in `DPMSolver`.
        variant: B(h) of `UniPC`. With two predictions, the slope of the polynomial has the weight B(h) / 2,
            as in the papers of DPM-Solver++ and UniPC. Here B(h) is h for "bh1" and 1 - e^(-(1 + eta) h) for
            "bh2". With either variant, the error is of order h^3.

    Returns:
        The images (B, C, H, W) at noise level `then`.
    """
    h = half_log_snr(then) - half_log_snr(now)
    nodes = (torch.stack([level for level, _ in known]) - half_log_snr(now)) / h
    moments = _moments((1 + eta) * h, len(known))
    if len(known) == 2:
        moments[1] = (h if variant == "bh1" else moments[0]) / 2
    weights = then.alpha * interpolation_weights(nodes, moments)
    x = (then.sigma / now.sigma * (-eta * h).exp()).to(x) * x
    return x + weighted_sum(weights, [x0 for _, x0 in known])


def _moments(h: Tensor, count: int) -> Tensor:
    """Return the integrals (count,) of h e^(-h (1 - u)) u^m over u in [0, 1], for m = 0, 1, ...

    Gauss-Legendre quadrature is accurate to rounding for h below 30. The closed forms (phi functions) lose
    digits with each power m if h is small.
    """
    weight = h * (-h * (1 - _NODES)).exp() * _WEIGHTS
    return torch.stack([(weight * _NODES**m).sum() for m in range(count)])


def _check_order(order: int) -> None:
    if order not in range(1, _MOST + 1):
        raise UserError(f"sampler.order must be 1, 2 or 3, got {order}")
