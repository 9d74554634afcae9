"""The nearest reference images of each image, and how much nearer the nearest is than the others.

The statistic of a copy is `closeness`: the distance to the nearest training image over the mean distance to
the k nearest. Carlini et al. 2023 ("Extracting Training Data from Diffusion Models") find copies of CIFAR-10
so, with k = 50; Yoon et al. 2023 ("Diffusion Probabilistic Models Generalize when They Fail to Memorize")
divide by the second nearest, which sees nothing where training images come twice. A distance alone would not
do: a blurred or a grey image is near to everything, noise is far from everything, and an honest image in a
dense part of the data is near by right. Of all these the nearest is about as far away as the next fifty; of a
copy it is not.

What remains is contrast. In pixels, images of little contrast are near to all others (hubs: Radovanović et
al. 2010), so that a blurred image finds the dullest training images much nearer than the rest. Images are
therefore compared after `standardised`, by the correlation of their pixels; a constant image correlates with
none, and its closeness is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

K = 50
"""Neighbours whose mean distance is the scale of a place (Carlini et al. 2023)."""

Embed = Callable[[np.ndarray], Tensor]
"""(N, ...) numbers -> (N, d) float32, whose Euclidean distances count."""

_BLOCK = 1024


@dataclass(frozen=True)
class Neighbours:
    """The k nearest references of N queries: distances (N, k) float64, growing, and their indices (N, k)."""

    distances: np.ndarray
    indices: np.ndarray

    @property
    def closeness(self) -> np.ndarray:
        """(N,) in [0, 1]: the nearest distance over the mean of the k; 0 for a copy."""
        mean = self.distances.mean(1)
        return np.divide(self.distances[:, 0], mean, out=np.zeros_like(mean), where=mean > 0)


def standardise(images: np.ndarray) -> Tensor:
    """(N, H, W, C) uint8 -> (N, H * W * C) float32: each channel of mean 0, each image of norm 1.

    Half the squared distance of two such rows is 1 minus the correlation of their pixels. A constant image
    becomes 0, at distance 1 from all others.
    """
    rows = torch.from_numpy(np.ascontiguousarray(images)).double()
    rows = (rows - rows.mean((1, 2), keepdim=True)).flatten(1)
    # Norms below one grey level in one pixel are rounding.
    return (rows / rows.norm(dim=1, keepdim=True).clamp(min=1.0)).float()


def mirror(images: np.ndarray) -> np.ndarray:
    """(N, H, W, C) images, left and right exchanged; a view."""
    return images[:, :, ::-1]


def flatten_features(rows: np.ndarray) -> Tensor:
    """(N, ...) numbers as (N, d) float32: features as they are."""
    # A copy: memory maps cannot be written, which torch minds.
    return torch.tensor(np.asarray(rows), dtype=torch.float32).flatten(1)


def nearest_neighbours(
    queries: np.ndarray,
    references: np.ndarray,
    k: int = K,
    *,
    also: np.ndarray | None = None,
    own: np.ndarray | None = None,
    embed: Embed = flatten_features,
) -> Neighbours:
    """The k nearest of `references` (M, ...) to each of `queries` (N, ...), Euclidean after `embed`.

    `also` (M, ...) is a second view of each reference, such as its mirror image: the nearer of both counts.
    `own` (N,) is the index of the reference that each query itself is, which is left out. k is cut to the
    number of references that are left. References, which may be memory maps, are read block by block.
    """
    views = [references] if also is None else [references, also]
    k = min(k, len(references) - (own is not None))
    x = embed(queries)
    # Distances by x.x - 2 x.y + y.y lose digits where they are small: about the mean they lose the fewest.
    centre = x.mean(0)
    x = x - centre
    squares = x.double().square().sum(1, keepdim=True)
    best = torch.full((len(x), k), torch.inf, dtype=torch.float64)
    which = torch.full((len(x), k), -1)
    for first in range(0, len(references), _BLOCK):
        found = torch.full((len(x), len(references[first : first + _BLOCK])), torch.inf, dtype=torch.float64)
        for view in views:
            y = embed(view[first : first + _BLOCK]) - centre
            found = found.minimum(squares + y.double().square().sum(1) - 2 * (x @ y.T).double())
        if own is not None:
            at = torch.as_tensor(own) - first
            inside = (at >= 0) & (at < found.shape[1])
            found[inside.nonzero()[:, 0], at[inside]] = torch.inf
        here = torch.arange(first, first + found.shape[1]).expand(len(x), -1)
        best, order = torch.cat([best, found], 1).topk(k, largest=False)
        which = torch.cat([which, here], 1).gather(1, order)
    return _exact(x, centre, views, which.numpy(), embed)


def _exact(x: Tensor, centre: Tensor, views: list[np.ndarray], which: np.ndarray, embed: Embed) -> Neighbours:
    """The distances of those found once more, by differences, and sorted by them."""
    distances = np.empty(which.shape)
    for row, (query, indices) in enumerate(zip(x, which, strict=True)):
        both = [(embed(view[indices]) - centre - query).double().norm(dim=1) for view in views]
        distances[row] = torch.stack(both).amin(0).numpy()
    order = np.argsort(distances, axis=1, kind="stable")
    return Neighbours(np.take_along_axis(distances, order, 1), np.take_along_axis(which, order, 1))
