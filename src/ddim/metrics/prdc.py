"""Precision, recall, density and coverage: the quality and the diversity of samples as separate numbers."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddim.metrics.feature_blocks import read_blocks

# If |x|^2 + |y|^2 - 2 x.y is below this fraction of |x|^2 + |y|^2, it is a rounding error, and x and y are
# treated as equal.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class PRDC:
    """Precision, recall, density and coverage, in terms of balls around images in feature space.

    The radius of a ball is the distance to the k-th nearest neighbour in the same set. Density and coverage
    use only balls around reference images, because balls around generated outliers are too large (Naeem et
    al. 2020, section 3).

    Attributes:
        precision: the share of generated images that lie in a ball around a reference image (Kynkäänniemi et
            al. 2019, eq. 1 and 2).
        recall: the share of reference images that lie in a ball around a generated image.
        density: the mean over generated images of the number of reference balls in which an image lies,
            divided by k. The expected density is 1 for equal distributions; a density can be above 1.
        coverage: the share of reference balls in which at least one generated image lies.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(generated: np.ndarray, reference: np.ndarray, *, k: int = 3, k_density: int = 5) -> PRDC:
    """Return precision, recall, density and coverage of two sets of features.

    All four are computed in one pass over the pairs of a generated and a reference image.

    Args:
        generated: features (N, d) of more than max(k, k_density) generated images.
        reference: features (M, d) of as many reference images or more.
        k: for precision and recall, each image has a ball whose radius is the distance to its k-th neighbour.
        k_density: the number that replaces `k` for density and coverage. Both defaults are from the papers.
    """
    around_x = _radii(generated, [k])[0]
    around_y, around_y_wide = _radii(reference, [k, k_density])
    n, m = len(generated), len(reference)
    precise, recalled, covered = (torch.zeros(size, dtype=torch.bool, device="cpu") for size in (n, m, m))
    inside = 0
    for rows, x in read_blocks(generated):
        for columns, y in read_blocks(reference):
            apart = _squared(x, y)
            precise[rows] |= (apart <= around_y[columns]).any(1)
            recalled[columns] |= (apart <= around_x[rows, None]).any(0)
            within = apart <= around_y_wide[columns]
            inside += int(within.sum())
            covered[columns] |= within.any(0)
    return PRDC(_share(precise), _share(recalled), inside / (k_density * n), _share(covered))


def _radii(features: np.ndarray, ks: list[int]) -> Tensor:
    """Return, for each k, the squared distances of features (N, d) to their k-th nearest neighbour.

    The result is (len(ks), N).
    """
    radii = []
    for _, some in read_blocks(features):
        nearest = some.new_empty(len(some), 0)
        # Each pair is computed twice, in the same way as in `prdc`, so that equal distances compare as equal.
        for _, others in read_blocks(features):
            both = torch.cat([nearest, _squared(some, others)], 1)
            # The nearest neighbour is the row itself, at index 0, so index k is the k-th neighbour.
            nearest = both.topk(min(max(ks) + 1, both.shape[1]), largest=False).values
        radii.append(nearest[:, ks].T)
    return torch.cat(radii, 1)


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared distances (n, m) of x (n, d) and y (m, d); exactly 0 for equal points."""
    norms = x.square().sum(1, keepdim=True) + y.square().sum(1)
    squared = torch.addmm(norms, x, y.T, alpha=-2)
    return squared.masked_fill_(squared < _ROUNDING * norms, 0)


def _share(inside: Tensor) -> float:
    return inside.double().mean().item()
