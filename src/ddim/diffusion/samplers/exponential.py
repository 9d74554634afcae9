"""Exponential multistep methods: DPM-Solver++ and UniPC, which are one method with two ends.

In the clock lambda = log(alpha / sigma) the flow has the exact solution (Lu et al. 2022b, proposition 4.1;
its SDE for eta = 1, and k-diffusion's for any eta), from t to s over h = lambda_s - lambda_t,

    x_s = (sigma_s / sigma_t) e^(-eta h) x_t + alpha_s (1 + eta) int_0^h e^(-(1 + eta)(h - tau)) x0 dtau
          + sigma_s sqrt(1 - e^(-2 eta h)) z.

Only x0 is not known; in its place stands the polynomial through the predictions at the last levels.
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
from ddim.diffusion.samplers.line import combined, interpolating
from ddim.diffusion.samplers.state import State
from ddim.diffusion.schedules import Level
from ddim.errors import UserError

Known = tuple[Tensor, Tensor]
"""lambda () of a level, and the clean images predicted there."""

_GAUSS = torch.from_numpy(np.stack(np.polynomial.legendre.leggauss(24)))
_NODES, _WEIGHTS = (1 + _GAUSS[0]) / 2, _GAUSS[1] / 2
_MOST = 3


@dataclass(frozen=True)
class DPMSolver:
    """DPM-Solver++ as a multistep method, 2M and 3M, and its stochastic variants (Lu et al. 2022b).

    `eta` renews noise: 0 the flow, 1 the paper's SDE variants, between them and for order 3 k-diffusion's.
    `start` says how a run of order 3 begins:
    "ramp" with orders 1 and 2, as published, whose first step holds the flow to order 2; "exact" with one
    single step of order 2 (2S), which costs one further evaluation and keeps order 3. N levels are N - 1
    evaluations; the picture is one more.

    The 3M of diffusers and k-diffusion takes half of the second difference (phi_3 weighs the whole second
    derivative), and is of order 2 whatever its start.
    """

    order: int = 2
    eta: float = 0.0
    start: Literal["ramp", "exact"] = "ramp"

    def __post_init__(self) -> None:
        _check_order(self.order)
        if not 0 <= self.eta <= 2:
            raise UserError(f"sampler.eta must lie in [0, 2], got {self.eta}")

    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """See `Sampler`."""
        if not len(times):
            return
        yield State(x, times[0].item(), torch.zeros_like(x))
        past: deque[Known] = deque(maxlen=self.order)
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            p = denoise(x, t)
            if clock(now) == clock(then):  # two times of one level of a table
                yield State(x, s.item(), p.x0)
                continue
            past.append((clock(now), p.x0))
            used = [*past]
            if len(past) == 1 and self.order == _MOST and self.start == "exact":
                # In the middle of the step, by order 1.
                middle = denoise.schedule.inverse(clock(now) + clock(then))
                at = denoise.schedule(middle)
                if clock(at) != clock(now):
                    used.append((clock(at), denoise(step(x, past, now, at), middle).x0))
            x = step(x, used, now, then, self.eta)
            if self.eta > 0:
                h = clock(then) - clock(now)
                x = x + (then.sigma * (-torch.expm1(-2 * self.eta * h)).sqrt()).to(x) * noise.like(x)
            yield State(x, s.item(), p.x0)


@dataclass(frozen=True)
class UniPC:
    """The unified predictor-corrector, B(h) = e^h - 1, on clean images (Zhao et al. 2023).

    Each step predicts with the last `order` predictions and, once the network has been asked at its end, is
    done again with that one too, at no further evaluation: of order `order` + 1, but for the first step,
    which holds it to order 3. N levels are N - 1 evaluations; the picture is one more.
    """

    order: int = 3

    def __post_init__(self) -> None:
        _check_order(self.order)

    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """See `Sampler`."""
        if not len(times):
            return
        past: deque[Known] = deque(maxlen=self.order)
        before = None  # the level and the images that the last step began at
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            p = denoise(x, t)
            if before is not None:
                x = step(before[1], [*past, (clock(now), p.x0)], before[0], now)
            yield State(x, t.item(), past[-1][1] if past else torch.zeros_like(x))
            if clock(now) == clock(then):  # two times of one level of a table
                before = None
                continue
            past.append((clock(now), p.x0))
            before = (now, x)
            x = step(x, past, now, then)
        yield State(x, times[-1].item(), past[-1][1] if past else torch.zeros_like(x))


def clock(at: Level) -> Tensor:
    """lambda = log(alpha / sigma), half the log-SNR."""
    return at.log_snr / 2


def step(x: Tensor, known: Sequence[Known], now: Level, then: Level, eta: float = 0.0) -> Tensor:
    """x (B, C, H, W) from one level () to another, without the noise that eta renews.

    x0 is the polynomial through what is known. Through two points its slope is given half of the step's
    whole weight, as both papers do; that is the exact weight but for a third power of h.
    """
    h = clock(then) - clock(now)
    nodes = (torch.stack([level for level, _ in known]) - clock(now)) / h
    moments = _moments((1 + eta) * h, len(known))
    if len(known) == 2:
        moments[1] = moments[0] / 2
    weights = then.alpha * interpolating(nodes, moments)
    x = (then.sigma / now.sigma * (-eta * h).exp()).to(x) * x
    return x + combined(weights, [x0 for _, x0 in known])


def _moments(h: Tensor, count: int) -> Tensor:
    """(count,) integrals of h e^(-h (1 - u)) u^m over u in [0, 1], by a rule that is exact for h below 30.

    The closed forms (phi functions) lose a digit for each power where h is small.
    """
    weight = h * (-h * (1 - _NODES)).exp() * _WEIGHTS
    return torch.stack([(weight * _NODES**m).sum() for m in range(count)])


def _check_order(order: int) -> None:
    if not 1 <= order <= _MOST:
        raise UserError(f"sampler.order must be 1, 2 or 3, got {order}")
