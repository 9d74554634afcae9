"""Which levels of noise a data set asks for: from where it cannot be told from noise to where it is exact.

All in log-SNR, for images in model units; the levels of a schedule that lie outside teach a network nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddim.diffusion.schedules import variance_preserving

TOLD_APART = 0.02
"""Nats of divergence: by Pinsker's inequality no test of one image then is right above 55 % of the time."""


@dataclass(frozen=True)
class Bounds:
    """Log-SNR of the noisiest and of the cleanest level that are of use.

    `noisiest`: below, no test tells noised images from pure noise; `distance`: sigma / alpha is the largest
    distance of two images (Song & Ermon 2020, technique 1), a cautious bound; `cleanest`: above, noise is
    finer than the rounding of 8 bits.
    """

    noisiest: float
    distance: float
    cleanest: float


def bounds(images: Tensor, stds: Sequence[float]) -> Bounds:
    """From images (N, C, H, W) in model units, and the deviation of each channel of images in [0, 1]."""
    rows = images.flatten(1).double()
    spectrum, square = moments(rows)
    noisiest = _falls_to(TOLD_APART, lambda level: divergence(level, spectrum, square, rows.shape[1]))
    farthest = torch.cdist(rows, rows).max().item()
    # Rounding to steps q is noise of deviation q / sqrt(12); in the channel where it is finest.
    rounding = 1 / 255 / math.sqrt(12) / max(stds)
    return Bounds(noisiest, -2 * math.log(max(farthest, 1e-12)), -2 * math.log(rounding))


def moments(rows: Tensor) -> tuple[Tensor, float]:
    """(N, d) -> the eigenvalues of their covariance, the largest min(N, d) of them, growing; |mean|^2."""
    mean = rows.mean(0)
    away = rows - mean
    # Of N images the N x N matrix of inner products has the same eigenvalues as the d x d covariance.
    spectrum = torch.linalg.eigvalsh(away @ away.T / (len(rows) - 1)).clamp(min=0)
    return spectrum[-rows.shape[1] :], mean.square().sum().item()


def divergence(log_snr: float, spectrum: Tensor, square: float, dimensions: int) -> float:
    """KL(noised images || the noise that runs start from) in nats, both taken as Gaussian.

    The images have a covariance of these eigenvalues, the rest of `dimensions` being 0, and a mean of this
    squared length; a run starts from N(0, alpha^2 + sigma^2).
    """
    at = variance_preserving(torch.tensor(log_snr))
    total = torch.cat([spectrum, spectrum.new_zeros(dimensions - len(spectrum))])
    # Variances over that of the start, which is 1: alpha^2 lambda + sigma^2.
    excess = at.alpha**2 * (total - 1)
    return 0.5 * ((excess - excess.log1p()).sum() + at.alpha**2 * square).item()


def _falls_to(least: float, rising: Callable[[float], float]) -> float:
    """Where a rising function of the log-SNR is `least`, within [-40, 40]."""
    low, high = -40.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < least else (low, middle)
    return low
