"""Denoisers around denoisers: guidance, clipping, another schedule. Samplers do not know of them.

Each is a frozen value with the schedule of the denoiser that it wraps. Each keeps
x_t = alpha * x0 + sigma * eps, except `Clipped` with `keep`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.prediction import Prediction, from_image
from ddim.diffusion.schedules import Level, Schedule
from ddim.diffusion.short_repr import ShortRepr
from ddim.errors import UserError


@dataclass(frozen=True)
class Guided:
    """Guidance: clean images weak + scale * (strong - weak), away from those of a weaker denoiser.

    Classifier-free guidance has one model with a class label as `strong` and without as `weak` (Ho & Salimans
    2022, eq. 6; their w is scale - 1). Autoguidance has a smaller or less trained model as `weak`
    (Karras et al. 2024, eq. 5). `low` and `high` limit guidance to an interval of log-SNR (Kynkäänniemi et
    al. 2024). Outside it, and at scale 1, the weak denoiser is not evaluated.
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
        """The schedule of both denoisers."""
        return self.strong.schedule

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Prediction:
        """The guided prediction, at one time t () for all images; see `Denoiser`."""
        at = self.schedule(t)
        p = self.strong(x_t, t)
        if self.scale == 1 or not self.low <= at.log_snr <= self.high:
            return p
        weak = self.weak(x_t, t)
        return _with_image(p, x_t, torch.lerp(weak.x0, p.x0, self.scale), at)


@dataclass(frozen=True)
class Rescheduled:
    """A denoiser at the times of another `schedule` than its own.

    The inner denoiser is evaluated at the time where its own schedule has the same log-SNR. Its x_t is scaled
    by the ratio of the two alphas, which leaves image and noise as they are.
    """

    inner: Denoiser
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Prediction:
        """The prediction; see `Denoiser`.

        Raises:
            UserError: if the inner schedule does not reach the level.
        """
        at = self.schedule(t)
        own = self.inner.schedule
        check_reach(own, at)
        time = own.inverse(at.log_snr)
        scale = own(time).alpha / at.alpha
        p = self.inner(scale.reshape(-1, *(1,) * (x_t.ndim - 1)).to(x_t) * x_t, time)
        # A table has only a nearby level; image and noise must add up at the level that was asked for.
        return _with_image(p, x_t, p.x0, at)


_NEAR = 1e-6
"""Log-SNRs that differ by less are one level."""


def check_reach(own: Schedule, at: Level) -> None:
    """Check that levels () or (N,) lie between the ends of a model's own schedule.

    Raises:
        UserError: if one of them does not.
    """
    clean, noisy = own(torch.tensor([0.0, 1.0], dtype=torch.float64)).log_snr.tolist()
    if at.log_snr.min() < noisy - _NEAR or at.log_snr.max() > clean + _NEAR:
        raise UserError(
            f"sampled_on must lead to levels that the model is trained on, log-SNR {noisy:.2f} to "
            f"{clean:.2f}, got {at.log_snr.min():.2f} to {at.log_snr.max():.2f}"
        )


@dataclass(frozen=True, repr=False)
class Clipped(ShortRepr):
    """Clean images clipped to black and white: `low` and `high` (C,) of `Pixels.bounds`.

    Static thresholding (Saharia et al. 2022, section 2.3). eps is then what is left of x_t. With `keep` it
    stays as predicted, as under diffusers' clip_sample, and x_t is no longer alpha * x0 + sigma * eps.
    """

    inner: Denoiser
    low: Tensor
    high: Tensor
    keep: bool = False

    @property
    def schedule(self) -> Schedule:
        """The schedule of the inner denoiser."""
        return self.inner.schedule

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Prediction:
        """The prediction; see `Denoiser`."""
        p = self.inner(x_t, t)
        low, high = (bound.reshape(-1, 1, 1).to(x_t) for bound in (self.low, self.high))
        clipped = p.x0.clamp(low, high)
        return replace(p, x0=clipped) if self.keep else _with_image(p, x_t, clipped, self.schedule(t))


@dataclass(frozen=True, repr=False)
class Thresholded(ShortRepr):
    """Dynamic thresholding: an image outside its bounds is clipped and shrunk.

    Saharia et al. 2022, section 2.3.
    In units where the bounds of each channel are -1 and 1, s is the `quantile` of the absolute pixels of an
    image. Where s is above 1 the image is clipped to [-s, s] and divided by s.
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
        """The schedule of the inner denoiser."""
        return self.inner.schedule

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Prediction:
        """The prediction; see `Denoiser`."""
        p = self.inner(x_t, t)
        middle = ((self.low + self.high) / 2).reshape(-1, 1, 1).to(x_t)
        half = ((self.high - self.low) / 2).reshape(-1, 1, 1).to(x_t)
        unit = (p.x0 - middle) / half
        s = unit.abs().flatten(1).quantile(self.quantile, dim=1).clamp(min=1).reshape(-1, 1, 1, 1)
        shrunk = middle + half * (unit.clamp(-s, s) / s)
        return _with_image(p, x_t, shrunk, self.schedule(t))


def _with_image(p: Prediction, x_t: Tensor, x0: Tensor, at: Level) -> Prediction:
    """The prediction with another clean image; eps is what is then left of x_t."""
    return replace(from_image(x_t, x0, at.over(x_t)), variance_mix=p.variance_mix)
