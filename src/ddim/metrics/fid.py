"""Frechet inception distance between Gaussians fitted to two sets of features (Heusel et al. 2017)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ddim.metrics.blocks import check_features, read_blocks

_CUTS = 5  # the smallest subsets of FID infinity are a fifth of the set
_GROUPS, _STUDENT_95 = 10, 2.262157  # and the quantile of Student's t with 9 degrees of freedom


def fid(generated: np.ndarray, reference: np.ndarray) -> float:
    """FID of (N, d) and (M, d) features, in float64. UserError for fewer than 2 images on a side."""
    check_features("FID", generated, reference, 2)
    return _frechet(_gaussian(generated), _gaussian(reference))


def fid_infinity(
    generated: np.ndarray, reference: np.ndarray, *, seed: int = 0
) -> tuple[float, float, float]:
    """(value, low, high): FID as it would be with infinitely many generated images, and its 95 % interval.

    The bias of FID is linear in 1 / N (Chong & Forsyth 2020): the generated images, shuffled by `seed`, are
    cut into 1, 2 ... 5 parts, the mean FID of the parts is fitted by a line in 1 / N, and its value is where
    the line meets 0. The bias of M reference images remains: value and interval are about FID against this
    reference, not against what it was drawn from. Where a part or the reference has fewer images than
    dimensions the bias is no line yet (see `caution`). The interval is from how FID varies over ten pairs of
    disjoint tenths of both sets, and so rather too wide. UserError for fewer than 20 images on a side.
    """
    check_features("FID infinity", generated, reference, 2 * _GROUPS)
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
    radius = _STUDENT_95 * float(np.std(each, ddof=1)) / math.sqrt(_GROUPS)
    return value, value - radius, value + radius


def explain_fid_bias(generated: int, reference: int, dimensions: int) -> str | None:
    """What to say of an FID of so many images on each side, or None where they are enough.

    A covariance of d dimensions has full rank from d + 1 images; with fewer FID says more of their number
    than of their looks.
    """
    least = min(generated, reference)
    if least > dimensions:
        return None
    return (
        f"FID of {least} images in {dimensions} dimensions is mostly bias, which FID infinity cannot take "
        "off: compare it only with FID of as many images, or look at KID, which has none"
    )


def _gaussian(features: np.ndarray) -> tuple[Tensor, Tensor]:
    """The mean (d,) of (N, d) features and a root R (r, d) of their covariance: R^T R, r <= min(N, d).

    The root is the triangle of a QR decomposition, built block by block; a covariance is never squared out,
    which would halve the digits of its small eigenvalues.
    """
    mean = torch.stack([some.sum(0) for _, some in read_blocks(features)]).sum(0) / len(features)
    root = mean.new_zeros(0, len(mean))
    for _, some in read_blocks(features):
        root = torch.cat([root, some - mean])
        # Not at each block: the triangle would be done again for few new rows.
        if len(root) > 2 * len(mean):
            root = torch.linalg.qr(root, mode="r").R
    if len(root) > len(mean):
        root = torch.linalg.qr(root, mode="r").R
    return mean, root / math.sqrt(len(features) - 1)


def _frechet(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)) (Dowson & Landau 1982), C = R^T R.

    The eigenvalues of C1 C2 are the squared singular values of R1 R2^T: no root of a matrix is taken.
    """
    (mean1, root1), (mean2, root2) = one, other
    cross = torch.linalg.svdvals(root1 @ root2.T).sum()
    return ((mean1 - mean2).square().sum() + root1.square().sum() + root2.square().sum() - 2 * cross).item()
