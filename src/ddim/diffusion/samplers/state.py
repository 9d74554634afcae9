"""The sampler protocol, the state of a run, and how a run starts and ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.schedules import Schedule
from ddim.diffusion.short_repr import ShortRepr
from ddim.errors import UserError

Times = Tensor | Sequence[float]
"""Decreasing times (N,), as a tensor or as numbers."""


@dataclass(frozen=True, repr=False)
class State(ShortRepr):
    """The noisy images x (B, C, H, W) at time t, and the clean images x0 predicted by the step to them.

    At the start of a run, before the first prediction, x0 is zero: the mean of the images, in model units.
    """

    x: Tensor
    t: float
    x0: Tensor


class Sampler(Protocol):
    """A frozen value whose call is a generator of states, one for each level of the grid."""

    @property
    def stochastic(self) -> bool:
        """Whether a run draws noise after its start."""
        return False

    @property
    def needs_variance(self) -> bool:
        """Whether the network must predict a variance (`outputs` 2)."""
        return False

    def evaluations(self, levels: int) -> int:
        """Network evaluations of a run over `levels` different levels, including that of `final_sample`."""
        return levels

    def __call__(self, denoise: Denoiser, x: Tensor, times: Times, noise: Noise) -> Iterator[State]:
        """Walk from images x (B, C, H, W) at times[0] down the decreasing times (N,).

        Args:
            denoise: the model.
            x: noisy images at times[0], from `initial_noise`.
            times: decreasing times in (0, 1], from a grid.
            noise: the random streams, one for each image; unused unless the sampler is stochastic.

        Yields:
            N states, of which the first is the start.
        """
        ...


def initial_noise(schedule: Schedule, noise: Noise, blank: Tensor, t: Tensor | float) -> Tensor:
    """Pure noise (B, C, H, W), like `blank`, with the deviation at time t: sqrt(alpha^2 + sigma^2) eps."""
    at = schedule(t).over(blank)
    return (at.alpha**2 + at.sigma**2).sqrt() * noise.like(blank)


def last_state(states: Iterable[State]) -> State:
    """Run to the end and return the last state. (A star-unpack would keep every state.)

    Raises:
        UserError: if there is no state, since the grid is empty.
    """
    end = deque(states, maxlen=1)
    if not end:
        raise UserError("a run needs at least one level in its grid, got none")
    return end[0]


@torch.no_grad()
def final_sample(denoise: Denoiser, state: State) -> Tensor:
    """The samples (B, C, H, W), in model units: the step to sigma = 0, by one more evaluation."""
    return denoise(state.x, torch.tensor(state.t, dtype=torch.float64)).x0
