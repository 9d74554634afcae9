"""Averages of the network weights over training (EMA): averaging methods, their registry, and the update."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ddim.errors import UserError


class Averaging(Protocol):
    """A method of averaging the weights during training; a frozen dataclass, listed in `AVERAGES`.

    The first field of the dataclass is its main parameter, such as `decay`.
    """

    @property
    def more(self) -> tuple[float, ...]:
        """Values of the main parameter for additional averages of the same run."""

    def __call__(self, k: int, batch: int) -> float:
        """Return the factor, in [0, 1], of the newest network weights in the average; 0 leaves it unchanged.

        Args:
            k: number of the update, from 1. At k = 1 the result is 1, so initial weights do not count.
            batch: images per update.
        """


@dataclass(frozen=True)
class Exponential:
    """EMA with a fixed decay after a warm-up.

    The decay at update k is min(decay, (k - 1) / (k + 8)). Without the warm-up, the EMA weights of a short
    run would mostly be its random initial weights. `more` holds the decays of additional averages (see
    `name_averages`).

    Attributes:
        decay: share of the old average that each update keeps.
        more: decays of additional averages.
    """

    decay: float = 0.999
    more: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not all(0 <= decay < 1 for decay in (self.decay, *self.more)):
            raise UserError(f"ema.decay and ema.more must be at least 0 and less than 1, got {self}")

    def __call__(self, k: int, batch: int) -> float:
        """Return the factor of the newest network weights in the average at update `k`; see `Averaging`."""
        return 1 - min(self.decay, (k - 1) / (k + 8))


@dataclass(frozen=True)
class Power:
    """Power-function average: the network weights of update k count in proportion to k^gamma.

    Karras et al. 2024, eq. 1 and 127. The width of the average is a fixed fraction of the run so far: its
    relative standard deviation is 0.10 for gamma 6.94 and 0.05 for 16.97. `more` holds the powers of
    additional averages (see `name_averages`).

    From update 262,144 on, the factor is 0 at most updates. At the others, the newest weights also count for
    the updates since the previous change of the average (see `_interval`). The average therefore lags by less
    than 1/131,072 of the run.

    Attributes:
        gamma: power of the update number; a larger power averages over a shorter part of the run.
        more: powers of additional averages.
    """

    gamma: float = 6.94
    more: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not all(gamma >= 0 for gamma in (self.gamma, *self.more)):
            raise UserError(f"ema.gamma and ema.more must be at least 0, got {self}")

    def __call__(self, k: int, batch: int) -> float:
        """Return the factor of the newest network weights in the average at update `k`; see `Averaging`."""
        if k % _interval(k):
            return 0.0
        # A power of two is a multiple of both intervals, so the previous change was at k - _interval(k - 1).
        return 1 - (1 - _interval(k - 1) / k) ** (self.gamma + 1)


def _interval(k: int) -> int:
    """Return the number of updates between two changes of a power-function average around update `k`.

    It is 1 below 2^18 updates, and doubles at 2^18 and at each later power of two. With an interval of 1, the
    factor at update 10^7 would be about 1e-6, and float32 would round most changes to 0.
    """
    return 1 << max(0, k.bit_length() - 18)


@dataclass(frozen=True)
class HalfLife:
    """EMA with a half-life of `images`, capped at `ramp` times the images seen so far.

    Karras et al. 2022, appendix F.2; the ramp-up of 5 % is in their training code. The half-life is a number
    of images, and therefore does not depend on the batch size. `more` holds the half-lives of additional
    averages (see `name_averages`).

    Attributes:
        images: training images after which weights count half as much.
        ramp: largest half-life, as a fraction of the images seen so far.
        more: half-lives of additional averages.
    """

    images: float = 500_000
    ramp: float = 0.05
    more: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not all(value > 0 for value in (self.images, self.ramp, *self.more)):
            raise UserError(f"ema.images, ema.ramp and ema.more must be above 0, got {self}")

    def __call__(self, k: int, batch: int) -> float:
        """Return the factor of the newest network weights in the average at update `k`; see `Averaging`."""
        half = min(self.images, self.ramp * (k - 1) * batch)
        return 1 - 0.5 ** (batch / half) if half else 1.0


AVERAGES: dict[str, type[Averaging]] = {"exponential": Exponential, "power": Power, "half_life": HalfLife}
"""All averaging methods, keyed by their names in a recipe. To add a method, write a class and add it here."""


GUIDE = "guide"
"""The name of the average that stops early in the training, to guide samples; see `report.guide`."""


def name_averages(rule: Averaging) -> dict[str, Averaging]:
    """Return all averages of a run, keyed by name: "default", and one name for each value of `more`.

    The name of an additional average is its value, without ".0": "0.99", or "250000" for 250000.0. The code
    of Nichol & Dhariwal 2021 (a list of decays) and of Karras et al. 2024 also keeps several averages.
    """
    kind, (main, *_) = type(rule), vars(rule)
    others = {_name(value): kind(**vars(rule) | {main: value, "more": ()}) for value in rule.more}
    return {"default": rule} | others


def _name(value: float) -> str:
    # 16 and 16.0 have the same name, and so have 0 and -0.0; a plus sign is omitted.
    return str(value + 0.0).removesuffix(".0").replace("+", "")


def select_averaged(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model that are averaged, keyed by name: parameters and float buffers.

    The buffers include the statistics of batch norm. The tensors are detached, and share memory with the
    model.
    """
    state = model.state_dict(keep_vars=True)
    return {name: value.detach() for name, value in state.items() if value.is_floating_point()}


def update_average(average: Sequence[Tensor], newest: Sequence[Tensor], weight: float) -> None:
    """Update each tensor in place: average = (1 - weight) * average + weight * newest."""
    if weight:
        torch._foreach_lerp_(list(average), list(newest), weight)
