"""Weightings: the weight of the loss at each noise level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.learned_weight import LearnedWeight
from ddim.diffusion.prediction import On, error_ratio
from ddim.diffusion.schedules import Level
from ddim.errors import check_positive


class Weighting(Protocol):
    """The weight of the loss at each noise level."""

    def __call__(self, at: Level, on: On) -> Tensor:
        """Return the weights at a noise level, with the shape of alpha and sigma.

        Args:
            at: the noise level.
            on: the quantity whose error is the loss.
        """
        ...


@dataclass(frozen=True)
class Unweighted:
    """The weight is 1 at every noise level."""

    def __call__(self, at: Level, on: On) -> Tensor:
        """Return the weights; see `Weighting`."""
        return torch.ones_like(at.sigma)


@dataclass(frozen=True)
class EDMWeight:
    """lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, with sigma / alpha in place of sigma.

    Karras et al. 2022, table 1. It is the weight of the squared error of the image. With this weight, that
    error equals the squared error of the network's output F under `PredictsEDM` (appendix B.6). The weight of
    another quantity is divided as for `MinSNR`. The paper's other columns have lambda = 1 / sigma^2, which is
    equivalent to the unweighted squared error of the noise.

    Attributes:
        sigma_data: standard deviation of the training images in model units; see `PredictsEDM`.
    """

    sigma_data: float | None = None

    def __post_init__(self) -> None:
        if self.sigma_data is not None:
            check_positive("objective.weight", sigma_data=self.sigma_data)

    def __call__(self, at: Level, on: On) -> Tensor:
        """Return the weights; see `Weighting`."""
        return ((at.alpha / at.sigma) ** 2 + 1 / (self.sigma_data or 0.5) ** 2) / error_ratio(at, on).square()


@dataclass(frozen=True)
class MinSNR:
    """The squared error of the image has the weight min(SNR, gamma) (Min-SNR-gamma, Hang et al. 2023).

    If the loss is the squared error of another quantity, this error is a known multiple of the squared error
    of the image. The weight is then divided by this factor. For the noise, the weight is min(SNR, gamma) /
    SNR. For the velocity of a variance-preserving schedule, it is min(SNR, gamma) / (SNR + 1). The paper's
    losses are squared errors; other losses get the same weights.

    Attributes:
        gamma: the largest weight of the squared error of the image, used where the SNR is above gamma.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        check_positive("objective.weight", gamma=self.gamma)

    def __call__(self, at: Level, on: On) -> Tensor:
        """Return the weights; see `Weighting`."""
        return (at.alpha / at.sigma).square().clamp(max=self.gamma) / error_ratio(at, on).square()


WEIGHTINGS: dict[str, type[Weighting]] = {
    "unweighted": Unweighted,
    "edm_weight": EDMWeight,
    "min_snr": MinSNR,
    "learned": LearnedWeight,
}
"""All weightings, keyed by their names in a recipe."""
