"""The seven schedules of Béres' clear-diffusion-keras, in which a quantity is linear or quadratic in t."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddim.diffusion.device_copies import copy_to_device
from ddim.diffusion.schedules.level import Level, as_double, variance_preserving
from ddim.errors import UserError, check_part_values

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
"""For each quantity, a function (log-SNR -> quantity) and its inverse, valid for alpha^2 + sigma^2 = 1.

The quantities are sigma^2, atan(sigma / alpha), the log-SNR itself, log sigma^2 and log alpha^2.
"""


@dataclass(frozen=True)
class LinearIn:
    """A quantity of the noise level is linear or quadratic in t, from log-SNR `start` to log-SNR `end`.

    At every time, alpha^2 + sigma^2 = 1. `quantity` chooses one of Béres' seven schedules
    (clear-diffusion-keras 2022):

    - "noise_power": sigma^2 is linear in t.
    - "angle": atan(sigma / alpha) is linear, as in the cosine schedule.
    - "log_snr": the log-SNR is linear, as in Kingma et al. 2021.
    - "log_noise": log sigma^2 is linear.
    - "log_signal": log alpha^2 is linear.
    - "noise_step": log sigma^2 is a parabola in t, flat at t = 1.
    - "signal_step": log alpha^2 is a parabola in t, flat at t = 0, close to DDPM's linear beta.

    Attributes:
        quantity: which quantity of the noise level is linear in t, or quadratic in t for "noise_step" and
            "signal_step".
        start: log-SNR at t = 0.
        end: log-SNR at t = 1.
    """

    quantity: Literal[
        "noise_power", "angle", "log_snr", "log_noise", "log_signal", "noise_step", "signal_step"
    ] = "angle"
    start: float = 3.0
    end: float = -10.0

    entries = None  # continuous

    def __post_init__(self) -> None:
        check_part_values(type(self).__name__, self)
        # Beyond 36, alpha^2 or sigma^2 rounds to 1 and its logarithm to 0: the log-SNR is lost.
        if not 36 >= self.start > self.end >= -36:
            raise UserError(f"LinearIn needs 36 >= start > end >= -36, got {self.start} and {self.end}")

    def __call__(self, t: Tensor | float) -> Level:
        """Return the noise level at times t; see `Schedule`."""
        t = as_double(t)
        first, last = copy_to_device(self, "ends", t.device)
        part = {"noise_step": t * (2 - t), "signal_step": t**2}.get(self.quantity, t)
        log_snr = self._transforms[1](torch.lerp(first, last, part))
        return variance_preserving(log_snr.clamp(self.end, self.start))

    def inverse(self, log_snr: Tensor | float) -> Tensor:
        """Return the time of a log-SNR; see `Schedule`."""
        log_snr = as_double(log_snr)
        first, last = copy_to_device(self, "ends", log_snr.device)
        at = self._transforms[0](log_snr.clamp(self.end, self.start))
        part = ((at - first) / (last - first)).clamp(0, 1)
        if self.quantity == "noise_step":
            return 1 - (1 - part).sqrt()
        return part.sqrt() if self.quantity == "signal_step" else part

    @property
    def _transforms(self) -> tuple[Transform, Transform]:
        name = {"noise_step": "log_noise", "signal_step": "log_signal"}.get(self.quantity, self.quantity)
        return QUANTITIES[name]

    @property
    def ends(self) -> Tensor:
        """The values of the chosen quantity at t = 0 and at t = 1 (2,), float64."""
        start, end = torch.tensor([self.start, self.end], dtype=torch.float64)
        return torch.stack([self._transforms[0](start), self._transforms[0](end)])
