"""What a network is told of the noise level, and what its output means.

A prediction is always the pair of a clean image x0 and noise eps, whatever the network's output F means.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ddim.diffusion.schedules import Level, Schedule

ENTRIES = 1000
"""Number of entries of a table of times, if neither a part nor its schedule has one (Ho et al. 2020)."""


def count_entries(schedule: Schedule | None = None, entries: int | None = None) -> int:
    """Return the number of entries of a table of times: `entries`, or that of the schedule, or `ENTRIES`."""
    return entries or getattr(schedule, "entries", None) or ENTRIES


SIGMA_DATA = 0.5
"""Standard deviation of images in model units, if it is not known (Karras et al. 2022, table 1)."""

Quantity = Literal["noise", "image", "velocity", "flow"]
"""A quantity of a prediction: eps, x0, the velocity alpha * eps - sigma * x0, or the flow eps - x0."""


@dataclass(frozen=True, repr=False)
class Prediction:
    """Predicted clean images x0 and noise eps, both (B, C, H, W), with x_t = alpha * x0 + sigma * eps.

    Networks that predict a variance also predict `variance_mix`, of the same shape. It interpolates the
    log-variance of a step, from the smallest at 0 to the largest at 1 (Nichol & Dhariwal 2021, eq. 15).
    """

    x0: Tensor
    eps: Tensor
    variance_mix: Tensor | None = None


def from_image(x_t: Tensor, x0: Tensor, at: Level) -> Prediction:
    """Return the prediction with this clean image: eps = (x_t - alpha * x0) / sigma."""
    return Prediction(x0, (x_t - at.alpha * x0) / at.sigma)


def coefficients(on: Quantity, at: Level) -> tuple[Tensor, Tensor]:
    """Return the coefficients a and b of a quantity a * eps - b * x0, with the shape of alpha and sigma."""
    one = torch.ones_like(at.alpha)
    match on:
        case "noise":
            return one, 0 * one
        case "image":
            return 0 * one, -one
        case "velocity":
            return at.alpha, at.sigma
        case "flow":
            return one, one


def quantity(p: Prediction, at: Level, on: Quantity) -> Tensor:
    """Return the noise, image, velocity or flow (B, C, H, W) of a prediction."""
    a, b = coefficients(on, at)
    return a * p.eps - b * p.x0


def error_ratio(at: Level, on: Quantity) -> Tensor:
    """Return the size of the error of the quantity `on` for an error of size 1 in the image, at a fixed x_t.

    Since x_t = alpha * x0 + sigma * eps is fixed, an error d of x0 is an error -(alpha / sigma) d of eps.
    """
    a, b = coefficients(on, at)
    return a * (at.alpha / at.sigma) + b.abs()


# Parameterisations: the meaning of the output F of a network


@dataclass(frozen=True)
class Scales:
    """Coefficients at a noise level: x0 = skip * x_t + out * F(inp * x_t, conditioning)."""

    skip: Tensor
    out: Tensor
    inp: Tensor


class Parameterisation(Protocol):
    """The meaning of the network's output, as the coefficients at each noise level."""

    def __call__(self, at: Level) -> Scales:
        """Return the coefficients at a noise level, with the shape of alpha and sigma."""
        ...


@dataclass(frozen=True)
class PredictsNoise:
    """F = eps, the noise (Ho et al. 2020)."""

    def __call__(self, at: Level) -> Scales:
        return Scales(1 / at.alpha, -at.sigma / at.alpha, torch.ones_like(at.alpha))


@dataclass(frozen=True)
class PredictsScore:
    """F = -eps, sigma times the score of x_t (Song et al. 2021b; Karras et al. 2022, table 1, column VE)."""

    def __call__(self, at: Level) -> Scales:
        return Scales(1 / at.alpha, at.sigma / at.alpha, torch.ones_like(at.alpha))


@dataclass(frozen=True)
class PredictsImage:
    """F = x0, the clean image."""

    def __call__(self, at: Level) -> Scales:
        one = torch.ones_like(at.alpha)
        return Scales(0 * one, one, one)


