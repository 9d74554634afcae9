"""Discrete schedules: tables of beta, as in DDPM and its successors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ddim.diffusion.device_copies import copy_to_device
from ddim.diffusion.schedules.level import Level, as_double, variance_preserving
from ddim.errors import UserError, check_part_values

LONGEST = 100_000
"""The largest number of entries of a table."""


@dataclass(frozen=True)
class _Table:
    """A table of `entries` noise levels with alpha_i^2 = prod (1 - beta); a subclass defines the betas.

    See `Linear` for the options `clip` and `read`.

    Attributes:
        entries: number of noise levels in the table.
        first: beta of the cleanest entry.
        last: beta of the noisiest entry.
        clip: "rates" clamps alpha to [min_signal, max_signal], "powers" clamps alpha^2, "none" neither.
        min_signal: lower end of the clamp.
        max_signal: upper end of the clamp.
        read: between two entries, "floor" takes the cleaner one, "log_snr" interpolates the log-SNR linearly.
    """

    entries: int = 1000
    first: float = 1e-4
    last: float = 0.02
    clip: Literal["none", "rates", "powers"] = "rates"
    min_signal: float = 0.02
    max_signal: float = 0.95
    read: Literal["floor", "log_snr"] = "floor"

    def __post_init__(self) -> None:
        check_part_values(type(self).__name__, self)
        kind = type(self).__name__
        if not 0 < self.min_signal < self.max_signal <= 1:
            raise UserError(
                f"{kind} needs 0 < min_signal < max_signal <= 1, got {self.min_signal} and {self.max_signal}"
            )
        if not 2 <= self.entries <= LONGEST:
            raise UserError(f"{kind} needs 2 to {LONGEST:,} entries, got {self.entries:,}")
        if not 0 < self.first < self.last < 1:
            raise UserError(f"{kind} needs 0 < first < last < 1, got {self.first} and {self.last}")

    def __call__(self, t: Tensor | float) -> Level:
        """Return the noise level at times t; see `Schedule`."""
        t = as_double(t)
        if self.read == "floor":
            power = copy_to_device(self, "powers", t.device)[(t * (self.entries - 1)).long()]
            return Level(power.sqrt(), (1 - power).sqrt())
        # Times before the first entry have its noise level, the cleanest on which a network is evaluated.
        position = (t * self.entries - 1).clamp(min=0)
        below = position.floor().clamp(0, self.entries - 2).long()
        table = copy_to_device(self, "log_snr", t.device)
        log_snr = torch.lerp(table[below], table[below + 1], position - below)
        return variance_preserving(torch.where(t > 0, log_snr, torch.inf))

    def inverse(self, log_snr: Tensor | float) -> Tensor:
        """Return the time of a log-SNR; see `Schedule`.

        If `read` is "log_snr", the time is at least 1 / entries.
        """
        wanted = -as_double(log_snr).contiguous()
        table = copy_to_device(self, "log_snr", wanted.device)
        # `index` is the first entry whose log-SNR is at most the wanted one, with a tolerance of 1e-9.
        index = torch.searchsorted(-table, wanted - 1e-9)
        if self.read == "floor":
            # `__call__` multiplies t by entries - 1 and rounds down. The next larger t makes sure that this
            # finds entry `index`, not the entry before.
            t = index.double() / (self.entries - 1)
            t = torch.nextafter(t, torch.full_like(t, torch.inf))
            return torch.where(index > 0, t, 0.0).clamp(0, 1)
        below = (index - 1).clamp(0, self.entries - 2)
        high, low = table[below], table[below + 1]
        # Clipping can make the first or the last entries equal, and then high = low. The time of the first
        # entry, or t = 1, avoids the division by 0.
        part = torch.where(high > low, (high + wanted) / (high - low), torch.where(index > 0, 1.0, 0.0))
        return ((below + 1 + part) / self.entries).clamp(1 / self.entries, 1)

    @cached_property
    def powers(self) -> Tensor:
        """Signal powers alpha_i^2 (entries,), never increasing, float64."""
        powers = (1 - self._betas()).cumprod(0)
        if self.clip == "powers":
            return powers.clamp(self.min_signal, self.max_signal)
        if self.clip == "rates":
            return powers.clamp(self.min_signal**2, self.max_signal**2)
        return powers

    @cached_property
    def log_snr(self) -> Tensor:
        """The log-SNR of each entry (entries,), never increasing, float64."""
        return torch.logit(self.powers)

    def _betas(self) -> Tensor:
        """Return beta (entries,), float64: the fraction of its power that the signal loses at each entry."""
        raise NotImplementedError

    def _line(self, low: float, high: float) -> Tensor:
        return torch.linspace(low, high, self.entries, dtype=torch.float64)


@dataclass(frozen=True)
class Linear(_Table):
    """DDPM's table: beta_i linear from `first` to `last` over `entries` (Ho et al. 2020, section 4).

    The signal power alpha_i^2 is the product of 1 - beta over all entries up to i.

    `clip` limits the signal rate alpha:

    - "none": alpha is not limited.
    - "rates": alpha is clamped to [min_signal, max_signal].
    - "powers": alpha^2 is clamped to this interval, as in the torch/luz repository. In the default table,
      38 % of the entries then have the same noise level (alpha = 0.141).

    `read` defines the noise level at a time between two entries:

    - "floor": the noise level of entry floor((entries - 1) t), as in torch/luz.
    - "log_snr": linear interpolation of the log-SNR; entry i, counted from 0, is at t = (i + 1) / entries.
      Times before the first entry have its noise level, except t = 0, which is the clean image.

    Attributes:
        entries: number of noise levels in the table.
        first: beta of the cleanest entry.
        last: beta of the noisiest entry.
        clip: "rates" clamps alpha to [min_signal, max_signal], "powers" clamps alpha^2, "none" neither.
        min_signal: lower end of the clamp.
        max_signal: upper end of the clamp.
        read: between two entries, "floor" takes the cleaner one, "log_snr" interpolates the log-SNR linearly.
    """

    def _betas(self) -> Tensor:
        return self._line(self.first, self.last)


@dataclass(frozen=True)
class BetaTable(_Table):
    """Other tables of beta; `entries`, `clip` and `read` are as in `Linear`.

    `betas` chooses the formula of beta; "quad", "const" and "jsd" are in the code of Ho et al. 2020,
    "sigmoid" is in the code of Song et al. 2021a:

    - "cosine": alpha is the cosine of the time with an offset of 0.008, and beta is at most 0.999 (Nichol &
      Dhariwal 2021, eq. 17).
    - "signal_sigmoid": alpha^2 falls like a sigmoid function on [-3, 3], shifted and scaled to run from 1 to
      0, and beta is at most 0.999 (Jabri et al. 2023, with start -3, end 3 and tau 1).
    - "quad": the square root of beta is linear, from `first` to `last`.
    - "sigmoid": beta follows the sigmoid function on [-6, 6], from `first` to `last`.
    - "const": beta is `last` at every entry.
    - "jsd": beta is 1 / (entries - i) for i = 0 ... entries - 1. Then alpha^2 falls linearly to 0, which
      needs a `clip`.

    Attributes:
        betas: the formula of beta along the table.
    """

    betas: Literal["cosine", "quad", "const", "jsd", "sigmoid", "signal_sigmoid"] = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.betas == "jsd" and self.clip == "none":
            raise UserError(
                'BetaTable needs a clip for betas "jsd", because the last entry has no signal: give, for '
                'example, clip "rates" with min_signal 0.001 and max_signal 1, got clip "none"'
            )

    def _betas(self) -> Tensor:
        match self.betas:
            case "cosine":
                t = torch.arange(self.entries + 1, dtype=torch.float64) / self.entries
                powers = ((t + 0.008) / 1.008 * math.pi / 2).cos() ** 2
                return (1 - powers[1:] / powers[:-1]).clamp(max=0.999)
            case "signal_sigmoid":
                t = torch.arange(self.entries + 1, dtype=torch.float64) / self.entries
                # The constants that shift and scale alpha^2 to run from 1 to 0: the scale cancels.
                powers = (3 - 6 * t).sigmoid() - torch.tensor(-3.0, dtype=torch.float64).sigmoid()
                return (1 - powers[1:] / powers[:-1]).clamp(max=0.999)
            case "quad":
                return self._line(self.first**0.5, self.last**0.5) ** 2
            case "const":
                return self._line(self.last, self.last)
            case "jsd":
                return 1 / self._line(self.entries, 1)
            case "sigmoid":
                return self.first + (self.last - self.first) * self._line(-6, 6).sigmoid()
