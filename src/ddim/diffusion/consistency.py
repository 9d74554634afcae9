"""Consistency tuning: the loss with which a diffusion model learns to sample in one or two steps."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Real

import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.log_snr import Interval, find_ends
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.time_sampling import NormalLogSNR, TimeSampling
from ddim.errors import UserError, check_positive

WIDER, FASTER = 8.0, 0.5
"""The constants k and b of the paper. They make the gap, relative to tau, wider at low noise than at high.

At the lowest noise this relative gap is 1 + k / 2 times as wide as at the highest. The paper has b = 1 for
images with a standard deviation of 0.5, so b is 0.5 for a standard deviation of 1.
"""

SMOOTH = 1e-3
"""c of the pseudo-Huber distance, in standard deviations of the images: smaller errors count quadratically.

The paper has c = 0.06 for images of 64 pixels, and takes the norm over all their values. For the root mean
square, c is 0.06 / sqrt(3 * 64 * 64), which is about 1e-3 times the standard deviation of the images, 0.5.
"""


def paper_times(sigma_data: float = 1.0) -> NormalLogSNR:
    """Return the paper's distribution of training times, scaled to images with this standard deviation.

    In the paper, for images of 64 pixels with standard deviation 0.5, log sigma is normal with mean -0.8 and
    standard deviation 1.6.
    """
    return NormalLogSNR(round(1.6 - 2 * math.log(sigma_data / 0.5), 4), 3.2)


@dataclass(frozen=True)
class Consistency:
    """Easy consistency tuning: predict the same image from two noise levels (Geng et al. 2024).

    The consistency function f(x_t, t) is the image x0 at the end of the probability flow through x_t. Here f
    is the predicted image of the denoiser. The loss compares f at two noise levels, r < t, with the same
    image, noise and dropout:

        x_t = alpha_t x0 + sigma_t eps,  x_r = alpha_r x0 + sigma_r eps,
        loss = d(f(x_t, t), stopgrad f(x_r, r)) / (tau_t - tau_r),  tau = sigma / alpha.

    d is a pseudo-Huber distance, sqrt(mean squared error + c^2) - c. At tau_r = 0 the target is x0 itself,
    and the loss is that of a diffusion model: the error of the predicted noise. Training starts at tau_r = 0,
    from the weights of a diffusion model. The gap between t and r then shrinks:

        tau_r = max(0, 1 - (1 + 8 sigmoid(-tau_t / (2 sigma_data))) / 2^(halvings * progress)) tau_t.

    `progress` grows from 0 at the start of training to 1 at its end. The paper halves the gap in stages; here
    it shrinks continuously.

    A consistency function has a boundary condition: an image without noise is mapped to itself. But the
    cleanest noise level of a schedule may still have noise. If tau_r is below the tau of this level, tau_r
    counts as 0 and the target is the clean image x0. So the network is never evaluated at less noise than the
    schedule has. With recipe `fast` the cleanest level has tau = 0.01 (log-SNR 9.2). The network of this
    recipe predicts the velocity v. At the cleanest level, x0 = alpha x_t - sigma v differs from x_t by about
    0.01.

    With a `guidance` scale other than 1, f belongs to the probability flow of the guided teacher. Training
    then passes the images and the noise of `ddim.diffusion.guidance.Guided.move` to this loss.

    Attributes:
        times: the distribution from which training times are drawn. See `paper_times`.
        halvings: how often the gap halves during training.
        sigma_data: standard deviation of the training images in model units; None for that of the field
            `pixels` of a recipe, or 1 if it is not known.
        guidance: guidance scale of the teacher, the run from whose weights the student starts; 1 is off.
        interval: the lowest and the highest log-SNR with guidance, of which one may be None, an open end;
            None in place of both for all noise levels.
        guide: the weaker model, with the network of the teacher, such as "@guide"; None for the teacher
            without its label.
    """

    times: TimeSampling = paper_times()
    halvings: float = 8.0
    sigma_data: float | None = None
    guidance: float = 1.0
    interval: Interval | None = None
    guide: str | None = None

    needs_variance = False

    def __post_init__(self) -> None:
        check_positive("objective", halvings=self.halvings)
        if self.sigma_data is not None:
            check_positive("objective", sigma_data=self.sigma_data)
        if not isinstance(self.guidance, Real) or not 0 <= self.guidance < math.inf:
            raise UserError(f"objective.guidance must be at least 0 and finite, got {self.guidance!r}")
        low, high = self.limits
        if not low < high:
            raise UserError(f"objective.interval must have its lower end first, got {self.interval}")

    @property
    def limits(self) -> tuple[float, float]:
        """The ends of `interval` as numbers; an open end is infinite."""
        return find_ends(self.interval, "objective.interval")

    def at(self, progress: float, seen: int) -> partial[Tensor]:
        """Return the loss at this progress of training; `seen` is not used; see `Loss`."""
        return partial(self._compare, 0.5 ** (self.halvings * progress))

    def __call__(
        self, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, pixels: Pixels | None = None
    ) -> Tensor:
        """Return the loss (B,) at the start of training, a diffusion loss; see `Loss`."""
        return self.at(0.0, 0)(denoise, x0, t, eps, pixels)

    def earlier(self, tau: Tensor, gap: float) -> Tensor:
        """Return tau_r of the noise levels tau_t (B,); `gap` is 2^(-halvings * progress)."""
        share = gap * (1 + WIDER * torch.sigmoid(-FASTER * tau / (self.sigma_data or 1.0)))
        return tau * (1 - share).clamp(min=0)

    def _compare(
        self, gap: float, denoise: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, pixels: Pixels | None
    ) -> Tensor:
        level = denoise.schedule(t)
        tau = level.noise_to_signal
        wanted = self.earlier(tau, gap)
        cleanest = denoise.schedule(torch.zeros_like(tau)).noise_to_signal
        clean = wanted <= cleanest
        target = x0
        # At the start of training, gap is 1 and every tau_r is 0. All targets are then x0, without a network.
        if gap < 1:
            # Images whose target is x0 are evaluated too, at their time t. These outputs are not used.
            r = torch.where(clean, t, denoise.schedule.inverse(-2 * torch.where(clean, tau, wanted).log()))
            with torch.no_grad(), same_dropout(x0):
                target = denoise(denoise.schedule(r).noisy(x0, eps), r).x0
            target = torch.where(clean.to(x0.device).reshape(-1, 1, 1, 1), x0, target)
        found = denoise(level.noisy(x0, eps), t).x0
        c = SMOOTH * (self.sigma_data or 1.0)
        distance = ((found - target).square().flatten(1).mean(1) + c**2).sqrt() - c
        return distance / (tau - torch.where(clean, 0, wanted)).to(x0)


@contextmanager
def same_dropout(x: Tensor) -> Generator[None]:
    """Restore the state of torch's global generators after the block, on the CPU and on the device of x.

    Dropout after the block then draws the same masks as inside it.
    """
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        yield
