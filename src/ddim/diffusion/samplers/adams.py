"""Adams-Bashforth: a step from the slopes of earlier steps, at no further evaluation."""

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
from ddim.diffusion.samplers.state import Sampler, State, Times
from ddim.diffusion.schedules import as_double
from ddim.errors import UserError

_MOST = 5

_RUNGE_KUTTA: dict[int, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    2: (((1 / 2,),), (0, 1)),
    3: (((1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6)),
    4: (((1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""Rules by order (Kutta 1901): the weights of earlier slopes in each later stage, and in the step."""


@dataclass(frozen=True)
class AdamsBashforth(Sampler):
    """The polynomial through the last `order` slopes, integrated over the step, in sigma / alpha.

    `steps` "unequal" takes the polynomial through the levels where they are. "equal" uses the textbook's
    weights for equal steps, whatever the grid, as Béres' multistep sampler and iPNDM do (Liu et al. 2022,
    eq. 9). Unless sigma / alpha falls in equal steps, these are of order 2 at most. Where the step size does
    not change smoothly they are of order 1.

    `start` says how a run begins, when there are no earlier slopes. "ramp" takes orders 1, 2, 3, ...; its
    first step holds the whole run to order 2. "exact" keeps the order. It first takes order - 2 steps of a
    Runge-Kutta rule of order - 1, each at order - 2 further evaluations. Between the entries of a table read
    by "floor" there is no level, and a start is of order 1.

    A run over N levels takes N - 1 evaluations and those of the start; the final sample is one more.
    """

    order: int = 2
    steps: Literal["unequal", "equal"] = "unequal"
    start: Literal["ramp", "exact"] = "ramp"

    def __post_init__(self) -> None:
        if not 1 <= self.order <= _MOST:
            raise UserError(f"sampler.order must lie between 1 and {_MOST}, got {self.order}")

    @property
    def _single_steps(self) -> int:
        """Steps of Runge and Kutta's rule at the start."""
        return max(0, self.order - 2) if self.start == "exact" else 0

    def evaluations(self, levels: int) -> int:
        """Network evaluations of a run; see `Sampler`."""
        return levels + min(self._single_steps, levels - 1) * (self.order - 2)

    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Times, noise: Noise) -> Iterator[State]:
        """Walk down the times; see `Sampler`."""
        if not len(times):
            return
        times = as_double(times)
        yield State(x, times[0].item(), torch.zeros_like(x))
        past: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.order)  # (sigma / alpha, slope), newest last
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            p = denoise(x, t)
            if now.noise_to_signal == then.noise_to_signal:  # two times of one level of a table
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
        """The mean of the polynomial over the step that begins at the newest slope."""
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
    """The mean slope of a step from x at time t to time s, by the rule of this order."""
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
