"""Adams-Bashforth methods: each step reuses the slopes of earlier steps and needs one network evaluation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers.flow import interpolation_weights, move, time_of_ratio, weighted_sum
from ddim.diffusion.samplers.state import Sampler, State
from ddim.errors import UserError, check_part_values

_MOST = 5

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
        if self.order not in range(1, _MOST + 1):
            raise UserError(f"sampler.order must lie between 1 and {_MOST}, got {self.order}")

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
