"""The range of noise levels that a data set needs.

At the noisiest noise level, images cannot be distinguished from noise. At the cleanest noise level, the noise
is as small as the rounding of pixel values. All values are log-SNR, for images in model units. A network
learns nothing at noise levels outside this range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import root_scalar
from torch import Tensor

from ddim.data.values import Values
from ddim.diffusion.schedules import variance_preserving

DISTINGUISHABLE = 0.02
"""Divergence in nats below which noisy images count as noise.

By Pinsker's inequality, a test on one image is then right at most 55 % of the time.
"""

EXTREME = 40.0
"""The log-SNR of the noisiest noise level is searched between -40 and 40."""


@dataclass(frozen=True)
class NoiseRange:
    """The log-SNR of the noisiest and of the cleanest useful noise level.

    Args:
        noisiest: the log-SNR below which no test distinguishes noisy images from pure noise.
        distance: the log-SNR at which sigma / alpha is the largest distance between two images, a cautious
            alternative to `noisiest` (Song & Ermon 2020, technique 1).
        cleanest: the log-SNR above which the noise is finer than the rounding of pixel values; None for
            floats, which are not rounded.
    """

    noisiest: float
    distance: float
    cleanest: float | None


def find_noise_range(images: Tensor, stds: Sequence[float], values: Values) -> NoiseRange:
    """Return the range of noise levels that images need.

    Args:
        images: (N, C, H, W) in model units.
        stds: the standard deviation of each channel, of values in [0, 1].
        values: the type and range of the pixels; rounding gives integers a cleanest level, and floats none.
    """
    rows = images.flatten(1).double()
    spectrum, square = covariance_spectrum(rows)

    def excess(log_snr: float) -> float:
        return divergence_from_noise(log_snr, spectrum, square, rows.shape[1]) - DISTINGUISHABLE

    farthest = torch.cdist(rows, rows).max().item()
    # Rounding to steps of size q adds noise with standard deviation q / sqrt(12). Model units divide this by
    # the standard deviation of the channel, so the channel with the largest one has the finest noise.
    step = 1 / (values.high - values.low)
    cleanest = None if values.type == "float32" else -2 * math.log(step / math.sqrt(12) / max(stds))
    if excess(-EXTREME) > 0:
        noisiest = -EXTREME
    elif excess(EXTREME) < 0:
        noisiest = EXTREME
    else:
        noisiest = root_scalar(excess, bracket=(-EXTREME, EXTREME), method="brentq").root
    return NoiseRange(noisiest, -2 * math.log(max(farthest, 1e-12)), cleanest)


def covariance_spectrum(rows: Tensor) -> tuple[Tensor, float]:
    """Return the min(N, d) largest eigenvalues of the covariance of rows (N, d), ascending, and |mean|^2."""
    mean = rows.mean(0)
    away = rows - mean
    # The N x N matrix of inner products has the same nonzero eigenvalues as the d x d covariance.
    spectrum = torch.linalg.eigvalsh(away @ away.T / (len(rows) - 1)).clamp(min=0)
    return spectrum[-rows.shape[1] :], mean.square().sum().item()


def divergence_from_noise(log_snr: float, spectrum: Tensor, square: float, dimensions: int) -> float:
    """Return KL(noisy images || noise) in nats; the noisy images are approximated by a Gaussian.

    The noise is N(0, alpha^2 + sigma^2), from which sampling starts.

    Args:
        log_snr: the log-SNR of the noisy images.
        spectrum: eigenvalues of the covariance of the clean images; the missing eigenvalues are 0.
        square: the squared norm of the mean of the clean images.
        dimensions: number of values in an image.
    """
    at = variance_preserving(torch.tensor(log_snr))
    total = torch.cat([spectrum, spectrum.new_zeros(dimensions - len(spectrum))])
    # These are the variances alpha^2 lambda + sigma^2, minus the variance of the noise, which is 1.
    excess = at.alpha**2 * (total - 1)
    return 0.5 * ((excess - excess.log1p()).sum() + at.alpha**2 * square).item()
