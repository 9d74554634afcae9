"""The gradient noise scale: from which batch a larger one buys little (McCandlish et al. 2018, eq. 2.9)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ddim.metrics.statistics import NORMAL_95


@dataclass(frozen=True)
class NoiseScale:
    """tr(Sigma) / |G|^2 in images, with its 95 % interval; infinite where no gradient shows above the noise.

    `signal` estimates |G|^2, `noise` the trace of the covariance of a batch's gradient times its images, both
    without bias. That is tr(Sigma) of a single image where those of a batch are independent; times that are
    drawn one in each equal slice take off what differs between times, in training as here.
    """

    value: float
    low: float
    high: float
    signal: float
    noise: float


def noise_scale(gradients: Tensor, batch: int) -> NoiseScale:
    """From the gradients (K, P) of K batches of `batch` images, K at least 3, independent of one another.

    Within a batch nothing need be independent. The squared norms of these gradients and of their mean give
    estimates without bias (appendix A.1). The interval is the jackknife's over batches, of 1 / scale: the
    scale itself has no finite spread where the signal may be 0.
    """
    # Of all that follows the inner products are enough; each batch can then be left out for nothing.
    gram = (gradients @ gradients.T).double()
    own, all_of_it, count = gram.diagonal(), gram.sum(), len(gram)
    signal, noise = _moments(own.sum(), all_of_it, count, batch)
    without = own.sum() - own, all_of_it - 2 * gram.sum(1) + own
    left_signal, left_noise = _moments(*without, count - 1, batch)
    error = ((count - 1) * (left_signal / left_noise).var(unbiased=False)).sqrt()
    inverse = signal / noise
    value, low, high = (
        1 / part.item() if part > 0 else math.inf
        for part in (inverse, inverse + NORMAL_95 * error, inverse - NORMAL_95 * error)
    )
    return NoiseScale(value, low, high, signal.item(), noise.item())


def _moments(own: Tensor, all_of_it: Tensor, count: int, batch: int) -> tuple[Tensor, Tensor]:
    """|G|^2 and tr(Sigma), from `count` gradients' summed products with themselves, and with all."""
    small, large = own / count, all_of_it / count**2
    return (count * large - small) / (count - 1), batch * (small - large) * count / (count - 1)
