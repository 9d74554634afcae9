"""Denoisers that wrap other denoisers: guidance, clipping, another noise schedule.

Samplers treat them like any denoiser. Their predictions satisfy x_t = alpha * x0 + sigma * eps, except the
predictions of `Clipped` with `keep`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.parameterisation import Prediction, ShortRepr, from_image
from ddim.diffusion.schedules import Level, Schedule
from ddim.errors import UserError


@dataclass(frozen=True)
class Guided:
    """Guidance: predict the clean image weak + scale * (strong - weak) from two denoisers.

    In classifier-free guidance, `strong` is a model with a class label, and `weak` is the same model without
    a class label (Ho & Salimans 2022, eq. 6; their w is scale - 1). In autoguidance, `weak` is a smaller or
    less trained model (Karras et al. 2024, eq. 5). `low` and `high` limit guidance to an interval of log-SNR
    (Kynkäänniemi et al. 2024). Outside this interval, and at scale 1, a call evaluates only `strong`.
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
            raise UserError(
                "guidance needs two models with the same schedule, "
                f"got {self.strong.schedule} and {self.weak.schedule}"
            )

    @property
    def schedule(self) -> Schedule:
        """The schedule of both denoisers."""
        return self.strong.schedule

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Prediction:
        """Return the guided prediction at a scalar time t, the same for all images; see `Denoiser`."""
        at = self.schedule(t)
        p = self.strong(x_t, t)
        if self.scale == 1 or not self._includes(at):
            return p
        weak = self.weak(x_t, t)
        return _with_image(p, x_t, torch.lerp(weak.x0, p.x0, self.scale), at)

    def move(self, x0: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return other images and other noise with the same x_t, from which a student learns guidance.

        Many images fit x_t, and x0 is one of them. An exact `strong` predicts their mean. Guidance changes
        this prediction by d = (scale - 1) * (strong - weak). So the mean of x0 + d is the guided prediction.
        A student that is trained on x0 + d learns it, and needs one network evaluation. The noise becomes
        eps - alpha / sigma * d, so that x_t stays the same.

        Both denoisers are evaluated for all images.

        Args:
            x0: training images (B, C, H, W) in model units.
            t: times (B,). Images at times outside the interval stay as they are.
            eps: noise (B, C, H, W).
        """
        level = self.schedule(t)
        at, x_t = level.over(x0), level.noisy(x0, eps)
        inside = self._includes(level).reshape(-1, 1, 1, 1).to(x0.device)
        change = (self.scale - 1) * (self.strong(x_t, t).x0 - self.weak(x_t, t).x0)
        change = torch.where(inside, change, 0)
        return x0 + change, eps - at.alpha / at.sigma * change

    def _includes(self, at: Level) -> Tensor:
        """Return whether guidance is used at these noise levels, () or (B,)."""
        return lies_inside(at.log_snr, self.low, self.high)


@dataclass(frozen=True)
class Rescheduled:
    """A denoiser whose noise `schedule` differs from the training schedule of its model.

    The inner denoiser is evaluated at the same log-SNR, which its own schedule has at a time other than t.
    x_t is first multiplied by the ratio of the two alphas; its x0 and eps stay the same.
    """

    inner: Denoiser
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Prediction:
        """Return the prediction; see `Denoiser`.

        Raises:
            UserError: if the inner schedule does not reach this noise level.
        """
        at = self.schedule(t)
        own = self.inner.schedule
        check_reach(own, at)
        time = own.inverse(at.log_snr)
        scale = own(time).alpha / at.alpha
        p = self.inner(scale.reshape(-1, *(1,) * (x_t.ndim - 1)).to(x_t) * x_t, time)
        # If the inner schedule is a table, its noise level at `time` may differ slightly from `at`. eps is
        # therefore recomputed, so that x_t = alpha * x0 + sigma * eps holds at `at`.
        return _with_image(p, x_t, p.x0, at)


_NEAR = 1e-6
"""Log-SNRs that differ by less than this are treated as equal."""


def lies_inside(log_snr: Tensor, low: float, high: float) -> Tensor:
    """Return whether log-SNRs, () or (B,), lie in the interval from `low` to `high`, including both ends."""
    return (low - _NEAR <= log_snr) & (log_snr <= high + _NEAR)


def check_reach(own: Schedule, at: Level, what: str = "sampled_on", model: str = "the model") -> None:
    """Check that noise levels lie within the range of a model's training schedule.

    Args:
        own: the training schedule of the model.
        at: the noise levels, scalar or (N,).
        what: the option that leads to these noise levels, for the message.
        model: the model, for the message.

    Raises:
        UserError: if a noise level is outside the range of `own`.
    """
    clean, noisy = own(torch.tensor([0.0, 1.0], dtype=torch.float64)).log_snr.tolist()
    if at.log_snr.min() < noisy - _NEAR or at.log_snr.max() > clean + _NEAR:
        raise UserError(
            f"{what} must lead to noise levels on which {model} is trained, log-SNR "
            f"{noisy:.2f} to {clean:.2f}, got {at.log_snr.min():.2f} to {at.log_snr.max():.2f}"
        )


@dataclass(frozen=True, repr=False)
class Clipped(ShortRepr):
    """Static thresholding: clip the clean image to the range of pixels (Saharia et al. 2022, section 2.3).

    `low` and `high` (C,) are the values of black and white, from `Pixels.bounds`. eps is recomputed from x_t
    and the clipped image. With `keep`, eps stays as predicted, as with diffusers' clip_sample; then x_t is no
    longer alpha * x0 + sigma * eps.
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
        """Return the prediction; see `Denoiser`."""
        p = self.inner(x_t, t)
        low, high = (bound.reshape(-1, 1, 1).to(x_t) for bound in (self.low, self.high))
        clipped = p.x0.clamp(low, high)
        return replace(p, x0=clipped) if self.keep else _with_image(p, x_t, clipped, self.schedule(t))


@dataclass(frozen=True, repr=False)
class Thresholded(ShortRepr):
    """Dynamic thresholding: clip and rescale clean images that exceed the range of pixels.

    Saharia et al. 2022, section 2.3. Pixels are first scaled so that `low` (black) is -1 and `high` (white)
    is 1 in each channel. Let s be the `quantile` of the absolute values of the scaled pixels of an image. If
    s is above 1, the scaled pixels of this image are clipped to [-s, s] and divided by s.
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
        """Return the prediction; see `Denoiser`."""
        p = self.inner(x_t, t)
        middle = ((self.low + self.high) / 2).reshape(-1, 1, 1).to(x_t)
        half = ((self.high - self.low) / 2).reshape(-1, 1, 1).to(x_t)
        unit = (p.x0 - middle) / half
        s = unit.abs().flatten(1).quantile(self.quantile, dim=1).clamp(min=1).reshape(-1, 1, 1, 1)
        shrunk = middle + half * (unit.clamp(-s, s) / s)
        return _with_image(p, x_t, shrunk, self.schedule(t))


def _with_image(p: Prediction, x_t: Tensor, x0: Tensor, at: Level) -> Prediction:
    """Return the prediction with another clean image x0; eps is recomputed from x_t and x0."""
    return replace(from_image(x_t, x0, at.over(x_t)), variance_mix=p.variance_mix)
