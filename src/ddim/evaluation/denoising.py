"""How well a denoiser does at each level of noise, and whether its predictions have the size they should.

The optimal prediction of the noise, E[eps | x_t], is orthogonal to its own error at every level:
E[eps_hat . (eps - eps_hat)] = 0, so that the regression of eps on eps_hat has slope 1. A slope below 1 says
that predictions are too large, above 1 that they are too small; to multiply them by it is the best that
scaling alone can do. The optimum is that of the squared error: a network trained on the absolute one may
differ where the law of the noise given x_t is skewed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.denoising_error import denoising_error
from ddim.diffusion.noise import Noise
from ddim.metrics.statistics import Estimate, estimate_difference, estimate_mean, estimate_ratio


@dataclass(frozen=True)
class Errors:
    """Of N images at L levels, means over each image's numbers in model units, (N, L) float64.

    `power` is that of eps_hat^2, `inner` that of eps_hat * (eps - eps_hat). `log_snr` (L,) are the levels.
    """

    log_snr: np.ndarray
    noise_mse: np.ndarray
    noise_mae: np.ndarray
    image_mse: np.ndarray
    image_mae: np.ndarray
    power: np.ndarray
    inner: np.ndarray

    @property
    def slope(self) -> Estimate:
        """(L,) of the regression of eps on eps_hat, through the origin; 1 for the optimal denoiser."""
        return estimate_ratio(self.power + self.inner, self.power)

    @property
    def residual(self) -> Estimate:
        """(L,) E[eps_hat . (eps - eps_hat)], a number of an image; 0 for the optimal denoiser."""
        return estimate_mean(self.inner)

    @property
    def miscalibrated(self) -> np.ndarray:
        """(L,) the share of the noise MSE that multiplying eps_hat by the slope would take away."""
        return self.inner.mean(0) ** 2 / (self.power.mean(0) * self.noise_mse.mean(0))


@torch.no_grad()
def measure(
    denoise: Denoiser,
    batches: Iterable[Tensor],
    times: Tensor,
    seed: int = 0,
    precise: AbstractContextManager[object] | None = None,
) -> Errors:
    """Errors on batches (B, C, H, W) of images in model units, at each of the times (L,).

    Image i is noised by the stream of seed + i, in whatever batches it comes. The network is asked within
    `precise`.
    """
    rows, first = [], seed
    with precise or nullcontext():
        for x0 in batches:
            noise = Noise(range(first, first + len(x0)))
            first += len(x0)
            found = [denoising_error(denoise, x0, t, noise.like(x0)) for t in times]
            rows.append(torch.stack([torch.stack([*vars(error).values()]) for error in found], 2))
    return Errors(denoise.schedule(times).log_snr.numpy(), *torch.cat(rows, 1).numpy())


def together(parts: Sequence[Errors]) -> Errors:
    """The errors of several sets of images, at the same levels, as of one set."""
    names = [field.name for field in fields(Errors) if field.name != "log_snr"]
    return Errors(parts[0].log_snr, *(np.concatenate([getattr(p, name) for p in parts]) for name in names))


@dataclass(frozen=True)
class Gap:
    """How much worse other images are denoised than those of training, as a part of the latter's error.

    `by_level` (L,), and their mean over the levels, `overall` (); of so many `images` of training and others.
    """

    by_level: Estimate
    overall: Estimate
    images: tuple[int, int]


def gap(train: Errors, other: Errors) -> Gap:
    """The noise MSE of other images over that of training images, less 1: 0 unless training memorises."""
    scale = train.noise_mse.mean(0)
    unseen = other.noise_mse / scale
    # To first order an error of the scale moves the ratio by as many times as it is great.
    seen = 1 + unseen.mean(0) * (train.noise_mse / scale - 1)
    return Gap(
        estimate_difference(estimate_mean(unseen), estimate_mean(seen)),
        estimate_difference(estimate_mean(unseen.mean(1)), estimate_mean(seen.mean(1))),
        (len(seen), len(unseen)),
    )
