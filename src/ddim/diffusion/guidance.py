"""Denoisers that wrap other denoisers: guidance, clipping, another noise schedule.

Samplers treat them like any denoiser. Their predictions satisfy x_t = alpha * x0 + sigma * eps, except the
predictions of `Clipped` with `keep`.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Counted, Denoiser, Labelled
from ddim.diffusion.parameterisation import Prediction, from_image
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Level, Number, Schedule, as_double, copy_to_device, spread_over
from ddim.errors import UserError

Interval = tuple[float | None, float | None]
"""The lowest and the highest log-SNR of a range of noise levels; None is an open end."""


@dataclass(frozen=True)
class Guided:
    """Guidance: predict the clean image weak + scale * (strong - weak) from two denoisers.

    In classifier-free guidance, `strong` is a model with a class label, and `weak` is the same model without
    a class label (Ho & Salimans 2022, eq. 6; their w is scale - 1). The model then evaluates both in one
    batch. In autoguidance, `weak` is a smaller or less trained model (Karras et al. 2024, eq. 5). `interval`
    limits guidance to a range of log-SNR (Kynkäänniemi et al. 2024). Outside this interval, and at
    scale 1, a call evaluates only `strong`. Each call asks for the noise level: with a sampler that evaluates
    the network twice in a step, one of both evaluations can be guided and the other not.
    """

    strong: Denoiser
    weak: Denoiser
    scale: float
    interval: Interval | None = None

    @property
    def schedule(self) -> Schedule:
        """The schedule of both denoisers."""
        return self.strong.schedule

    def __call__(self, x_t: Tensor, t: Number) -> Prediction:
        """Return the guided prediction at times t, () or (B,); see `Denoiser`."""
        at = self.schedule(t)
        inside = lies_inside(at.log_snr, self.interval)
        if self.scale == 1 or not inside.any():
            return self.strong(x_t, t)
        strong, weak = predict_both(self.strong, self.weak, x_t, t)
        scale = self.scale
        if inside.ndim:
            scale = spread_over(torch.where(inside, scale, 1.0), x_t)
        return with_image(strong, x_t, torch.lerp(weak.x0, strong.x0, scale), at)

    def move(self, x0: Tensor, t: Tensor, eps: Tensor, exact: bool = False) -> tuple[Tensor, Tensor]:
        """Return other images and other noise with the same x_t, from which a network learns guidance.

        Many images fit x_t, and x0 is one of them. A well trained `strong` predicts their mean. Guidance
        changes this prediction by d = (scale - 1) * (strong - weak). So the mean of x0 + d is the guided
        prediction. The noise becomes eps - alpha / sigma * d, so that x_t stays the same.

        Args:
            x0: training images (B, C, H, W) in model units.
            t: times (B,). Images at times outside the interval are not guided.
            eps: noise (B, C, H, W).
            exact: whether to return the guided prediction itself, in place of images with this mean.
        """
        level = self.schedule(t)
        x_t = level.noisy(x0, eps)
        strong = self.strong(x_t, t).x0
        moved = strong if exact else x0
        if self.scale != 1:
            change = (self.scale - 1) * (strong - self.weak(x_t, t).x0)
            inside = lies_inside(level.log_snr, self.interval)
            moved = moved + torch.where(inside.reshape(-1, 1, 1, 1).to(x0.device), change, 0)
        at = level.over(x0)
        return moved, eps - at.alpha / at.sigma * (moved - x0)


def predict_both(strong: Denoiser, weak: Denoiser, x_t: Tensor, t: Number) -> tuple[Prediction, Prediction]:
    """Return the predictions of two denoisers; one model with and without a label runs on one batch.

    Args:
        strong: a denoiser, such as a model with a class label, but without augmentation labels.
        weak: another denoiser, such as the same model without a label.
        x_t: noisy images (B, C, H, W).
        t: times, () or (B,).
    """
    counters = [denoise for denoise in (strong, weak) if isinstance(denoise, Counted)]
    one, other = (denoise.inner if isinstance(denoise, Counted) else denoise for denoise in (strong, weak))
    if not isinstance(one, Labelled) or one.model is not other or one.label is None:
        return strong(x_t, t), weak(x_t, t)
    for counter in counters:
        counter.count()
    label = one.label.expand(len(x_t)) if one.label.ndim == 0 else one.label
    none = torch.full_like(label, math.nan if one.model.vector else -1)
    t = as_double(t)
    twice = t if t.ndim == 0 else torch.cat([t, t])
    p = one.model(torch.cat([x_t, x_t]), twice, torch.cat([label, none]), one.augment)
    mixes = (None, None) if p.variance_mix is None else p.variance_mix.chunk(2)
    first, second = map(Prediction, p.x0.chunk(2), p.eps.chunk(2), mixes)
    return first, second


@dataclass(frozen=True)
class Rescheduled:
    """A denoiser whose noise `schedule` differs from the training schedule of its model.

    The inner denoiser is evaluated at the same log-SNR, which its own schedule has at a time other than t.
    x_t is first multiplied by the ratio of the two alphas; its x0 and eps stay the same. `check_reach` says
    whether the inner schedule has the noise levels of a grid.
    """

    inner: Denoiser
    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Number) -> Prediction:
        at, inner = self.schedule(t), self.inner.schedule
        time = inner.inverse(at.log_snr)
        p = self.inner(spread_over(inner(time).alpha / at.alpha, x_t) * x_t, time)
        # If the inner schedule is a table, its noise level at `time` may differ slightly from `at`. eps is
        # therefore recomputed, so that x_t = alpha * x0 + sigma * eps holds at `at`.
        return with_image(p, x_t, p.x0, at)


@dataclass(frozen=True)
class Clipped:
    """Static thresholding: clip the clean image to [black, white] (Saharia et al. 2022, section 2.3).

    eps is recomputed from x_t and the clipped image. With `keep`, eps stays as predicted, as with diffusers'
    clip_sample; then x_t is no longer alpha * x0 + sigma * eps.
    """

    inner: Denoiser
    pixels: Pixels
    keep: bool = False

    @property
    def schedule(self) -> Schedule:
        """The schedule of the inner denoiser."""
        return self.inner.schedule

    def __call__(self, x_t: Tensor, t: Number) -> Prediction:
        p = self.inner(x_t, t)
        bounds = copy_to_device(self.pixels, "bounds", x_t.device, x_t.dtype)
        black, white = bounds.reshape(2, -1, 1, 1)
        clipped = p.x0.clamp(black, white)
        if self.keep:
            return replace(p, x0=clipped)
        return with_image(p, x_t, clipped, self.schedule(t))


_NEAR = 1e-6
"""Log-SNRs that differ by less than this are treated as equal."""


def lies_inside(log_snr: Tensor, interval: Interval | None) -> Tensor:
    """Return whether log-SNRs, () or (B,), lie in an interval, including both ends; see `find_ends`."""
    low, high = find_ends(interval)
    return (low - _NEAR <= log_snr) & (log_snr <= high + _NEAR)


def find_ends(interval: Interval | None) -> tuple[float, float]:
    """Return the ends of an interval as numbers; an open end is infinite, and None holds all noise levels."""
    low, high = interval or (None, None)
    return -math.inf if low is None else low, math.inf if high is None else high


def check_reach(schedule: Schedule, at: Level, what: str = "sampled_on", model: str = "the model") -> None:
    """Check that the noise levels of a grid lie within the range of a model's training schedule.

    Args:
        schedule: the training schedule of the model.
        at: the noise levels, scalar or (N,).
        what: the option that leads to these noise levels, for the message.
        model: the model, for the message.

    Raises:
        UserError: if a noise level is outside the range of `schedule`.
    """
    clean, noisy = schedule(torch.tensor([0.0, 1.0], device="cpu")).log_snr.tolist()
    if at.log_snr.min() < noisy - _NEAR or at.log_snr.max() > clean + _NEAR:
        levels = f"{noisy:.2f} to {clean:.2f}, got {at.log_snr.min():.2f} to {at.log_snr.max():.2f}"
        raise UserError(f"{what} must lead to noise levels on which {model} is trained, log-SNR {levels}")


def with_image(p: Prediction, x_t: Tensor, x0: Tensor, at: Level) -> Prediction:
    """Return the prediction with another clean image x0; eps is recomputed from x_t and x0."""
    return replace(from_image(x_t, x0, at.over(x_t)), variance_mix=p.variance_mix)
