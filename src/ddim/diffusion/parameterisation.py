"""Parameterisations: the meaning of the output F of a network, such as the noise or the velocity.

Each returns the coefficients of x0 = skip * x_t + out * F(inp * x_t, conditioning) at a noise level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.schedules import Level
from ddim.errors import check_positive


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
        """Return the coefficients; see `Parameterisation`."""
        return Scales(1 / at.alpha, -at.sigma / at.alpha, torch.ones_like(at.alpha))


@dataclass(frozen=True)
class PredictsScore:
    """F = -eps, sigma times the score of x_t (Song et al. 2021b; Karras et al. 2022, table 1, column VE)."""

    def __call__(self, at: Level) -> Scales:
        """Return the coefficients; see `Parameterisation`."""
        return Scales(1 / at.alpha, at.sigma / at.alpha, torch.ones_like(at.alpha))


@dataclass(frozen=True)
class PredictsImage:
    """F = x0, the clean image."""

    def __call__(self, at: Level) -> Scales:
        """Return the coefficients; see `Parameterisation`."""
        one = torch.ones_like(at.alpha)
        return Scales(0 * one, one, one)


@dataclass(frozen=True)
class PredictsVelocity:
    """F = alpha * eps - sigma * x0; the input x_t is scaled to unit variance (Salimans & Ho 2022)."""

    def __call__(self, at: Level) -> Scales:
        """Return the coefficients; see `Parameterisation`."""
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

    def __post_init__(self) -> None:
        if self.sigma_data is not None:
            check_positive("predicts", sigma_data=self.sigma_data)

    def __call__(self, at: Level) -> Scales:
        """Return the coefficients; see `Parameterisation`."""
        ratio, data = at.noise_to_signal, self.sigma_data or 0.5
        norm = (ratio**2 + data**2).sqrt()
        return Scales(data**2 / norm**2 / at.alpha, ratio * data / norm, 1 / (norm * at.alpha))


@dataclass(frozen=True)
class PredictsFlow:
    """F = eps - x0, the velocity of flow matching (Lipman et al. 2023, eq. 23; Liu et al. 2023, eq. 1).

    The input x_t is divided by alpha + sigma, which is 1 on `linear_path`. On any other schedule, this gives
    the point of the straight path from x0 to eps with the same SNR.
    """

    def __call__(self, at: Level) -> Scales:
        """Return the coefficients; see `Parameterisation`."""
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