@dataclass(frozen=True)
class PredictsVelocity:
    """F = alpha * eps - sigma * x0; the input x_t is scaled to unit variance (Salimans & Ho 2022)."""

    def __call__(self, at: Level) -> Scales:
        norm = at.alpha**2 + at.sigma**2
        return Scales(at.alpha / norm, -at.sigma / norm, norm.rsqrt())


@dataclass(frozen=True)
class PredictsEDM:
    """EDM: input and output of the network have unit variance (Karras et al. 2022, eq. 7).

    This holds for data with standard deviation `sigma_data`. `skip`, `out` and `inp` are the paper's c_skip,
    c_out and c_in (table 1; derived in appendix B.6), generalised from alpha = 1 to any alpha.

    Attributes:
        sigma_data: standard deviation of the training images in model units; None for that of the field
            `pixels` of a recipe, or the paper's 0.5 if it is not known.
    """

    sigma_data: float | None = None

    def __call__(self, at: Level) -> Scales:
        ratio, data = at.noise_to_signal, self.sigma_data or SIGMA_DATA
        norm = (ratio**2 + data**2).sqrt()
        return Scales(data**2 / norm**2 / at.alpha, ratio * data / norm, 1 / (norm * at.alpha))


@dataclass(frozen=True)
class PredictsFlow:
    """F = eps - x0, the velocity of flow matching (Lipman et al. 2023, eq. 23; Liu et al. 2023, eq. 1).

    The input x_t is divided by alpha + sigma, which is 1 on `linear_path`. On any other schedule, this gives
    the point of the straight path from x0 to eps with the same SNR.
    """

    def __call__(self, at: Level) -> Scales:
        total = at.alpha + at.sigma
        return Scales(1 / total, -at.sigma / total, 1 / total)


PARAMETERISATIONS: dict[str, type[Parameterisation]] = {
    "velocity": PredictsVelocity,
    "noise": PredictsNoise,
    "image": PredictsImage,
    "edm": PredictsEDM,
    "score": PredictsScore,
    "flow": PredictsFlow,
}
"""All parameterisations, keyed by their names in a recipe."""


# Conditionings: what a network is told of the noise level


class Conditioning(Protocol):
    """A function of the time and the noise level at that time; the value is the network's second input."""

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        """Return the network's second input, float64, at times t, () or (B,), with noise levels `at`."""
        ...


@dataclass(frozen=True)
class Sigma:
    """sigma / alpha: the sigma of Karras et al. 2022, whose images have alpha = 1."""

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        return at.noise_to_signal


@dataclass(frozen=True)
class NoiseVariance:
    """sigma^2, as in the torch/luz repository and Béres' Keras example."""

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        return at.sigma**2


@dataclass(frozen=True)
class SignalVariance:
    """alpha^2, which the torch/luz repository passes to a network that predicts images."""

    def __call__(self, t: Tensor, at: Level) -> Tensor:
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

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        return (count_entries(entries=self.entries) * t.double() - 1).clamp(min=0) * self.scale


@dataclass(frozen=True)
class LogSNR:
    """The log-SNR divided by `scale`; scale 10 maps the usual log-SNRs to about [-1, 1] (Kingma et al. 2021).

    Attributes:
        scale: divisor of the log-SNR.
    """

    scale: float = 10.0

    def __call__(self, t: Tensor, at: Level) -> Tensor:
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

    def __call__(self, t: Tensor, at: Level) -> Tensor:
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

    def __call__(self, t: Tensor, at: Level) -> Tensor:
        return self.scale * t.double()


CONDITIONINGS: dict[str, type[Conditioning]] = {
    "log_snr": LogSNR,
    "noise_variance": NoiseVariance,
    "signal_variance": SignalVariance,
    "sigma": Sigma,
    "timestep": Timestep,
    "c_noise": CNoise,
    "time": Time,
}
"""All conditionings, keyed by their names in a recipe."""
