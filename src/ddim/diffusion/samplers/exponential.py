"""Exponential multistep methods: DPM-Solver++ and UniPC, which are one method with two ends.

In the clock lambda = log(alpha / sigma) the flow has the exact solution (Lu et al. 2022b, proposition 4.1;
its SDE for eta = 1, and k-diffusion's for any eta), from t to s over h = lambda_s - lambda_t,

    x_s = (sigma_s / sigma_t) e^(-eta h) x_t + alpha_s (1 + eta) int_0^h e^(-(1 + eta)(h - tau)) x0 dtau
          + sigma_s sqrt(1 - e^(-2 eta h)) z.

Only x0 is not known. The polynomial through the predictions at the last levels takes its place.
"""

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
from ddim.diffusion.samplers.flow import interpolation_weights, weighted_sum
from ddim.diffusion.samplers.state import Sampler, State, Times
from ddim.diffusion.schedules import Level, as_double
from ddim.errors import UserError

Known = tuple[Tensor, Tensor]
"""lambda () of a level, and the clean images predicted there."""

_GAUSS = torch.from_numpy(np.stack(np.polynomial.legendre.leggauss(24)))
_NODES, _WEIGHTS = (1 + _GAUSS[0]) / 2, _GAUSS[1] / 2
_MOST = 3


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++ as a multistep method, 2M and 3M, and its stochastic variants (Lu et al. 2022b).

    `eta` renews noise: 0 follows the flow, 1 gives the paper's SDE variants. Other values, and order 3, are
    those of k-diffusion. `start` says how a run of order 3 begins. "ramp" takes orders 1 and 2, as published;
    its first step holds the flow to order 2. "exact" takes one single step of order 2 (2S), which costs one
    further evaluation and keeps order 3. A run over N levels takes N - 1 evaluations and that of the start;
    the final sample is one more.

    The 3M of diffusers and k-diffusion takes half of the second difference, where phi_3 weighs the whole
    second derivative. It is of order 2 whatever its start.
    """

    order: int = 2
    eta: float = 0.0
    start: Literal["ramp", "exact"] = "ramp"

    def __post_init__(self) -> None:
        _check_order(self.order)
        if not 0 <= self.eta <= 2:
            raise UserError(f"sampler.eta must lie in [0, 2], got {self.eta}")

    @property
    def stochastic(self) -> bool:
        """Whether a run draws noise; see `Sampler`."""
        return self.eta > 0

    def evaluations(self, levels: int) -> int:
        """Network evaluations of a run; see `Sampler`."""
        return levels + (self.order == _MOST and self.start == "exact" and levels > 1)

    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Times, noise: Noise) -> Iterator[State]:
        """Walk down the times; see `Sampler`."""
        if not len(times):
            return
        times = as_double(times)
        yield State(x, times[0].item(), torch.zeros_like(x))
        past: deque[Known] = deque(maxlen=self.order)
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            p = denoise(x, t)
            if half_log_snr(now) == half_log_snr(then):  # two times of one level of a table
                yield State(x, s.item(), p.x0)
                continue
            past.append((half_log_snr(now), p.x0))
            used = [*past]
            if len(past) == 1 and self.order == _MOST and self.start == "exact":
                # In the middle of the step, by order 1.
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
    """The unified predictor-corrector on clean images (Zhao et al. 2023).

    Each step predicts with the last `order` predictions. Once the network has been evaluated at its end, the
    step is corrected with that prediction too, at no further evaluation. The order is `order` + 1, but at
    most 3, to which the first step holds the run. A run over N levels takes N - 1 evaluations; the final
    sample is one more.

    `variant` is the paper's B(h): "bh1" is h, "bh2" is e^h - 1. It decides steps through two predictions
    alone; through more its factor cancels.
    """

    order: int = 3
    variant: Literal["bh1", "bh2"] = "bh2"

    def __post_init__(self) -> None:
        _check_order(self.order)

    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Times, noise: Noise) -> Iterator[State]:
        """Walk down the times; see `Sampler`."""
        if not len(times):
            return
        times = as_double(times)
        past: deque[Known] = deque(maxlen=self.order)
        before = None  # the level and the images at the start of the last step
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            p = denoise(x, t)
            if before is not None:
                known = [*past, (half_log_snr(now), p.x0)]
                x = exponential_step(before[1], known, before[0], now, variant=self.variant)
            yield State(x, t.item(), past[-1][1] if past else torch.zeros_like(x))
            if half_log_snr(now) == half_log_snr(then):  # two times of one level of a table
                before = None
                continue
            past.append((half_log_snr(now), p.x0))
            before = (now, x)
            x = exponential_step(x, past, now, then, variant=self.variant)
        yield State(x, times[-1].item(), past[-1][1] if past else torch.zeros_like(x))


def half_log_snr(at: Level) -> Tensor:
    """lambda = log(alpha / sigma), half the log-SNR."""
    return at.log_snr / 2


def exponential_step(
    x: Tensor,
    known: Sequence[Known],
    now: Level,
    then: Level,
    eta: float = 0.0,
    variant: Literal["bh1", "bh2"] = "bh2",
) -> Tensor:
    """x (B, C, H, W) carried from one level () to another, without the noise that eta renews.

    x0 is the polynomial through the known predictions. Through two of them its slope has half the weight
    B(h), as both papers have it: `variant` "bh2" is the weight of the whole step, "bh1" the step h itself.
    Either way the step is wrong by a third power of h.
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
    """(count,) integrals of h e^(-h (1 - u)) u^m over u in [0, 1], by Gauss's rule, exact for h below 30.

    The closed forms (phi functions) lose a digit with each power m where h is small.
    """
    weight = h * (-h * (1 - _NODES)).exp() * _WEIGHTS
    return torch.stack([(weight * _NODES**m).sum() for m in range(count)])


def _check_order(order: int) -> None:
    if not 1 <= order <= _MOST:
        raise UserError(f"sampler.order must be 1, 2 or 3, got {order}")
