"""The protocol of samplers, the state of a sampling run, its initial noise and its final sample."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.schedules import Schedule, as_double
from ddim.diffusion.short_repr import ShortRepr
from ddim.errors import UserError

Times = Tensor | Sequence[float]
"""Decreasing times (N,), as a tensor or as numbers."""


@dataclass(frozen=True, repr=False)
class State(ShortRepr):
    """Noisy images x (B, C, H, W) at time t, and the clean images x0 that the step to time t predicted.

    In the first state, before any prediction, x0 is zero, the mean of the training set in model units.
    """

    x: Tensor
    t: float
    x0: Tensor


class Sampler(Protocol):
    """A sampler: a frozen dataclass whose call is a generator of states, one for each time of the grid.

    A class that inherits from this class only needs `walk`, which yields all states but the first. A sampler
    whose first state is not x defines `__call__` itself.
    """

    @property
    def stochastic(self) -> bool:
        """Whether steps add noise. If they do, samples depend on this noise and on the initial noise."""
        return False

    @property
    def needs_variance(self) -> bool:
        """Whether the network must predict a variance, as it does if `net.outputs` is 2."""
        return False

    def evaluations(self, levels: int) -> int:
        """Return the number of network evaluations of a sampling run; `final_sample` is included.

        `levels` is the number of times of the grid. Their noise levels are assumed to be all different.
        """
        return levels

    # `no_grad` is a decorator, because a `with` around a yield would leave gradients off in the caller.
    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Times, noise: Noise) -> Iterator[State]:
        """Sample step by step, from noisy images at times[0] to noisy images at the last time.

        Args:
            denoise: the model.
            x: noisy images (B, C, H, W) at times[0], from `initial_noise`.
            times: decreasing times (N,) in (0, 1], from a grid.
            noise: the random streams, one for each image; they are used only if the sampler is stochastic.

        Yields:
            N states, one for each time; the first holds x. `final_sample` turns the last state into samples.
        """
        if not len(times):
            return
        times = as_double(times)
        yield State(x, times[0].item(), torch.zeros_like(x))
        yield from self.walk(denoise, x, times, noise)

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Iterator[State]:
        """Make the steps of `__call__`, without gradients.

        Args:
            denoise: the model.
            x: noisy images (B, C, H, W) at times[0].
            times: decreasing times (N,) in (0, 1], float64, at least one. `pairwise(times)` are the steps.
            noise: the random streams, one for each image.

        Yields:
            The state after each of the N - 1 steps.
        """
        raise NotImplementedError(f"the sampler {type(self).__name__} has no method walk")


def initial_noise(schedule: Schedule, noise: Noise, blank: Tensor, t: Tensor | float) -> Tensor:
    """Draw the noise (B, C, H, W) from which sampling starts: sqrt(alpha^2 + sigma^2) * eps at time t.

    Args:
        schedule: the noise schedule.
        noise: the random streams, one for each image.
        blank: a tensor with the shape, dtype and device of the result.
        t: the first time of the grid.
    """
    at = schedule(t).over(blank)
    return (at.alpha**2 + at.sigma**2).sqrt() * noise.like(blank)


def last_state(states: Iterable[State]) -> State:
    """Run a sampler to its end and return the last state; earlier states are not kept in memory.

    Raises:
        UserError: if there is no state, because the grid is empty.
    """
    end = deque(states, maxlen=1)
    if not end:
        raise UserError("the grid of sampling times is empty: it needs at least one time")
    return end[0]


@torch.no_grad()
def final_sample(denoise: Denoiser, state: State) -> Tensor:
    """Return the samples (B, C, H, W) in model units: a step to sigma = 0, with one network evaluation."""
    return denoise(state.x, torch.tensor(state.t, dtype=torch.float64)).x0
