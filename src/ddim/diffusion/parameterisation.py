"""What a network's output means, and what the network is told of the noise level.

Each parameterisation is a row of coefficients: x0 = skip * x_t + out * F(inp * x_t, conditioning).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.schedules import Level
from ddim.errors import UserError


@dataclass(frozen=True)
class Scales:
    """Coefficients shaped like the level: x0 = skip * x_t + out * F(inp * x_t, conditioning)."""

    skip: Tensor
    out: Tensor
    inp: Tensor


class Parameterisation(Protocol):
    """A level -> the coefficients there."""

    def __call__(self, at: Level) -> Scales:
        """Level of any shape -> Scales of that shape."""
        ...


@dataclass(frozen=True)
class PredictsNoise:
    """F = eps (Ho et al. 2020)."""

    def __call__(self, at: Level) -> Scales:
        """See `Parameterisation`."""
        return Scales(1 / at.alpha, -at.sigma / at.alpha, torch.ones_like(at.alpha))


@dataclass(frozen=True)
class PredictsScore:
    """F = -eps, sigma times the score of x_t (Song et al. 2021b; Karras et al. 2022, table 1, column VE)."""

    def __call__(self, at: Level) -> Scales:
        """See `Parameterisation`."""
        return Scales(1 / at.alpha, at.sigma / at.alpha, torch.ones_like(at.alpha))


@dataclass(frozen=True)
class PredictsImage:
    """F = x0."""

    def __call__(self, at: Level) -> Scales:
        """See `Parameterisation`."""
        one = torch.ones_like(at.alpha)
        return Scales(0 * one, one, one)


@dataclass(frozen=True)
class PredictsVelocity:
    """F = alpha * eps - sigma * x0, of an x_t scaled to unit variance (Salimans & Ho 2022)."""

    def __call__(self, at: Level) -> Scales:
        """See `Parameterisation`."""
        norm = at.alpha**2 + at.sigma**2
        return Scales(at.alpha / norm, -at.sigma / norm, norm.rsqrt())


@dataclass(frozen=True)
class PredictsEDM:
    """Unit variance in and out, for data of standard deviation sigma_data (Karras et al. 2022, eq. 7).

    `skip`, `out` and `inp` are the paper's c_skip, c_out and c_in (table 1; derived in appendix B.6), written
    for any alpha; the paper's alpha is 1.
    """

    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise UserError(f"predicts.sigma_data must be above 0, got {self.sigma_data}")

    def __call__(self, at: Level) -> Scales:
        """See `Parameterisation`."""
        ratio, data = at.sigma / at.alpha, self.sigma_data
        norm = (ratio**2 + data**2).sqrt()
        return Scales(data**2 / norm**2 / at.alpha, ratio * data / norm, 1 / (norm * at.alpha))


class Conditioning(Protocol):
    """What the network is told of the noise level."""

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """Times (B,) and their level (B,) -> (B,) float64."""
        ...


@dataclass(frozen=True)
class NoiseVariance:
    """sigma^2: the seed repository and Béres."""

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """See `Conditioning`."""
        return at.sigma**2


@dataclass(frozen=True)
class SignalVariance:
    """alpha^2: what the seed repository tells a network that predicts images, kept for its weights."""

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """See `Conditioning`."""
        return at.alpha**2


@dataclass(frozen=True)
class Timestep:
    """The index, from 0, in a table of so many entries: entries * t - 1 (Ho et al. 2020), times `scale`.

    What lies before the first entry is told as that.
    Nichol & Dhariwal's code scales indices of longer tables to those of DDPM: 1000 / entries.
    """

    entries: int = 1000
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.entries > 0:
            raise UserError(f"conditioning.entries must be above 0, got {self.entries}")
        if not self.scale > 0:
            raise UserError(f"conditioning.scale must be above 0, got {self.scale}")

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """See `Conditioning`."""
        return (self.entries * t.double() - 1).clamp(min=0) * self.scale


@dataclass(frozen=True)
class LogSNR:
    """The log-SNR divided by `scale`, so that the usual range lies in about [-1, 1] (Kingma et al. 2021)."""

    scale: float = 10.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UserError(f"conditioning.scale must be above 0, got {self.scale}")

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """See `Conditioning`."""
        return at.log_snr / self.scale


@dataclass(frozen=True)
class CNoise:
    """`factor` * log((sigma / alpha) / `unit`): c_noise of Karras et al. 2022, table 1.

    Factor 1/4 and unit 1 are EDM's log(sigma) / 4, factor 1 and unit 2 VE's log(sigma / 2).
    """

    factor: float = 0.25
    unit: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("factor", self.factor), ("unit", self.unit)):
            if not value > 0:
                raise UserError(f"conditioning.{name} must be above 0, got {value}")

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """See `Conditioning`."""
        return self.factor * (-at.log_snr / 2 - math.log(self.unit))


@dataclass(frozen=True)
class Time:
    """t times `scale`; 999 is the c_noise of VP, for networks that were made for the indices of a table.

    (M - 1) t with M = 1000 (Karras et al. 2022, table 1).
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UserError(f"conditioning.scale must be above 0, got {self.scale}")

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """See `Conditioning`."""
        return self.scale * t.double()
