"""Helpers for tests with the oracles of the library, which are exact denoisers."""

from dataclasses import dataclass

import torch

from ddim.diffusion.oracles import Gaussian
from ddim.diffusion.parameterisation import from_image
from ddim.diffusion.schedules import Schedule

__all__ = ["Gaussian"]


class TellsTime:
    """A conditioning that is the time t itself, for networks that are oracles."""

    def __call__(self, t, at):
        return t.double()


class Asked:
    """A denoiser that keeps the `times` at which it is asked."""

    def __init__(self, inner):
        self.inner, self.schedule, self.times = inner, inner.schedule, []

    def __call__(self, x_t, t):
        self.times.append(t.item())
        return self.inner(x_t, t)


@dataclass(frozen=True)
class TrueConsistency:
    """The consistency function of independent normal pixels: the end of the probability flow, where t is 0.

    The flow keeps (x - mean) / std of every pixel, and at the end there is no noise, whatever the schedule.
    """

    schedule: Schedule
    mean: float = 0.3
    std: float = 0.5

    def __call__(self, x_t, t):
        at = self.schedule(t).over(x_t)
        spread = (at.alpha**2 * self.std**2 + at.sigma**2).sqrt()
        return from_image(x_t, self.mean + self.std * (x_t - at.alpha * self.mean) / spread, at)


class Answers(torch.nn.Module):
    """The network with which a Model equals the denoiser `oracle`, for any parameterisation `predicts`."""

    def __init__(self, oracle, predicts):
        super().__init__()
        self.oracle, self.predicts = oracle, predicts

    def forward(self, scaled, t, label=None):
        at = self.oracle.schedule(t).over(scaled)
        c = self.predicts(at)
        x_t = scaled / c.inp
        return (self.oracle(x_t, t).x0 - c.skip * x_t) / c.out


def normal(*shape, seed=0, dtype=torch.float64):
    """Standard normal numbers that depend on nothing but the arguments."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uniform(*shape, seed=0):
    """Uniform numbers in [0, 1) that depend on nothing but the arguments."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(build, seed=0):
    """A network whose initial weights depend on the seed only; the global generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def shaken(net, seed=1):
    """Set all weights and statistics of a network to random numbers, so that none is zero; return it."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=draw, dtype=value.dtype)
                fan = value[0].numel() if value.ndim > 1 else 4
                value.copy_(1 + noise.abs() if "var" in name else noise / fan**0.5)
    return net.eval()
