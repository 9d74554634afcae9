"""Weightings: how much an error counts in the loss at each level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ddim.diffusion.schedules import Level
from ddim.errors import check_positive


class Weighting(Protocol):
    """How much an error counts at each level."""

    def __call__(self, at: Level) -> Tensor:
        """The weights at a level of any shape, shaped like it."""
        ...


@dataclass(frozen=True)
class Unweighted:
    """Every level counts the same."""

    def __call__(self, at: Level) -> Tensor:
        """The weights; see `Weighting`."""
        return torch.ones_like(at.sigma)


@dataclass(frozen=True)
class EDMWeight:
    """lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, in sigma / alpha.

    Karras et al. 2022, table 1. With it the squared error of the image equals that of the output of a network
    under `PredictsEDM` (appendix B.6). The lambda = 1 / sigma^2 of the paper's other columns needs no
    weighting: it is the squared error of the noise.
    """

    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        check_positive("objective.weight", sigma_data=self.sigma_data)

    def __call__(self, at: Level) -> Tensor:
        """The weights; see `Weighting`."""
        return (at.alpha / at.sigma) ** 2 + 1 / self.sigma_data**2


WEIGHTINGS: dict[str, type[Weighting]] = {"unweighted": Unweighted, "edm_weight": EDMWeight}
"""Every weighting by its name in a recipe."""
