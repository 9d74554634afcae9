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
from ddim.diffusion.samplers.line import bar, combined, interpolating, moved, time_of
from ddim.diffusion.samplers.state import State
from ddim.errors import UserError

_MOST = 5

_RUNGE_KUTTA: dict[int, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    2: (((1 / 2,),), (0, 1)),
    3: (((1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6)),
    4: (((1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""Rules by order: what each later stage adds of the slopes before it, and the weights (Kutta 1901)."""


@dataclass(frozen=True)
class AdamsBashforth:
    """The polynomial through the last `order` slopes, integrated over the step, in sigma / alpha.

    `steps` "unequal" takes the polynomial through the levels where they are. "equal" uses the textbook's
    weights for equal steps, whatever the grid, as Béres' multistep sampler and iPNDM do (Liu et al. 2022,
    eq. 9): of order 2 at most where steps change smoothly, of order 1 where they do not, unless sigma / alpha
    falls in equal steps.

    `start` says how a run begins, when there are no earlier slopes. "ramp" takes orders 1, 2, 3, ..., whose
    first step holds every run to order 2. "exact" takes order - 2 steps of a Runge-Kutta rule of order - 1
    first, which costs order - 2 further evaluations each, and keeps the order. N levels are N - 1 evaluations
    and those of the start; the picture is one more. Between the entries of a table that is read by floor
    there is no level, and a start is of order 1.
    """

    order: int = 2
    steps: Literal["unequal", "equal"] = "unequal"
    start: Literal["ramp", "exact"] = "ramp"

    def __post_init__(self) -> None:
        if not 1 <= self.order <= _MOST:
            raise UserError(f"sampler.order must lie between 1 and {_MOST}, got {self.order}")

    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """See `Sampler`."""
        if not len(times):
            return
        yield State(x, times[0].item(), torch.zeros_like(x))
        past: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.order)  # (sigma / alpha, slope), newest last
        singles = self.order - 2 if self.start == "exact" else 0
        for t, s in pairwise(times):
            now, then = denoise.schedule(t), denoise.schedule(s)
            p = denoise(x, t)
            if bar(now) == bar(then):  # two times of one level of a table
                yield State(x, s.item(), p.x0)
                continue
            past.append((bar(now), p.eps))
            if len(past) <= singles:
                slope = _runge_kutta(denoise, x, t, s, p.eps, self.order - 1)
            else:
                slope = self._slope(past, bar(then))
            x = moved(x, slope, now, then)
            yield State(x, s.item(), p.x0)

    def _slope(self, past: deque[tuple[Tensor, Tensor]], end: Tensor) -> Tensor:
        """The mean of the polynomial over the step that begins at the newest slope."""
        begin = past[-1][0]
        if self.steps == "equal":
            nodes = torch.arange(1 - len(past), 1, dtype=torch.float64)
        else:
            nodes = (torch.stack([level for level, _ in past]) - begin) / (end - begin)
        weights = interpolating(nodes, 1 / torch.arange(1, len(past) + 1, dtype=torch.float64))
        return combined(weights, [slope for _, slope in past])


def _runge_kutta(denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, first: Tensor, order: int) -> Tensor:
    """The mean slope of a step from x at time t to time s, by the rule of this order."""
    now, then = denoise.schedule(t), denoise.schedule(s)
    stages, weights = _RUNGE_KUTTA[order]
    slopes = [first]
    for row in stages:
        part = sum(row)
        where = s if part == 1 else time_of(denoise.schedule, torch.lerp(bar(now), bar(then), part))
        slope = combined([a / part for a in row], slopes)
        slopes.append(denoise(moved(x, slope, now, denoise.schedule(where)), where).eps)
    return combined(weights, slopes)
