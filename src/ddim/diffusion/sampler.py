"""What a sampler is: a generator of states; its noise at the start, and a step of the probability flow."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.noise import Noise
from ddim.diffusion.parameterisation import Prediction
from ddim.diffusion.schedules import Level, Number, Schedule, as_double, spread_over
from ddim.errors import UserError, check_part_values, describe_given

Times = Tensor | Sequence[float]
"""Decreasing times (N,), as a tensor or as numbers."""


@dataclass(frozen=True)
class State:
    """Noisy images x (B, C, H, W) at time t, and the clean images x0 that the model predicts from them.

    The x0 of the last state are the samples.
    """

    x: Tensor = field(repr=False)
    t: float
    x0: Tensor = field(repr=False)

    def first(self, count: int) -> "State":
        """Return the state of the first `count` images; the others of a micro-batch only fill it up."""
        return State(self.x[:count], self.t, self.x0[:count])


Steps = Generator[State, None, Tensor]
"""The states before each step of a sampler; it returns the noisy images at the last time."""


class Sampler(Protocol):
    """A sampler: a frozen dataclass whose call is a generator of states, one for each time of the grid.

    A class that inherits from this class only needs `step`. If its steps use earlier predictions or evaluate
    the network more than once, it needs `walk` in place of `step`::

        @dataclass(frozen=True)
        class Euler(ddim.Sampler):
            def step(self, x, p, now, then, noise):
                return then.noisy(p.x0, p.eps)
    """

    def __post_init__(self) -> None:
        """Check that names and numbers are what they must be."""
        check_part_values("sampler", self)

    @property
    def stochastic(self) -> bool:
        """Whether steps add noise: by default, if a field `eta` or `s_churn` is above 0.

        Samples then depend on this noise and on the initial noise.
        """
        return max(getattr(self, "eta", 0), getattr(self, "s_churn", 0)) > 0

    def evaluations(self, levels: int) -> int:
        """Return the number of network evaluations of a sampling run.

        `levels` is the number of times of the grid. Their noise levels are assumed to be all different.
        """
        return levels

    # `no_grad` is a decorator, because a `with` around a yield would leave gradients off in the caller.
    @torch.no_grad()
    def __call__(self, denoise: Denoiser, x: Tensor, times: Times, noise: Noise) -> Iterator[State]:
        """Sample step by step, from noisy images at times[0] to the samples, predicted at the last time.

        Args:
            denoise: the model.
            x: noisy images (B, C, H, W) at times[0], from `initial_noise`.
            times: decreasing times (N,) in (0, 1], from a grid. They and their noise levels stay on the CPU:
                a device gets them as numbers, without waiting.
            noise: the random streams, one for each image; they are used only if the sampler is stochastic.

        Yields:
            N states, one for each time; the first holds x, and the x0 of the last are the samples.

        Raises:
            UserError: if `step` or `walk` does not return images like x.
        """
        times = as_double(times)
        end = yield from self.walk(denoise, x, times, noise)
        x = self._check_images("walk", end, x)
        yield State(x, times[-1].item(), denoise(x, times[-1]).x0)

    def walk(self, denoise: Denoiser, x: Tensor, times: Tensor, noise: Noise) -> Steps:
        """Make the steps of `__call__`, without gradients.

        Args:
            denoise: the model.
            x: noisy images (B, C, H, W) at times[0].
            times: decreasing times (N,) in (0, 1], float64, at least one. `pairwise(times)` are the steps.
            noise: the random streams, one for each image.

        Yields:
            The state before each of the N - 1 steps, with the prediction from it.

        Returns:
            The noisy images at the last time.
        """
        for t, s in pairwise(times):
            p = denoise(x, t)
            yield State(x, t.item(), p.x0)
            moved = self.step(x, p, denoise.schedule(t), denoise.schedule(s), noise)
            x = self._check_images("step", moved, x)
        return x

    def _check_images(self, method: str, images: Tensor, like: Tensor) -> Tensor:
        """Return the images that a method returned, if they are a tensor with the shape of `like`."""
        if getattr(images, "shape", None) != like.shape:
            what = f"{method} of sampler {type(self).__name__} must return images {tuple(like.shape)}"
            raise UserError(f"{what}, got {describe_given(images)}")
        return images

    def step(self, x: Tensor, p: Prediction, now: Level, then: Level, noise: Noise) -> Tensor:
        """Return the images (B, C, H, W) after one step.

        Args:
            x: noisy images (B, C, H, W) at noise level `now`.
            p: the prediction from them.
            now: the scalar noise level of x, float64.
            then: the scalar noise level of the result.
            noise: the random streams, one for each image.
        """
        raise NotImplementedError(f"the sampler {type(self).__name__} has no method step")


def initial_noise(schedule: Schedule, noise: Noise, blank: Tensor, t: Number) -> Tensor:
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
    """Run a sampler to its end and return the last state, whose x0 are the samples.

    Earlier states are not kept in memory.
    """
    (end,) = deque(states, maxlen=1)
    return end


def move(x: Tensor, slope: Tensor, now: Level, then: Level) -> Tensor:
    """Move x (B, C, H, W) from noise level `now` to `then` with a slope d(x / alpha) / d(sigma / alpha).

    The slope of the probability flow is eps (Song et al. 2021, eq. 14), and a step with it is one of DDIM
    (eq. 13). The noise levels are scalars in float64, because the difference of almost equal values of sigma
    would lose digits in float32.
    """
    scale = then.alpha / now.alpha
    return spread_over(scale, x) * x + spread_over(then.sigma - scale * now.sigma, x) * slope
