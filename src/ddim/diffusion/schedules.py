"""How much signal and how much noise an image holds at each time: t -> Level(alpha, sigma).

x_t = alpha * x0 + sigma * eps, with t = 0 clean and t = 1 noise, everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor

from ddim.errors import UserError


@dataclass(frozen=True)
class Level:
    """Signal rate alpha and noise rate sigma, tensors of one shape, float64 as schedules make them."""

    alpha: Tensor
    sigma: Tensor

    @property
    def log_snr(self) -> Tensor:
        """2 log(alpha / sigma): infinite where there is no noise."""
        return 2 * (self.alpha.log() - self.sigma.log())

    def over(self, x: Tensor) -> Level:
        """The same level, shaped, typed and placed to multiply x: () or (B,) -> (1 or B, 1, 1, 1)."""
        shape = (-1,) + (1,) * (x.ndim - 1)
        return Level(self.alpha.reshape(shape).to(x), self.sigma.reshape(shape).to(x))

    def noisy(self, x0: Tensor, eps: Tensor) -> Tensor:
        """The noisy images x_t = alpha * x0 + sigma * eps, all (B, C, H, W), for a level () or (B,)."""
        at = self.over(x0)
        return at.alpha * x0 + at.sigma * eps


def variance_preserving(log_snr: Tensor) -> Level:
    """The level of this log-SNR with alpha^2 + sigma^2 = 1 (Kingma et al. 2021, section 3.2)."""
    log_snr = log_snr.double()
    return Level(log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt())


class Schedule(Protocol):
    """A small immutable value; its log-SNR never grows with t."""

    def __call__(self, t: Tensor) -> Level:
        """Times t in [0, 1] of any shape -> the level at each, float64."""
        ...

    def inverse(self, log_snr: Tensor) -> Tensor:
        """The earliest time at which the log-SNR is not above this; clamped to [0, 1], float64."""
        ...


@dataclass(frozen=True)
class Cosine:
    """alpha = cos and sigma = sin of an angle that grows linearly with t, between two signal rates.

    The cosine schedule of Béres' Keras example, after Nichol & Dhariwal 2021, eq. 17. Under the original's
    bounds, 0.95 and 0.02, no time is clean: sigma(0) = 0.31.
    """

    min_signal: float = 0.02
    max_signal: float = 0.95

    def __post_init__(self) -> None:
        _check_bounds("Cosine", self.min_signal, self.max_signal)

    def __call__(self, t: Tensor) -> Level:
        """See `Schedule`."""
        start, end = math.acos(self.max_signal), math.acos(self.min_signal)
        angle = start + t.double() * (end - start)
        return Level(angle.cos(), angle.sin())

    def inverse(self, log_snr: Tensor) -> Tensor:
        """See `Schedule`."""
        start, end = math.acos(self.max_signal), math.acos(self.min_signal)
        angle = torch.atan((-log_snr.double() / 2).exp())
        return ((angle - start) / (end - start)).clamp(0, 1)


Transform = Callable[[Tensor], Tensor]

QUANTITIES: dict[str, tuple[Transform, Transform]] = {
    "noise_power": (lambda log_snr: (-log_snr).sigmoid(), lambda power: -torch.logit(power)),
    "angle": (
        lambda log_snr: (-log_snr / 2).exp().atan(),
        lambda angle: -2 * angle.tan().log(),
    ),
    "log_snr": (lambda log_snr: log_snr, lambda log_snr: log_snr),
    "log_noise": (
        lambda log_snr: torch.nn.functional.logsigmoid(-log_snr),
        lambda log_power: torch.expm1(-log_power).log(),
    ),
    "log_signal": (
        torch.nn.functional.logsigmoid,
        lambda log_power: -torch.expm1(-log_power).log(),
    ),
}
"""A function of the log-SNR where alpha^2 + sigma^2 = 1, and its inverse: sigma^2, atan(sigma / alpha), the
log-SNR itself, log sigma^2 and log alpha^2."""


@dataclass(frozen=True)
class LinearIn:
    """A `quantity` of the level goes linearly with t from log-SNR `start` to `end`: Béres' seven schedules.

    clear-diffusion-keras 2022; alpha^2 + sigma^2 = 1. "noise_power" is sigma^2, "angle" the cosine schedule,
    "log_snr" that of Kingma et al. 2021. Under "log_noise" and "log_signal", the logarithms of sigma^2 and
    alpha^2, equal steps change a power by equal ratios; under "noise_step" and "signal_step" these logarithms
    are parabolas, flat at t = 1 and at t = 0, and the steps' ratios nearly linear. The last is much like
    DDPM's linear beta.
    """

    quantity: Literal[
        "noise_power", "angle", "log_snr", "log_noise", "log_signal", "noise_step", "signal_step"
    ] = "angle"
    start: float = 3.0
    end: float = -10.0

    def __post_init__(self) -> None:
        # Beyond, one of the powers rounds to 1, and its logarithm to 0.
        if not 36 >= self.start > self.end >= -36:
            raise UserError(f"LinearIn needs 36 >= start > end >= -36, got {self.start} and {self.end}")

    def __call__(self, t: Tensor) -> Level:
        """See `Schedule`."""
        t = t.double()
        first, last = self._ends
        part = {"noise_step": t * (2 - t), "signal_step": t**2}.get(self.quantity, t)
        log_snr = self._transforms[1](torch.lerp(first, last, part))
        return variance_preserving(log_snr.clamp(self.end, self.start))

    def inverse(self, log_snr: Tensor) -> Tensor:
        """See `Schedule`."""
        first, last = self._ends
        at = self._transforms[0](log_snr.double().clamp(self.end, self.start))
        part = ((at - first) / (last - first)).clamp(0, 1)
        if self.quantity == "noise_step":
            return 1 - (1 - part).sqrt()
        return part.sqrt() if self.quantity == "signal_step" else part

    @property
    def _transforms(self) -> tuple[Transform, Transform]:
        name = {"noise_step": "log_noise", "signal_step": "log_signal"}.get(self.quantity, self.quantity)
        return QUANTITIES[name]

    @property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """What is linear, at t = 0 and at t = 1."""
        start, end = torch.tensor([self.start, self.end], dtype=torch.float64)
        return self._transforms[0](start), self._transforms[0](end)


@dataclass(frozen=True)
class LinearBeta:
    """DDPM's linear beta in continuous time: the variance-preserving SDE (Song et al. 2021b, eq. 32 and 33).

    `low` and `high` are beta(0) and beta(1) for t in [0, 1]: 1000 times DDPM's 1e-4 and 0.02. At t = 0 the
    image is clean, (1, 0), which no grid holds.
    """

    low: float = 0.1
    high: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise UserError(f"LinearBeta needs 0 < low < high, got {self.low} and {self.high}")

    def __call__(self, t: Tensor) -> Level:
        """See `Schedule`."""
        integral = self._integral(t.double())
        return Level((-integral / 2).exp(), (-torch.expm1(-integral)).sqrt())

    def inverse(self, log_snr: Tensor) -> Tensor:
        """See `Schedule`."""
        # alpha^2 = sigmoid(log_snr) = exp(-integral); the integral is a quadratic in t.
        slope = self.high - self.low
        integral = -torch.nn.functional.logsigmoid(log_snr.double()).clamp(min=-self.low - slope / 2)
        return (2 * integral / (self.low + (self.low**2 + 2 * slope * integral).sqrt())).clamp(0, 1)

    def _integral(self, t: Tensor) -> Tensor:
        """Integral of beta from 0 to t."""
        return self.low * t + (self.high - self.low) / 2 * t**2


@dataclass(frozen=True)
class Linear:
    """DDPM's table: beta_i linear from `first` to `last` over `entries`, alpha_i^2 = prod (1 - beta).

    Ho et al. 2020, section 4. `betas` names the other tables of their code: "quad" is linear in the square
    root of beta; "sigmoid" rises as that function from -6 to 6; "const" is `last` throughout; "jsd" is 1 /
    (entries - i), under which alpha^2 falls linearly, to nothing, so that it needs a clip. "cosine" is
    Nichol & Dhariwal 2021, eq. 17: alpha the cosine of a time with an offset of 0.008, beta at most 0.999.
    `clip` bounds the table: "none"; "rates" holds the signal rate alpha within [min_signal, max_signal], as
    their names say; "powers" holds alpha^2 within the same two numbers, as the seed repository does, which
    leaves 38 % of its times on one level (alpha = 0.141). `read` says what lies between entries: "floor"
    takes entry floor((entries - 1) t), the seed's rule; "log_snr" puts entry i at t = (i + 1) / entries and
    reads linearly in log-SNR; before the first entry there is nothing but the clean image of t = 0.
    """

    entries: int = 1000
    first: float = 1e-4
    last: float = 0.02
    clip: Literal["none", "rates", "powers"] = "rates"
    min_signal: float = 0.02
    max_signal: float = 0.95
    read: Literal["floor", "log_snr"] = "floor"
    betas: Literal["linear", "quad", "const", "jsd", "sigmoid", "cosine"] = "linear"

    def __post_init__(self) -> None:
        _check_bounds("Linear", self.min_signal, self.max_signal)
        if self.entries < 2 or not 0 < self.first < self.last < 1:
            raise UserError(
                f"Linear needs entries >= 2 and 0 < first < last < 1, "
                f"got {self.entries}, {self.first} and {self.last}"
            )
        if self.betas == "jsd" and self.clip == "none":
            raise UserError(
                "Linear needs a clip for betas jsd, whose last entry has no signal, as clip rates with "
                "min_signal 0.001 and max_signal 1, got none"
            )

    @cached_property
    def powers(self) -> Tensor:
        """(entries,) signal powers alpha_i^2, decreasing, float64."""
        powers = (1 - self._beta).cumprod(0)
        if self.clip == "powers":
            return powers.clamp(self.min_signal, self.max_signal)
        if self.clip == "rates":
            return powers.clamp(self.min_signal**2, self.max_signal**2)
        return powers

    def __call__(self, t: Tensor) -> Level:
        """See `Schedule`."""
        t = t.double().cpu()
        if self.read == "floor":
            power = self.powers[(t * (self.entries - 1)).long()]
            return Level(power.sqrt(), (1 - power).sqrt())
        # A network sees entries, the first as the cleanest.
        position = (t * self.entries - 1).clamp(min=0)
        below = position.floor().clamp(0, self.entries - 2).long()
        log_snr = torch.lerp(self._log_snr[below], self._log_snr[below + 1], position - below)
        return variance_preserving(torch.where(t > 0, log_snr, torch.inf))

    def inverse(self, log_snr: Tensor) -> Tensor:
        """See `Schedule`; under "log_snr" no time before that of the first entry."""
        wanted = -log_snr.double().cpu().contiguous()
        # The first entry that is not above; the last digits of its own log-SNR depend on who computes it.
        index = torch.searchsorted(-self._log_snr, wanted - 1e-9)
        if self.read == "floor":
            # The product with entries - 1 must not round down to the entry before.
            t = torch.nextafter(
                index.double() / (self.entries - 1), torch.tensor(torch.inf, dtype=torch.float64)
            )
            return torch.where(index > 0, t, 0.0).clamp(0, 1)
        below = (index - 1).clamp(0, self.entries - 2)
        high, low = self._log_snr[below], self._log_snr[below + 1]
        # Equal neighbours are a plateau of the clip, whose first entry stands for it.
        part = torch.where(high > low, (high + wanted) / (high - low), torch.where(index > 0, 1.0, 0.0))
        return ((below + 1 + part) / self.entries).clamp(1 / self.entries, 1)

    @property
    def _beta(self) -> Tensor:
        """(entries,) the part of its power that the signal loses at each entry, float64."""

        def line(low: float, high: float) -> Tensor:
            return torch.linspace(low, high, self.entries, dtype=torch.float64)

        match self.betas:
            case "linear":
                return line(self.first, self.last)
            case "quad":
                return line(self.first**0.5, self.last**0.5) ** 2
            case "const":
                return line(self.last, self.last)
            case "jsd":
                return 1 / line(self.entries, 1)
            case "sigmoid":
                return self.first + (self.last - self.first) * line(-6, 6).sigmoid()
            case "cosine":
                t = torch.arange(self.entries + 1, dtype=torch.float64) / self.entries
                powers = ((t + 0.008) / 1.008 * math.pi / 2).cos() ** 2
                return (1 - powers[1:] / powers[:-1]).clamp(max=0.999)

    @cached_property
    def _log_snr(self) -> Tensor:
        return torch.logit(self.powers)


@dataclass(frozen=True)
class KarrasSigma:
    """alpha = 1, and sigma^(1 / rho) linear in t from `sigma_min` to `sigma_max` (Karras et al. 2022, eq. 5).

    rho None is the limit of large rho, log sigma linear in t: the variance-exploding SDE (Song et al. 2021b,
    appendix C). No time is clean: sigma(0) = sigma_min. A grid holds no t = 0, so its last level lies above.
    """

    sigma_min: float = 0.001
    sigma_max: float = 80.0
    rho: float | None = 7.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf or not (self.rho is None or self.rho > 0):
            raise UserError(
                "KarrasSigma needs 0 < sigma_min < sigma_max and rho > 0 or none, "
                f"got {self.sigma_min}, {self.sigma_max} and {self.rho}"
            )

    def __call__(self, t: Tensor) -> Level:
        """See `Schedule`."""
        low, high = self._ends
        clock = low + t.double() * (high - low)
        sigma = clock.exp() if self.rho is None else clock**self.rho
        return Level(torch.ones_like(sigma), sigma)

    def inverse(self, log_snr: Tensor) -> Tensor:
        """See `Schedule`."""
        low, high = self._ends
        log_sigma = -log_snr.double() / 2
        clock = log_sigma if self.rho is None else (log_sigma / self.rho).exp()
        return ((clock - low) / (high - low)).clamp(0, 1)

    @property
    def _ends(self) -> tuple[float, float]:
        """What is linear in t, at t = 0 and at t = 1."""
        if self.rho is None:
            return math.log(self.sigma_min), math.log(self.sigma_max)
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)


def _check_bounds(kind: str, low: float, high: float) -> None:
    if not 0 < low < high <= 1:
        raise UserError(f"{kind} needs 0 < min_signal < max_signal <= 1, got {low} and {high}")
