"""Conditioning: the function of the noise level that a network receives as its input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ddim.diffusion.schedules import Level
from ddim.errors import check_positive


class Conditioning(Protocol):
    """A function of the time and the noise level at that time; the value is the network's second input."""

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """Return the network's second input, (B,) float64, at times t (B,) with noise levels `at` (B,)."""
        ...


@dataclass(frozen=True)
class NoiseVariance:
    """sigma^2, as in the torch/luz repository and Béres' Keras example."""

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """Return the network's second input; see `Conditioning`."""
        return at.sigma**2


@dataclass(frozen=True)
class SignalVariance:
    """alpha^2, which the torch/luz repository passes to a network that predicts images."""

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """Return the network's second input; see `Conditioning`."""
        return at.alpha**2


@dataclass(frozen=True)
class Timestep:
    """The timestep, an index from 0 in a table: (entries * t - 1) * scale (Ho et al. 2020).

    Times before the first entry have index 0. With scale = 1000 / entries, as in Nichol & Dhariwal's code,
    the indices of a table of any length have the range of DDPM's indices, 0 to 1000.

    Attributes:
        entries: number of entries of the table; None for those of the schedule, or 1000 if it has no table.
        scale: factor that multiplies the index.
    """

    entries: int | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("conditioning", scale=self.scale)
        if self.entries is not None:
            check_positive("conditioning", entries=self.entries)

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """Return the network's second input; see `Conditioning`."""
        return ((self.entries or 1000) * t.double() - 1).clamp(min=0) * self.scale


@dataclass(frozen=True)
class LogSNR:
    """The log-SNR divided by `scale`; scale 10 maps the usual log-SNRs to about [-1, 1] (Kingma et al. 2021).

    Attributes:
        scale: divisor of the log-SNR.
    """

    scale: float = 10.0

    def __post_init__(self) -> None:
        check_positive("conditioning", scale=self.scale)

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """Return the network's second input; see `Conditioning`."""
        return at.log_snr / self.scale


@dataclass(frozen=True)
class CNoise:
    """`factor` * log((sigma / alpha) / `unit`): c_noise of Karras et al. 2022, table 1.

    Factor 1/4 and unit 1 give EDM's log(sigma) / 4; factor 1 and unit 2 give VE's log(sigma / 2).

    Attributes:
        factor: factor that multiplies the logarithm.
        unit: the value of sigma / alpha at which the network's input is 0.
    """

    factor: float = 0.25
    unit: float = 1.0

    def __post_init__(self) -> None:
        check_positive("conditioning", factor=self.factor, unit=self.unit)

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """Return the network's second input; see `Conditioning`."""
        return self.factor * (-at.log_snr / 2 - math.log(self.unit))


@dataclass(frozen=True)
class Time:
    """The time t multiplied by `scale`.

    A scale of 999 gives c_noise = (M - 1) t with M = 1000, as in Karras et al. 2022, table 1, column VP. The
    networks of that column expect the index of a timestep, 0 ... M - 1.

    Attributes:
        scale: factor that multiplies t.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("conditioning", scale=self.scale)

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """Return the network's second input; see `Conditioning`."""
        return self.scale * t.double()


CONDITIONINGS: dict[str, type[Conditioning]] = {
    "log_snr": LogSNR,
    "noise_variance": NoiseVariance,
    "signal_variance": SignalVariance,
    "timestep": Timestep,
    "c_noise": CNoise,
    "time": Time,
}
"""All conditionings, keyed by their names in a recipe."""
