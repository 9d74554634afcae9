"""Weightings: the weight of the loss at each noise level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.schedules import Level
from ddim.errors import check_positive


class Weighting(Protocol):
    """The weight of the loss at each noise level."""

    def __call__(self, at: Level) -> Tensor:
        """Return the weights at a noise level, with the shape of alpha and sigma."""
        ...


@dataclass(frozen=True)
class Unweighted:
    """The weight is 1 at every noise level."""

    def __call__(self, at: Level) -> Tensor:
        """Return the weights; see `Weighting`."""
        return torch.ones_like(at.sigma)


@dataclass(frozen=True)
class EDMWeight:
    """lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, with sigma / alpha in place of sigma.

    Karras et al. 2022, table 1. With this weight, the squared error of the image equals the squared error of
    the network's output F under `PredictsEDM` (appendix B.6). The paper's other columns have lambda = 1 /
    sigma^2, which is equivalent to the unweighted squared error of the noise.

    Attributes:
        sigma_data: standard deviation of the training images in model units.
    """

    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        check_positive("objective.weight", sigma_data=self.sigma_data)

    def __call__(self, at: Level) -> Tensor:
        """Return the weights; see `Weighting`."""
        return (at.alpha / at.sigma) ** 2 + 1 / self.sigma_data**2


WEIGHTINGS: dict[str, type[Weighting]] = {"unweighted": Unweighted, "edm_weight": EDMWeight}
"""All weightings, keyed by their names in a recipe."""
