"""Denoising errors by noise level, and whether the predicted noise has the right size.

The optimal prediction of the noise, E[eps | x_t], is orthogonal to its own error at every noise level:
E[eps_hat . (eps - eps_hat)] = 0. The regression of eps on eps_hat then has slope 1. A slope below 1 means
that predictions are too large; a slope above 1 means that they are too small. Multiplied by the slope, the
predictions have the smallest squared error. All this holds for the squared error. A network that is trained
on the absolute error may have another slope, if the distribution of the noise given x_t is skewed.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddim.diffusion.denoiser import Denoiser
from ddim.diffusion.loss import denoising_error
from ddim.diffusion.noise import Noise
from ddim.metrics.statistics import Estimate, estimate_difference, estimate_mean, estimate_ratio


@dataclass(frozen=True)
class LevelErrors:
    """Errors of N images at L noise levels, (N, L) float64: means over pixels and channels, in model units.

    Args:
        log_snr: the log-SNR (L,) of the noise levels.
        noise_mse: squared error of the predicted noise eps_hat.
        noise_mae: absolute error of the predicted noise.
        image_mse: squared error of the predicted clean image.
        image_mae: absolute error of the predicted clean image.
        power: the square of the predicted noise, eps_hat^2.
        inner: the predicted noise times its error, eps_hat * (eps - eps_hat).
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
        """The slope (L,) of the regression of eps on eps_hat, through the origin; 1 for the optimum."""
        return estimate_ratio(self.power + self.inner, self.power)

    @property
    def residual(self) -> Estimate:
        """The mean (L,) of eps_hat * (eps - eps_hat) over images and pixels; 0 for the optimal denoiser."""
        return estimate_mean(self.inner)

    @property
    def miscalibrated(self) -> np.ndarray:
        """The share (L,) of the noise MSE that vanishes if eps_hat is multiplied by the slope."""
        return self.inner.mean(0) ** 2 / (self.power.mean(0) * self.noise_mse.mean(0))


@torch.no_grad()
def measure_errors(
    batches: Iterable[tuple[Denoiser, Tensor]],
    times: Tensor,
    seed: int = 0,
    precise: AbstractContextManager[object] | None = None,
) -> LevelErrors:
    """Return the denoising errors of images at each of the times (L,).

    Args:
        batches: pairs (denoiser, images). The images are (B, C, H, W) in model units, and the denoiser is
            conditioned on their labels.
        times: the times (L,).
        seed: image i gets the noise of seed `seed` + i, however the images are divided into batches.
        precise: a context manager that sets the precision of the network; None does not change it.
    """
    rows, levels, first = [], times, seed
    with precise or nullcontext():
        for denoise, x0 in batches:
            levels = denoise.schedule(times).log_snr
            noise = Noise(range(first, first + len(x0)))
            first += len(x0)
            found = [denoising_error(denoise, x0, t, noise.like(x0)) for t in times]
            rows.append(torch.stack([torch.stack([*error.values()]) for error in found], 2))
    return LevelErrors(levels.numpy(), *torch.cat(rows, 1).numpy())


@dataclass(frozen=True)
class Gap:
    """The noise MSE of other images divided by the noise MSE of training images, minus 1.

    A gap above 0 means that the network denoises other images worse than training images.

    Args:
        by_level: the gap at each noise level (L,).
        overall: the mean gap over the noise levels, a scalar.
        images: the numbers of training images and of other images.
    """

    by_level: Estimate
    overall: Estimate
    images: tuple[int, int]

    def conclude(self, equal: int = 0) -> str:
        """Return words that say whether errors on held-out images are larger than on training images.

        `equal` is the value that means equal errors in the caller's sentence: 0 for a gap, 1 for a ratio.
        """
        if self.overall.low > 0:
            return f"above {equal} by more than chance: the run memorises"
        if self.overall.high < 0:
            return (
                f"below {equal} by more than chance: the held-out images are easier than the training "
                "images, and no memorisation is seen"
            )
        return f"not distinguishable from {equal} at 95 %"


def measure_gap(train: LevelErrors, other: LevelErrors) -> Gap:
    """Return the noise MSE of other images divided by the noise MSE of training images, minus 1.

    The expected gap is about 0 without memorisation.
    """
    scale = train.noise_mse.mean(0)
    unseen = other.noise_mse / scale
    # Delta method: if the mean error on training images is wrong by a small fraction e, the ratio is wrong by
    # e times the ratio. `seen` has mean 1 and exactly this uncertainty, so the interval of the gap includes
    # the uncertainty of both means.
    seen = 1 + unseen.mean(0) * (train.noise_mse / scale - 1)
    return Gap(
        estimate_difference(estimate_mean(unseen), estimate_mean(seen)),
        estimate_difference(estimate_mean(unseen.mean(1)), estimate_mean(seen.mean(1))),
        (len(seen), len(unseen)),
    )
