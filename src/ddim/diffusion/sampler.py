"""What a sampler is: a generator of states; the state, its initial noise, and its final sample."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.parameterisation import ShortRepr
from ddim.diffusion.schedules import Level, Schedule, as_double
from ddim.errors import UserError


def move(x: Tensor, slope: Tensor, now: Level, then: Level) -> Tensor:
    """Move x (B, C, H, W) from noise level `now` to `then` with a slope d(x / alpha) / d(sigma / alpha).

    With the slope eps this is a step of DDIM (Song et al. 2021, eq. 13). The noise levels are scalars in
    float64, because the difference of almost equal values of sigma would lose digits in float32.
    """
    scale = then.alpha / now.alpha
    return scale.to(x) * x + (then.sigma - scale * now.sigma).to(x) * slope


def time_of_ratio(schedule: Schedule, noise_to_signal: Tensor) -> Tensor:
    """Return the times at which sigma / alpha has these values."""
    return schedule.inverse(-2 * noise_to_signal.log())


def interpolation_weights(nodes: Tensor, moments: Tensor) -> Tensor:
    """Return weights (k,) such that the weighted sum of k values is the integral of p(u) w(u).

    Here p is the polynomial of degree k - 1 through the values, and w is a function that the sampler chooses.

    Args:
        nodes: positions u (k,) of the values.
        moments: integrals (k,) of w(u), u w(u), u^2 w(u), ...
    """
    powers = torch.vander(nodes, increasing=True).T  # row m: nodes^m
    return torch.linalg.solve(powers, moments)


def weighted_sum(weights: Iterable[Tensor | float], values: Sequence[Tensor]) -> Tensor:
    """Return the sum of values (B, C, H, W), each multiplied by its scalar weight."""
    total = torch.zeros_like(values[0])
    for weight, value in zip(weights, values, strict=True):
        total = total + torch.as_tensor(weight, dtype=torch.float64).to(value) * value
    return total


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
