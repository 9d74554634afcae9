"""Averages of the weights over training (EMA): the rules, their registry, and the arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from ddim.errors import UserError, check_positive


class Averaging(Protocol):
    """A rule by which an average follows the weights; a frozen dataclass, listed in `AVERAGES`."""

    @property
    def more(self) -> tuple[float, ...]:
        """Values of the main parameter for further averages of the same run."""

    def __call__(self, k: int, batch: int) -> float:
        """Return the weight in (0, 1] of the newest weights in the average.

        Args:
            k: number of the update, from 1. The result is 1 at k = 1: initial weights are forgotten.
            batch: images per update.
        """

    def at(self, value: float) -> Averaging:
        """Return this rule with another value of its main parameter, and without further averages."""


@dataclass(frozen=True)
class Exponential:
    """A fixed decay with a warm-up, in which the average weighs no more updates than there have been.

    The decay at update k is min(decay, (k - 1) / (k + 8)). Without the warm-up the EMA weights of a short run
    would be mostly its random initial weights. `more` holds decays of further averages (see `name_averages`).
    """

    decay: float = 0.999
    more: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check("decay", self.decay, self.more, lambda value: 0 <= value < 1, "at least 0 and less than 1")

    def __call__(self, k: int, batch: int) -> float:
        """Return the weight of the newest; see `Averaging`."""
        return 1 - min(self.decay, (k - 1) / (k + 8))

    def at(self, value: float) -> Self:
        """Change the decay; see `Averaging`."""
        return replace(self, decay=value, more=())


@dataclass(frozen=True)
class Power:
    """Weights proportional to k^gamma: a window that is a fixed share of the run so far.

    Karras et al. 2024, eq. 1 and 127. The relative standard deviation of the window is 0.10 for gamma 6.94
    and 0.05 for 16.97. `more` holds powers of further averages (see `name_averages`).
    """

    gamma: float = 6.94
    more: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check("gamma", self.gamma, self.more, lambda value: value >= 0, "at least 0")

    def __call__(self, k: int, batch: int) -> float:
        """Return the weight of the newest; see `Averaging`."""
        return 1 - (1 - 1 / k) ** (self.gamma + 1)

    def at(self, value: float) -> Self:
        """Change the power; see `Averaging`."""
        return replace(self, gamma=value, more=())


@dataclass(frozen=True)
class HalfLife:
    """EMA with a half-life of `images`, capped at `ramp` times the images seen so far.

    Karras et al. 2022, appendix F.2, with the ramp-up of 5 % of their training code. The half-life counts
    images, so that it is the same for every batch size. `more` holds half-lives of further averages (see
    `name_averages`).
    """

    images: float = 500_000
    ramp: float = 0.05
    more: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check("images", self.images, self.more, lambda value: value > 0, "above 0")
        check_positive("ema", ramp=self.ramp)

    def __call__(self, k: int, batch: int) -> float:
        """Return the weight of the newest; see `Averaging`."""
        half = min(self.images, self.ramp * (k - 1) * batch)
        return 1 - 0.5 ** (batch / half) if half else 1.0

    def at(self, value: float) -> Self:
        """Change the half-life; see `Averaging`."""
        return replace(self, images=value, more=())


AVERAGES: dict[str, type[Averaging]] = {"exponential": Exponential, "power": Power, "half_life": HalfLife}
"""The kinds of averages by name: a new one is a class and a line here."""


def name_averages(rule: Averaging) -> dict[str, Averaging]:
    """Return all averages that a run keeps, by name: "default", and one for each value of `more`.

    A name is its value as text, fit for a file: "0.99", or "250000" for 250000.0. Several averages of one run
    are also kept by the code of Nichol & Dhariwal 2021 (a list of decays) and of Karras et al. 2024.
    """
    return {"default": rule, **{_name(value): rule.at(value) for value in rule.more}}


def _check(
    name: str, value: float, more: tuple[float, ...], possible: Callable[[float], bool], wanted: str
) -> None:
    """Refuse impossible values of the main parameter, and two values with the same name."""
    values = [(name, value), *(("more", other) for other in more)]
    if len({_name(value) for _, value in values}) < len(values):
        raise UserError(
            f"ema.more must hold values that differ from one another and from ema.{name}, "
            f"got {', '.join(map(str, more))} beside {value}"
        )
    for field, given in values:
        if not possible(given):
            raise UserError(f"ema.{field} must be {wanted}, got {given}")


def _name(value: float) -> str:
    # 16 and 16.0 have one name, and so have 0 and -0.0; a plus sign is left out.
    return str(value + 0.0).removesuffix(".0").replace("+", "")


def select_averaged(model: nn.Module) -> dict[str, Tensor]:
    """Return, by name, the tensors of a model that are averaged: parameters and floating-point buffers.

    The buffers are statistics of batch norm. The tensors share the model's memory and record no gradients.
    """
    state = model.state_dict(keep_vars=True)
    return {name: value.detach() for name, value in state.items() if value.is_floating_point()}


def update_average(average: Sequence[Tensor], newest: Sequence[Tensor], weight: float) -> None:
    """Move each tensor of the average, in place, by `weight` of the way to the newest."""
    torch._foreach_lerp_(list(average), list(newest), weight)
