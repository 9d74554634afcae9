"""Nearest neighbours, and how much nearer the nearest is than the next ones: the statistic of copies.

`Neighbours.closeness` is the distance to the nearest training image over the mean distance to the k nearest.
Carlini et al. 2023 ("Extracting Training Data from Diffusion Models") find copies of CIFAR-10 by it, with
k = 50. Yoon et al. 2023 ("Diffusion Probabilistic Models Generalize when They Fail to Memorize") divide by
the second nearest, which misses copies of training images that come twice. A distance alone is not enough: a
blurred or gray image is near to everything, noise is far from everything, and an honest image in a dense part
of the data is near to its neighbours. For all these the nearest is about as far away as the next fifty; for a
copy it is much nearer.

Contrast is removed first. In pixels, images of low contrast are near to all others (hubs: Radovanović et al.
2010), so that a blurred image finds the dullest training images much nearer than the rest. Images are
therefore compared after `standardise`, by the correlation of their pixels. A constant image correlates with
none, and its closeness is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

K = 50
"""The number of neighbours whose mean distance is the scale (Carlini et al. 2023)."""

Embed = Callable[[np.ndarray], Tensor]
"""Maps (N, ...) numbers to (N, d) float32, whose Euclidean distances are compared."""

_BLOCK = 1024


@dataclass(frozen=True)
class Neighbours:
    """The k nearest references of N queries: distances (N, k) float64, ascending, and indices (N, k)."""

    distances: np.ndarray
    indices: np.ndarray

    @property
    def closeness(self) -> np.ndarray:
        """The nearest distance over the mean of the k nearest, (N,) in [0, 1]; 0 for an exact copy."""
        mean = self.distances.mean(1)
        return np.divide(self.distances[:, 0], mean, out=np.zeros_like(mean), where=mean > 0)


def standardise(images: np.ndarray) -> Tensor:
    """Convert images (N, H, W, C) uint8 to rows (N, H * W * C) float32 with channel mean 0 and norm 1.

    Half the squared distance of two such rows is 1 minus the correlation of their pixels. A constant image
    becomes 0, at distance 1 from all others.
    """
    rows = torch.from_numpy(np.ascontiguousarray(images)).double()
    rows = (rows - rows.mean((1, 2), keepdim=True)).flatten(1)
    # A norm below one gray level in one pixel is rounding.
    return (rows / rows.norm(dim=1, keepdim=True).clamp(min=1.0)).float()


def mirror(images: np.ndarray) -> np.ndarray:
    """Return a view of images (N, H, W, C) with left and right exchanged."""
    return images[:, :, ::-1]


def flatten_features(rows: np.ndarray) -> Tensor:
    """Convert (N, ...) numbers to (N, d) float32, otherwise unchanged."""
    # A copy: torch warns of arrays that cannot be written, such as memory maps.
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
    """Find the k nearest references of each query, by the Euclidean distance after `embed`.

    Args:
        queries: (N, ...).
        references: (M, ...), read block by block; they may be a memory map.
        k: the number of neighbours, cut to the number of references that are left.
        also: (M, ...) a second view of each reference, such as its mirror image; the nearer one counts.
        own: (N,) the index of the reference that each query itself is, which is left out.
        embed: what maps queries and references to vectors.
    """
    views = [references] if also is None else [references, also]
    k = min(k, len(references) - (own is not None))
    x = embed(queries)
    # x.x - 2 x.y + y.y loses digits of small distances: the fewest when taken about the mean.
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
    """Recompute the distances of the neighbours from differences, and sort by them."""
    distances = np.empty(which.shape)
    for row, (query, indices) in enumerate(zip(x, which, strict=True)):
        both = [(embed(view[indices]) - centre - query).double().norm(dim=1) for view in views]
        distances[row] = torch.stack(both).amin(0).numpy()
    order = np.argsort(distances, axis=1, kind="stable")
    return Neighbours(np.take_along_axis(distances, order, 1), np.take_along_axis(which, order, 1))
