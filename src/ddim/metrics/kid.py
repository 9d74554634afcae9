"""Kernel inception distance: an unbiased MMD^2 between two sets of features (Binkowski et al. 2018)."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddim.metrics.estimate import Estimate
from ddim.metrics.feature_blocks import read_blocks


@dataclass(frozen=True)
class KID(Estimate):
    """KID of all images, an unbiased MMD^2 that may be negative, and KID of random subsets as in the paper.

    Attributes:
        mean: the mean over random subsets.
        std: the standard deviation over random subsets; it is not the uncertainty of `value`.
        subsets: the number of random subsets.
        size: the number of images that a subset takes from each set.
    """

    mean: float
    std: float
    subsets: int
    size: int


def kid(
    generated: np.ndarray, reference: np.ndarray, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> KID:
    """Return the KID of two sets of features, with an interval, and the mean KID of random subsets.

    KID is MMD^2 (eq. 4) with kernel (x.y / d + 1)^3, in float64. The kernel of each pair of sets is computed
    once. The confidence interval is computed by the jackknife, which leaves out every image of both sets in
    turn (Arvesen 1969). The bootstrap would be biased away from 0: it draws images twice, and the kernel of
    an image with itself is large.

    Args:
        generated: features (N, d) of at least 3 generated images.
        reference: features (M, d) of at least 3 reference images.
        subsets: the number of random subsets.
        size: the number of images that a subset takes from each set, limited to the size of the smaller set.
        seed: the seed of the subsets, which are the same subsets as in torch-fidelity.
    """
    n, m = len(generated), len(reference)
    size = min(size, n, m)
    draw = np.random.RandomState(seed)
    ours = torch.zeros(subsets, n, dtype=torch.float64, device="cpu")
    theirs = torch.zeros(subsets, m, dtype=torch.float64, device="cpu")
    for one, other in zip(ours, theirs, strict=True):
        one[torch.from_numpy(draw.choice(n, size, replace=False))] = 1
        other[torch.from_numpy(draw.choice(m, size, replace=False))] = 1
    xx, _, in_xx = _sum_kernel(generated, None, ours, ours)
    yy, _, in_yy = _sum_kernel(reference, None, theirs, theirs)
    xy, yx, in_xy = _sum_kernel(generated, reference, ours, theirs)
    value = _mmd2(xx.sum(), n, yy.sum(), m, xy.sum()).item()
    error = _jackknife_error(*_left_out(xx, yy, xy, yx))
    each = _mmd2(in_xx, size, in_yy, size, in_xy)
    mean, std = each.mean().item(), each.std(correction=0).item()
    return KID.from_error(value, error, mean=mean, std=std, subsets=subsets, size=size)


def kid_difference(one: np.ndarray, other: np.ndarray, reference: np.ndarray, *, paired: bool) -> Estimate:
    """Return the KID of one set minus the KID of another set, against the same reference.

    The 95 % confidence interval is computed by the jackknife, as in `kid`. A reference image is left out of
    both values together. In `paired` sets, row k is left out of both sets together. So the variation that
    both values have in common cancels.

    Args:
        one: features (N, d) of the first set.
        other: features (M, d) of the second set, with M = N if `paired`.
        reference: features (R, d) of the reference images.
        paired: whether row k of both sets was sampled with the same seed.
    """
    terms = []
    for x in (one, other):
        (xx, _, _), (xy, yx, _) = _sum_kernel(x), _sum_kernel(x, reference)
        # The pairs within the reference contribute equally to both values, and cancel: use 0 for their sums.
        yy = torch.zeros_like(yx)
        terms.append((_mmd2(xx.sum(), len(xx), yy.sum(), len(yy), xy.sum()), *_left_out(xx, yy, xy, yx)))
    (value, without, apart), (value_2, without_2, apart_2) = terms
    left_out = [without - without_2] if paired else [without, without_2]
    return Estimate.from_error((value - value_2).item(), _jackknife_error(*left_out, apart - apart_2))


def _mmd2(xx: Tensor, n: int, yy: Tensor, m: int, xy: Tensor) -> Tensor:
    """Return the unbiased estimate of MMD^2 (Gretton et al. 2012, eq. 3) from sums of the kernel over pairs.

    `xx` is the sum over the n (n - 1) ordered pairs of different x. `yy` is the same for the m (m - 1) pairs
    of y, and `xy` is the sum over all n m pairs of x and y.
    """
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


def _left_out(xx: Tensor, yy: Tensor, xy: Tensor, yx: Tensor) -> tuple[Tensor, Tensor]:
    """Return the estimates of MMD^2 without each x (n,), and without each y (m,), from sums of the kernel.

    Args:
        xx: (n,) for each x, the sum of the kernel with all other x.
        yy: (m,) for each y, the sum of the kernel with all other y.
        xy: (n,) for each x, the sum of the kernel with all y.
        yx: (m,) for each y, the sum of the kernel with all x.
    """
    n, m = len(xx), len(yy)
    # Without one image, the sum over pairs loses its row and its column.
    without_x = _mmd2(xx.sum() - 2 * xx, n - 1, yy.sum(), m, xy.sum() - xy)
    without_y = _mmd2(xx.sum(), n, yy.sum() - 2 * yy, m - 1, xy.sum() - yx)
    return without_x, without_y


def _jackknife_error(*left_out: Tensor) -> float:
    """Return the standard error of a value, from the values without each image of each set."""
    return math.sqrt(sum((len(left) - 1) * left.var(correction=0) for left in left_out))


def _sum_kernel(
    x: np.ndarray, y: np.ndarray | None = None, of_x: Tensor | None = None, of_y: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the kernel k(x, y) = (x.y / d + 1)^3 over rows, columns and submatrices of the matrix of all pairs.

    Args:
        x: (n, d).
        y: (m, d); None for x itself, and a row of x is then not paired with itself.
        of_x: (S, n) ones for the rows of each submatrix, zeros elsewhere; None for no submatrices.
        of_y: (S, m) ones for the columns of each submatrix, zeros elsewhere; None for no submatrices.

    Returns:
        The sums over each row (n,), over each column (m,) and over each submatrix (S,).
    """
    other = x if y is None else y
    over_rows = torch.zeros(len(x), dtype=torch.float64, device="cpu")
    over_columns = torch.zeros(len(other), dtype=torch.float64, device="cpu")
    inside = torch.zeros(0 if of_x is None else len(of_x), dtype=torch.float64, device="cpu")
    for rows, some_x in read_blocks(x):
        for columns, some_y in read_blocks(other):
            k = (some_x @ some_y.T / some_x.shape[1] + 1).pow(3)
            if y is None and rows == columns:
                k.fill_diagonal_(0)
            over_rows[rows] += k.sum(1)
            over_columns[columns] += k.sum(0)
            if of_x is not None and of_y is not None:
                inside += (of_x[:, rows] @ k * of_y[:, columns]).sum(1)
    return over_rows, over_columns, inside
