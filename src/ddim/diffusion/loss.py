"""The training loss, a function of everything it uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.gaussian import step
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.prediction import Prediction, velocity
from ddim.diffusion.schedules import Level, Schedule
from ddim.diffusion.time_sampling import LossAware
from ddim.diffusion.variational_bound import picture_bits, step_bits, steps
from ddim.errors import UserError

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
    """Times uniform in (low, 1]: t = 0 may hold no noise, and so no noise to predict."""

    low: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < 1:
            raise UserError(f"objective.times.low must be at least 0 and less than 1, got {self.low}")

    def __call__(self, uniform: Tensor, schedule: Schedule) -> Tensor:
        """See `TimeDensity`."""
        return 1 - (1 - self.low) * uniform.double()


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


class Weight(Protocol):
    """What an error counts at each level."""

    def __call__(self, at: Level) -> Tensor:
        """Level of any shape -> weights of that shape."""
        ...


@dataclass(frozen=True)
class Unweighted:
    """Every level counts as much."""

    def __call__(self, at: Level) -> Tensor:
        """See `Weight`."""
        return torch.ones_like(at.sigma)


@dataclass(frozen=True)
class EDMWeight:
    """lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, in sigma / alpha (Karras et al., table 1).

    With it a squared error of the image is that of what a network of `PredictsEDM` gives (appendix B.6). The
    lambda = 1 / sigma^2 of the paper's other columns needs no weight: it is the squared error of the noise.
    """

    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise UserError(f"objective.weight.sigma_data must be above 0, got {self.sigma_data}")

    def __call__(self, at: Level) -> Tensor:
        """See `Weight`."""
        return (at.alpha / at.sigma) ** 2 + 1 / self.sigma_data**2


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
    """Which error is made small: its kind, of which quantity, at which times, with which weight.

    Independent of what the network predicts.
    """

    on: On = "noise"
    error: Error = "l1"
    times: UniformTimes | NormalLogSNR | TableTimes = UniformTimes()
    weight: Unweighted | EDMWeight = Unweighted()

    def __call__(
        self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, pixels: Pixels | None = None
    ) -> Tensor:
        """(B,) error on images x0 (B, C, H, W) in model units, noised to times t (B,) with eps like x0.

        `pixels` says what the units are; this error does not depend on them.
        """
        level = denoise.schedule(t)
        at = level.over(x0)
        p = denoise(level.noisy(x0, eps), t)
        wanted = quantity(Prediction(x0, eps), at, self.on)
        error = _ERRORS[self.error](quantity(p, at, self.on), wanted, reduction="none")
        return self.weight(level).to(x0) * error.flatten(1).mean(1)


@dataclass(frozen=True)
class Hybrid:
    """L_simple + `vlb` * L_vlb, for networks that predict a variance (Nichol & Dhariwal 2021, eq. 16).

    `on`, `error` and `times` as of `Objective`. L_vlb is the bound on the likelihood in bits per dimension,
    over the table of `times`; an image at one time counts for all of them. In it the prediction of the image
    is held fast, so that it trains the variance alone.
    """

    on: On = "noise"
    error: Error = "mse"
    times: TableTimes | LossAware = TableTimes(4000)
    vlb: float = 0.001

    def __post_init__(self) -> None:
        if not self.vlb >= 0:
            raise UserError(f"objective.vlb must be at least 0, got {self.vlb}")
        if self.times.entries < 2:
            raise UserError(f"objective.times.entries must be at least 2, got {self.times.entries}")

    def __call__(self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, pixels: Pixels) -> Tensor:
        """(B,) error, as of `Objective`, on 8-bit images x0 whose model units are those of `pixels`."""
        level = denoise.schedule(t)
        at, x_t = level.over(x0), level.noisy(x0, eps)
        p = denoise(x_t, t)
        wanted = quantity(Prediction(x0, eps), at, self.on)
        simple = _ERRORS[self.error](quantity(p, at, self.on), wanted, reduction="none").flatten(1).mean(1)
        fast = Prediction(p.x0.detach(), p.eps.detach(), p.mix)
        return simple + self.vlb * self.times.entries * self._bits(fast, denoise.schedule, x_t, x0, t, pixels)

    def _bits(  # noqa: PLR0913  (what a term of the bound is made of)
        self, p: Prediction, schedule: Schedule, x_t: Tensor, x0: Tensor, t: Tensor, pixels: Pixels
    ) -> Tensor:
        """(B,) the term of the bound that belongs to each time."""
        first, second = torch.tensor([1.0, 2.0], dtype=torch.float64) / self.times.entries
        s = ((t.double() * self.times.entries).round() - 1) / self.times.entries
        q = steps(schedule, t, s, step(schedule(second), schedule(first)).small)
        between = step_bits(p, x_t, x0, q, "learned")
        return torch.where((s > 0).to(x0.device), between, picture_bits(p, x0, q, "learned", pixels))


def quantity(p: Prediction, at: Level, on: On) -> Tensor:
    """(B, C, H, W) noise, image or velocity of a prediction."""
    if on == "velocity":
        return velocity(p, at)
    return p.eps if on == "noise" else p.x0
