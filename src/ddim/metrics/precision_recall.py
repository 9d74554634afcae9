"""Fidelity and variety apart: precision and recall, density and coverage, by nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddim.metrics.blocks import check_features, read_blocks

# Below this part of the norms, what is left of |x|^2 + |y|^2 - 2 x.y is rounding, and the two are one point.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class PRDC:
    """A set is the union of balls, one about each image, as wide as the distance to its k-th neighbour in it.

    Precision is the part of the generated images inside the reference, recall the part of the reference
    inside the generated (Kynkaanniemi et al. 2019, eq. 1 and 2).

    Density and coverage ask the balls of the reference alone, since those about generated outliers are too
    wide (Naeem et al. 2020, section 3). Density is in how many of them a generated image lies, over k: 1 is
    expected of equal distributions, and more is possible. Coverage is the part of them that holds one.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(generated: np.ndarray, reference: np.ndarray, *, k: int = 3, k_density: int = 5) -> PRDC:
    """All four of (N, d) and (M, d) features, out of one pass over the pairs.

    `k` is that of precision and recall, `k_density` that of density and coverage; the defaults are published.
    UserError where a side has no more images than either k.
    """
    check_features("precision, recall, density and coverage", generated, reference, max(k, k_density) + 1)
    around_x = _radii(generated, [k])[0]
    around_y, around_y_wide = _radii(reference, [k, k_density])
    n, m = len(generated), len(reference)
    precise, recalled, covered = (torch.zeros(size, dtype=torch.bool) for size in (n, m, m))
    inside = 0
    for rows, x in read_blocks(generated):
        for columns, y in read_blocks(reference):
            apart = _squared(x, y)
            precise[rows] |= (apart <= around_y[columns]).any(1)
            recalled[columns] |= (apart <= around_x[rows, None]).any(0)
            within = apart <= around_y_wide[columns]
            inside += int(within.sum())
            covered[columns] |= within.any(0)
    return PRDC(_part(precise), _part(recalled), inside / (k_density * n), _part(covered))


def _radii(features: np.ndarray, ks: list[int]) -> Tensor:
    """(len(ks), N) the squared distances of each of (N, d) features to its k-th nearest other ones."""
    radii = []
    for _, some in read_blocks(features):
        nearest = some.new_empty(len(some), 0)
        # All pairs, each twice: of two halves that round otherwise, a point on a ball would be in or out.
        for _, others in read_blocks(features):
            both = torch.cat([nearest, _squared(some, others)], 1)
            # Itself is among them.
            nearest = both.topk(min(max(ks) + 1, both.shape[1]), largest=False).values
        radii.append(nearest[:, ks].T)
    return torch.cat(radii, 1)


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) squared distances of x (n, d) and y (m, d); exactly 0 between copies."""
    norms = x.square().sum(1, keepdim=True) + y.square().sum(1)
    squared = torch.addmm(norms, x, y.T, alpha=-2)
    return squared.masked_fill_(squared < _ROUNDING * norms, 0)


def _part(inside: Tensor) -> float:
    return inside.double().mean().item()
