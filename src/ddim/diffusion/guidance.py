"""Denoisers around denoisers: guidance, clipping, another schedule. A sampler never knows of them.

Each is a frozen value with the schedule of what it wraps, and each, but `Clipped` where it is told otherwise,
keeps the halves adding up: x_t = alpha * x0 + sigma * eps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.prediction import Prediction, from_image
from ddim.diffusion.schedules import Level, Schedule
from ddim.errors import UserError


@dataclass(frozen=True)
class Guided:
    """Away from a weaker denoiser: weak + scale * (strong - weak), of clean images.

    With the same model told a class as `strong` and told none as `weak`, classifier-free guidance (Ho &
    Salimans 2022, eq. 6, whose w is scale - 1). With a smaller or less trained model as `weak`, autoguidance
    (Karras et al. 2024, eq. 5). Between log-SNR `low` and `high` alone, guidance in an interval (Kynkäänniemi
    et al. 2024); outside it, as at scale 1, the weak one is not asked.
    """

    strong: Denoiser
    weak: Denoiser
    scale: float
    low: float = -torch.inf
    high: float = torch.inf

    def __post_init__(self) -> None:
        if not 0 <= self.scale < torch.inf:
            raise UserError(f"guidance must be at least 0 and finite, got {self.scale}")
        if not self.low < self.high:
            raise UserError(f"guidance needs an interval low < high, got {self.low} and {self.high}")
        if self.weak.schedule != self.strong.schedule:
            raise UserError("guidance needs two models of one schedule")

    @property
    def schedule(self) -> Schedule:
        """That of both."""
        return self.strong.schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """See `Denoiser`; one time t () for all images."""
        at = self.schedule(t)
        p = self.strong(x_t, t)
        if self.scale == 1 or not self.low <= at.log_snr <= self.high:
            return p
        weak = self.weak(x_t, t)
        guided = from_image(x_t, torch.lerp(weak.x0, p.x0, self.scale), at.over(x_t))
        return Prediction(guided.x0, guided.eps, p.mix)


@dataclass(frozen=True)
class Rescheduled:
    """A denoiser that is asked at the times of another `schedule` than its own.

    A level is one log-SNR: the inner denoiser is asked where its own schedule has it, about x_t scaled by the
    ratio of the two alphas, which leaves image and noise as they are.
    """

    inner: Denoiser
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """See `Denoiser`; UserError for a level that the inner schedule does not reach."""
        at = self.schedule(t)
        own = self.inner.schedule
        check_reach(own, at)
        time = own.inverse(at.log_snr)
        scale = own(time).alpha / at.alpha
        p = self.inner(scale.reshape(-1, *(1,) * (x_t.ndim - 1)).to(x_t) * x_t, time)
        # Of a table the nearest level is another one; the halves add up at the level that was asked for.
        whole = from_image(x_t, p.x0, at.over(x_t))
        return Prediction(whole.x0, whole.eps, p.mix)


_NEAR = 1e-6
"""Log-SNRs that differ by less are one level."""


def check_reach(own: Schedule, at: Level) -> None:
    """UserError where levels () or (N,) lie beyond the ends of a model's own schedule."""
    clean, noisy = own(torch.tensor([0.0, 1.0], dtype=torch.float64)).log_snr.tolist()
    if at.log_snr.min() < noisy - _NEAR or at.log_snr.max() > clean + _NEAR:
        raise UserError(
            f"sampled_on must lead to levels that the model is trained on, log-SNR {noisy:.2f} to "
            f"{clean:.2f}, got {at.log_snr.min():.2f} to {at.log_snr.max():.2f}"
        )


@dataclass(frozen=True)
class Clipped:
    """Clean images held within what pixels can be: `low` and `high` (C,), of `Pixels.bounds`.

    Saharia et al. 2022, section 2.3, static thresholding; eps is what is then left of x_t. With `keep` it is
    what was predicted, as in diffusers' clip_sample, and the halves no longer add up.
    """

    inner: Denoiser
    low: Tensor
    high: Tensor
    keep: bool = False

    @property
    def schedule(self) -> Schedule:
        """The inner denoiser's."""
        return self.inner.schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """See `Denoiser`."""
        p = self.inner(x_t, t)
        low, high = (bound.reshape(-1, 1, 1).to(x_t) for bound in (self.low, self.high))
        clipped = from_image(x_t, p.x0.clamp(low, high), self.schedule(t).over(x_t))
        return Prediction(clipped.x0, p.eps if self.keep else clipped.eps, p.mix)


@dataclass(frozen=True)
class Thresholded:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3): an image that leaves its bounds is shrunk.

    In units where each channel's bounds are -1 and 1, s is the `quantile` of an image's absolute pixels;
    where s is above 1 the image is clipped to [-s, s] and divided by s.
    """

    inner: Denoiser
    low: Tensor
    high: Tensor
    quantile: float = 0.995

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise UserError(f"the quantile of dynamic thresholding must lie in (0, 1], got {self.quantile}")

    @property
    def schedule(self) -> Schedule:
        """The inner denoiser's."""
        return self.inner.schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        """See `Denoiser`."""
        p = self.inner(x_t, t)
        middle = ((self.low + self.high) / 2).reshape(-1, 1, 1).to(x_t)
        half = ((self.high - self.low) / 2).reshape(-1, 1, 1).to(x_t)
        unit = (p.x0 - middle) / half
        s = unit.abs().flatten(1).quantile(self.quantile, dim=1).clamp(min=1).reshape(-1, 1, 1, 1)
        shrunk = middle + half * (unit.clamp(-s, s) / s)
        thresholded = from_image(x_t, shrunk, self.schedule(t).over(x_t))
        return Prediction(thresholded.x0, thresholded.eps, p.mix)
