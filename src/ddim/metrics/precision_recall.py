"""Fidelity and variety apart: precision and recall, density and coverage, by nearest neighbours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ddim.metrics.blocks import blocks, check

# Below this part of the norms, what is left of |x|^2 + |y|^2 - 2 x.y is rounding, and the two are one point.
_ROUNDING = 1e-13


def precision_recall(generated: np.ndarray, reference: np.ndarray, k: int = 3) -> tuple[float, float]:
    """(precision, recall) of (N, d) and (M, d) features (Kynkaanniemi et al. 2019, eq. 1 and 2).

    A set is the union of balls, one about each image, each as wide as the distance to its k-th neighbour in
    the set. Precision is the part of the generated inside the reference, recall the part of the reference
    inside the generated. UserError for k images or fewer on a side.
    """
    check("precision and recall", generated, reference, k + 1)
    within_reference, _ = _balls(generated, reference, _radii(reference, k))
    within_generated, _ = _balls(reference, generated, _radii(generated, k))
    return _part(within_reference > 0), _part(within_generated > 0)


def density_coverage(generated: np.ndarray, reference: np.ndarray, k: int = 5) -> tuple[float, float]:
    """(density, coverage) of (N, d) and (M, d) features (Naeem et al. 2020, section 3).

    Both ask the balls of the reference alone, since those about generated outliers are too wide. Density is
    in how many of them a generated image lies, over k: 1 is expected of equal distributions, and more is
    possible. Coverage is the part of them that holds a generated image. UserError as above.
    """
    check("density and coverage", generated, reference, k + 1)
    within, held = _balls(generated, reference, _radii(reference, k))
    return within.double().mean().item() / k, _part(held)


def _radii(features: np.ndarray, k: int) -> Tensor:
    """(N,) the squared distance of each of (N, d) features to its k-th nearest other one."""
    radii = []
    for _, some in blocks(features):
        nearest = some.new_empty(len(some), 0)
        for _, others in blocks(features):
            both = torch.cat([nearest, _squared(some, others)], 1)
            nearest = both.topk(min(k + 1, both.shape[1]), largest=False).values  # itself is among them
        radii.append(nearest[:, k])
    return torch.cat(radii)


def _balls(points: np.ndarray, centres: np.ndarray, radii: Tensor) -> tuple[Tensor, Tensor]:
    """In how many balls each of the points (N, d) lies, (N,), and which of the balls hold a point, (M,)."""
    within = torch.zeros(len(points), dtype=torch.long)
    held = torch.zeros(len(centres), dtype=torch.bool)
    for rows, some in blocks(points):
        for columns, those in blocks(centres):
            inside = _squared(some, those) <= radii[columns]
            within[rows] += inside.sum(1)
            held[columns] |= inside.any(0)
    return within, held


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) squared distances of x (n, d) and y (m, d); exactly 0 between copies."""
    norms = x.square().sum(1, keepdim=True) + y.square().sum(1)
    squared = norms - 2 * x @ y.T
    return squared.masked_fill_(squared < _ROUNDING * norms, 0)


def _part(inside: Tensor) -> float:
    return inside.double().mean().item()
