"""Where a run stands, how it starts and how it ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.schedules import Schedule
from ddim.errors import UserError


@dataclass(frozen=True)
class State:
    """The noisy images x (B, C, H, W) at time t, and the clean images x0 that the step to them headed for.

    At the start of a run, before the first prediction, x0 is zero: the mean of the images, in model units.
    """

    x: Tensor
    t: float
    x0: Tensor


class Sampler(Protocol):
    """A frozen value whose call is a generator of states, one for each level of the grid."""

    def __call__(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """Images x (B, C, H, W) at times[0], down the decreasing times (N,): N states, the start first."""
        ...


def start(schedule: Schedule, noise: Noise, blank: Tensor, t: Tensor) -> Tensor:
    """(B, C, H, W) pure noise of the scale that the schedule has at time t: sqrt(alpha^2 + sigma^2) eps."""
    at = schedule(t).over(blank)
    return (at.alpha**2 + at.sigma**2).sqrt() * noise.like(blank)


def last(states: Iterable[State]) -> State:
    """Run to the end and keep only the end (a star-unpack would keep every state)."""
    end = deque(states, maxlen=1)
    if not end:
        raise UserError("a run needs at least one level in its grid, got none")
    return end[0]


@torch.no_grad()
def picture(denoise: Denoiser, state: State) -> Tensor:
    """(B, C, H, W) clean images, in model units: the step to sigma = 0, one more evaluation."""
    return denoise(state.x, torch.tensor(state.t, dtype=torch.float64)).x0
