"""Frechet inception distance between Gaussians fitted to two sets of features (Heusel et al. 2017)."""

import math

import numpy as np
import torch
from torch import Tensor

from ddim.metrics.estimate import Estimate
from ddim.metrics.feature_blocks import read_blocks

_CUTS = 5  # FID-infinity is fitted to FID of the set cut into 1, 2 ... 5 equal parts
_GROUPS = 10  # the interval of FID-infinity comes from the spread over so many pairs of parts


def fid(generated: np.ndarray, reference: np.ndarray) -> float:
    """Return the FID of features (N, d) and (M, d) of at least 2 images each, computed in float64."""
    return _frechet(_gaussian(generated), _gaussian(reference))


def fid_infinity(generated: np.ndarray, reference: np.ndarray, *, seed: int = 0) -> Estimate:
    """Extrapolate FID to infinitely many generated images, with a 95 % confidence interval.

    The bias of FID is linear in 1 / N (Chong & Forsyth 2020). The generated images, shuffled by `seed`, are
    cut into 1, 2 ... 5 parts. A line in 1 / N is fitted to the mean FID of the parts, and evaluated at 1 / N
    = 0. With fewer images than dimensions the bias is not linear.

    The bias from the M reference images remains: value and interval are for this reference set, not for the
    distribution of its images. For the interval, both sets are cut into ten parts. The spread of FID over the
    ten pairs of parts gives the interval. This interval is too wide rather than too narrow.

    Args:
        generated: features (N, d) of at least 20 generated images.
        reference: features (M, d) of at least 20 reference images.
        seed: the seed of the shuffle.
    """
    draw = np.random.default_rng(seed)
    ours, theirs = draw.permutation(len(generated)), draw.permutation(len(reference))
    whole = _gaussian(reference)
    at, means = [], []
    for cuts in range(1, _CUTS + 1):
        parts = np.array_split(ours, cuts)
        means.append(np.mean([_frechet(_gaussian(generated[np.sort(part)]), whole) for part in parts]))
        at.append(cuts / len(generated))
    value = float(np.polyfit(at, means, 1)[1])
    pairs = zip(np.array_split(ours, _GROUPS), np.array_split(theirs, _GROUPS), strict=True)
    each = [fid(generated[np.sort(one)], reference[np.sort(other)]) for one, other in pairs]
    return Estimate.from_error(value, float(np.std(each, ddof=1)) / math.sqrt(_GROUPS), _GROUPS - 1)


def _gaussian(features: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the mean (d,) of features (N, d), and a root R (r, d) of their covariance R^T R.

    R is the triangular factor of a QR decomposition, computed block by block. The covariance itself is not
    computed, because its small eigenvalues would lose half of their digits.
    """
    mean = torch.stack([some.sum(0) for _, some in read_blocks(features)]).sum(0) / len(features)
    root = mean.new_zeros(0, len(mean))
    for _, some in read_blocks(features):
        root = torch.cat([root, some - mean])
        # A block adds few rows, and a QR decomposition is slow, so it is done only after several blocks.
        if len(root) > 2 * len(mean):
            root = torch.linalg.qr(root, mode="r").R
    if len(root) > len(mean):
        root = torch.linalg.qr(root, mode="r").R
    return mean, root / math.sqrt(len(features) - 1)


def _frechet(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """Return |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)) with C = R^T R (Dowson & Landau 1982).

    `one` and `other` are the pairs (m, R) that `_gaussian` returns. The eigenvalues of C1 C2 are the squared
    singular values of R1 R2^T, so no matrix root is needed.
    """
    (mean1, root1), (mean2, root2) = one, other
    cross = torch.linalg.svdvals(root1 @ root2.T).sum()
    return ((mean1 - mean2).square().sum() + root1.square().sum() + root2.square().sum() - 2 * cross).item()
