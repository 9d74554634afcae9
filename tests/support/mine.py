"""Parts that a user might write: a schedule, a sampler, a grid, a loss, training times and a network."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import tiny
from ddim.diffusion.grids import Grid
from ddim.diffusion.loss import Loss
from ddim.diffusion.samplers import Sampler
from ddim.diffusion.schedules import Level, Schedule, as_double
from ddim.diffusion.times import TimeSampling, UniformTimes


@dataclass(frozen=True)
class Straight(Schedule):
    """sigma rises from `least` to 1 - `least` on a straight line, and alpha falls on one."""

    least: float = 0.01

    def __call__(self, t: Tensor | float) -> Level:
        """See `Schedule`."""
        sigma = self.least + (1 - 2 * self.least) * as_double(t)
        return Level(1 - sigma, sigma)


@dataclass(frozen=True)
class Euler(Sampler):
    """The deterministic step of DDIM."""

    def step(self, x, p, now, then, noise):
        """See `Sampler`."""
        return then.noisy(p.x0, p.eps)


@dataclass(frozen=True)
class Cubes(Grid):
    """The cubes of uniform times."""

    def __call__(self, steps, schedule):
        """See `Grid`."""
        return (torch.arange(steps, 0, -1, dtype=torch.float64) / steps) ** 3


@dataclass(frozen=True)
class Early(TimeSampling):
    """The squares of uniform times."""

    def __call__(self, uniform, schedule):
        """See `TimeSampling`."""
        return (1 - uniform.double()) ** 2


@dataclass(frozen=True)
class Charbonnier(Loss):
    """sqrt(error^2 + `soft`^2) of the noise."""

    soft: float = 0.1
    times: TimeSampling = UniformTimes()

    def __call__(self, denoise, x0, t, eps, pixels):
        """See `Loss`."""
        error = denoise(denoise.schedule(t).noisy(x0, eps), t).eps - eps
        return (error.square() + self.soft**2).sqrt().mean((1, 2, 3))


class Net(nn.Module):
    """Two convolutions, and batch norm, that are told the noise level."""

    def __init__(self, width=8):
        super().__init__()
        self.level = nn.Linear(1, width)
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x, noise_level):
        """Return the output for noisy images x (B, 3, H, W)."""
        hidden = self.norm(self.first(x)) + self.level(noise_level[:, None])[:, :, None, None]
        return self.last(hidden.relu())


RECIPE = replace(
    tiny.BASE,
    name="mine",
    net=Net,
    schedule=Straight(0.02),
    objective=Charbonnier(times=Early()),
    sampler=Euler(),
    grid=Cubes(),
)
"""A recipe of nothing but own parts."""

OWN = [Straight, Charbonnier, Early, Euler, Cubes, Net]
