"""Denoisers whose every answer is known: data laws for which E[x0 | x_t] has a closed form.

They are what samplers are checked against: no network stands between a method and its error. Each is a frozen
`Denoiser` for any schedule; images are (B, C, H, W) in model units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.prediction import Prediction, from_image
from ddim.diffusion.schedules import Level, Schedule


@dataclass(frozen=True)
class Gaussian:
    """Independent normal pixels: `mean` and `std` are numbers, or tensors that broadcast to an image."""

    schedule: Schedule
    mean: float | Tensor = 0.3
    std: float | Tensor = 0.5

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """See `Denoiser`."""
        at = self.schedule(t).over(x_t)
        gain = at.alpha * self.std**2 / self.spread(at) ** 2
        return from_image(x_t, self.mean + gain * (x_t - at.alpha * self.mean), at)

    def flow(self, x: Tensor, t: float | Tensor, s: float | Tensor) -> Tensor:
        """Where the probability flow carries x (B, C, H, W) from time t to s: standard scores are kept."""
        now, then = (self.schedule(torch.as_tensor(time, dtype=torch.float64)) for time in (t, s))
        return then.alpha * self.mean + self.spread(then) * (x - now.alpha * self.mean) / self.spread(now)

    def spread(self, at: Level) -> Tensor:
        """The standard deviation of x_t."""
        return (at.alpha**2 * self.std**2 + at.sigma**2).sqrt()


@dataclass(frozen=True)
class Mixture:
    """Equally likely normal clouds: centres (K, C, H, W), all of standard deviation `std`.

    With std 0 the law of a finite data set, whose samples a perfect model repeats.
    """

    schedule: Schedule
    centres: Tensor
    std: float = 0.0

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """See `Denoiser`."""
        at = self.schedule(t).over(x_t)
        centres = self.centres.to(x_t)
        variance = at.alpha**2 * self.std**2 + at.sigma**2  # of x_t round alpha times a centre
        away = x_t[:, None] - (at.alpha[:, None] * centres)  # (B, K, C, H, W)
        odds = -away.square().flatten(2).sum(2) / 2 / variance.reshape(-1, 1)
        share = odds.softmax(1).to(x_t)
        centre = torch.einsum("bk,kchw->bchw", share, centres)
        gain = at.alpha * self.std**2 / variance
        return from_image(x_t, centre + gain * (x_t - at.alpha * centre), at)


def exact(denoise: Gaussian | Mixture, x: Tensor, t: float, s: float, steps: int = 256) -> Tensor:
    """Where the probability flow carries x (B, C, H, W) float64 from time t to time s, for any oracle.

    Neither time may be free of noise, and the schedule must be continuous.

    Dormand & Prince's rule of order 5 in `steps` equal steps of asinh(sigma / alpha), a clock that neither
    end of a schedule can stretch; 256 steps of a smooth law are exact to about 1e-11.
    """
    schedule = denoise.schedule
    ends = [schedule(torch.tensor(time, dtype=torch.float64)) for time in (t, s)]
    bars = [at.sigma / at.alpha for at in ends]
    begin, end = (bar.asinh().item() for bar in bars)

    def slope(clock: float, y: Tensor) -> Tensor:
        """dy / dclock for y = x / alpha: dy / d(sigma / alpha) = eps (Song et al. 2021, eq. 14)."""
        bar = math.sinh(clock)
        time = schedule.inverse(torch.tensor(-2 * math.log(bar), dtype=torch.float64))
        at = schedule(time)
        return math.cosh(clock) * denoise(at.alpha * y, time).eps

    y, h = x.double() / ends[0].alpha, (end - begin) / steps
    for i in range(steps):
        clock, k = begin + i * h, []
        for where, row in zip(_NODES, _ROWS, strict=True):
            k.append(slope(clock + where * h, y + h * sum(a * b for a, b in zip(row, k, strict=True))))
        y = y + h * sum(a * b for a, b in zip(_WEIGHTS, k, strict=True))
    return ends[1].alpha * y


# Dormand & Prince 1980: the sixth stage ends the rule of order 5.
_NODES = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1)
_ROWS = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
_WEIGHTS = (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
