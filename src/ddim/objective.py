"""The training loss, a function of everything it uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ddim.denoiser import Denoiser
from ddim.errors import UserError
from ddim.prediction import Prediction, velocity
from ddim.schedules import Level, Schedule

On = Literal["noise", "image", "velocity"]
Error = Literal["l1", "mse", "huber"]

_ERRORS: dict[str, Callable[..., Tensor]] = {"l1": F.l1_loss, "mse": F.mse_loss, "huber": F.huber_loss}


class TimeDensity(Protocol):
    """Where training spends its images."""

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        """(B,) uniform in [0, 1) -> (B,) times in (0, 1], float64."""
        ...


@dataclass(frozen=True)
class UniformTimes:
    """Times uniform in (0, 1]: t = 0 may hold no noise, and so no noise to predict."""

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        """See `TimeDensity`."""
        return 1 - uniform.double()


@dataclass(frozen=True)
class NormalLogSNR:
    """Log-SNR normally distributed, clamped to the schedule (Karras et al. 2022, table 1: sigma log-normal).

    The paper's mean -1.2 and deviation 1.2 of log sigma are 2.4 and 2.4 of log-SNR at sigma_data 0.5, and
    about 1 and 2.4 for data of unit variance.
    """

    mean: float = 1.0
    std: float = 2.4

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise UserError(f"objective.times.std must be above 0, got {self.std}")

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        """See `TimeDensity`."""
        inside = uniform.double().clamp(1e-9, 1 - 1e-9)
        return schedule.inverse(self.mean + self.std * torch.special.ndtri(inside))


@dataclass(frozen=True)
class TableTimes:
    """Each entry of a table of so many equally often: i / entries for i = 1 ... entries (Ho et al. 2020)."""

    entries: int = 1000

    def __post_init__(self) -> None:
        if not self.entries > 0:
            raise UserError(f"objective.times.entries must be above 0, got {self.entries}")

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        """See `TimeDensity`."""
        return ((uniform.double() * self.entries).floor() + 1) / self.entries


@dataclass(frozen=True)
class Objective:
    """Which error is made small: its kind, of which quantity, at which times.

    Independent of what the network predicts.
    """

    on: On = "noise"
    error: Error = "l1"
    times: UniformTimes | NormalLogSNR | TableTimes = UniformTimes()

    def __call__(self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """(B,) error on images x0 (B, C, H, W) in model units, noised to times t (B,) with eps like x0."""
        at = denoise.schedule(t).over(x0)
        p = denoise(at.alpha * x0 + at.sigma * eps, t)
        wanted = quantity(Prediction(x0, eps), at, self.on)
        error = _ERRORS[self.error](quantity(p, at, self.on), wanted, reduction="none")
        return error.flatten(1).mean(1)


def quantity(p: Prediction, at: Level, on: On) -> Tensor:
    """(B, C, H, W) noise, image or velocity of a prediction."""
    if on == "velocity":
        return velocity(p, at)
    return p.eps if on == "noise" else p.x0
