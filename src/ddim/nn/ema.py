"""Averages of the weights over training: the rules, and the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ddim.errors import UserError


class Averaging(Protocol):
    """How much of the newest weights enters the average at update k (from 1), each of `batch` images."""

    def __call__(self, k: int, batch: int) -> float:
        """The weight of the newest in (0, 1]; 1 at k = 1, so that the start of training is forgotten."""
        ...


@dataclass(frozen=True)
class Exponential:
    """A fixed decay, reached by a warm-up: the average weighs no more updates than there have been.

    The decay at update k is min(decay, (k - 1) / (k + 8)); without the warm-up the samples of a short run
    are those of its random start. `more` are decays of further averages (see `profiles`).
    """

    decay: float = 0.999
    more: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, value in _values(self):
            if not 0 <= value < 1:
                raise UserError(f"ema.{name} must be at least 0 and less than 1, got {value}")

    def __call__(self, k: int, batch: int) -> float:
        """See `Averaging`."""
        return 1 - min(self.decay, (k - 1) / (k + 8))


@dataclass(frozen=True)
class Power:
    """Weights k^gamma: a window that is a fixed part of the run so far (Karras et al. 2024, eq. 1 and 127).

    gamma 6.94 has a relative standard deviation of 0.10 of the run, 16.97 of 0.05. `more` are powers of
    further averages (see `profiles`).
    """

    gamma: float = 6.94
    more: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, value in _values(self):
            if not value >= 0:
                raise UserError(f"ema.{name} must be at least 0, got {value}")

    def __call__(self, k: int, batch: int) -> float:
        """See `Averaging`."""
        return 1 - (1 - 1 / k) ** (self.gamma + 1)


@dataclass(frozen=True)
class HalfLife:
    """What was learnt `images` ago weighs a half, of a young run what was learnt a part `ramp` of it ago.

    The half-life of Karras et al. 2022, appendix F.2, in images and so the same for any batch, with the
    ramp-up of their training: the half-life is at most 5 % of the images seen. `more` are half-lives of
    further averages (see `profiles`).
    """

    images: float = 500_000
    ramp: float = 0.05
    more: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (*_values(self), ("ramp", self.ramp)):
            if not value > 0:
                raise UserError(f"ema.{name} must be above 0, got {value}")

    def __call__(self, k: int, batch: int) -> float:
        """See `Averaging`."""
        half = min(self.images, self.ramp * (k - 1) * batch)
        return 1 - 0.5 ** (batch / half) if half else 1.0


def profiles(rule: Exponential | Power | HalfLife) -> dict[str, Averaging]:
    """The averages that a run keeps, by name: "default", and one named by each value of `more`.

    A name is the value as it is written, fit for a file: "0.99", "250000" of 250000.0. Nichol & Dhariwal's
    code keeps several averages of one run, by a list of decays, and so does that of Karras et al. 2024.
    """
    named: dict[str, Averaging] = {"default": rule}
    for value in rule.more:
        changes: dict[str, Any] = {fields(rule)[0].name: value, "more": ()}
        named[_name(value)] = replace(rule, **changes)
    return named


def _values(rule: Exponential | Power | HalfLife) -> list[tuple[str, float]]:
    """(field, value) of the main field, which is the first, and of `more`; UserError where two are equal."""
    main = fields(rule)[0].name
    values = [(main, getattr(rule, main)), *(("more", value) for value in rule.more)]
    if len({_name(value) for _, value in values}) < len(values):
        raise UserError(
            f"ema.more must hold values that differ from one another and from ema.{main}, "
            f"got {', '.join(map(str, rule.more))} beside {values[0][1]}"
        )
    return values


def _name(value: float) -> str:
    # The same of 16 and 16.0, of 0 and -0.0; no plus sign.
    return str(value + 0.0).removesuffix(".0").replace("+", "")


def averaged(model: nn.Module) -> dict[str, Tensor]:
    """What of a model is averaged, by name: parameters and floating buffers (batch-norm statistics)."""
    state = model.state_dict(keep_vars=True)
    return {name: value.detach() for name, value in state.items() if value.is_floating_point()}


def update(average: Sequence[Tensor], newest: Sequence[Tensor], weight: float) -> None:
    """Move each average, in place, by `weight` of the way to the newest."""
    torch._foreach_lerp_(list(average), list(newest), weight)
