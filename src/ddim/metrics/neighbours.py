"""Nearest neighbours of samples in the training set, and the statistic that detects copies.

`Neighbours.closeness` is the distance to the nearest training image, divided by the mean distance to the k
nearest training images; a small value means a likely copy. With k = 50, Carlini et al. 2023 ("Extracting
Training Data from Diffusion Models") use this ratio to find copies of CIFAR-10 images. Yoon et al. 2023
("Diffusion Probabilistic Models Generalize when They Fail to Memorize") divide by the distance to the second
nearest image. Their ratio misses copies of images that occur twice in the training set.

The distance alone is not enough. A blurred or gray image is close to all images, and noise is far from all. A
new image in a dense region of the data is close to its neighbours. In all these cases the nearest image is
about as far away as the next fifty images. For a copy, the nearest image is much closer.

Contrast is removed first. In pixel space, images of low contrast are close to all others (hubs: Radovanović
et al. 2010). A blurred sample would be much closer to the training images of lowest contrast than to the
rest. Images are therefore compared after `standardise`, that is, by the correlation of their pixels. A
constant image has correlation 0 with all others. Its closeness is 1, and it is near to no image: as a row of
zeros it would be at distance 1 from all, nearer than every image with a correlation below one half.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

K = 50
"""The nearest distance is divided by the mean distance to this many neighbours (Carlini et al. 2023)."""

Embed = Callable[[np.ndarray], Tensor]
"""A function from an array (N, ...) to vectors (N, d) float32, whose Euclidean distances are compared."""

_BLOCK = 1024


References = Any
"""An array (N, ...), or an object that reads the rows at a slice or an array of indices on demand."""


@dataclass(frozen=True)
class Neighbours:
    """The k nearest references of N queries: distances (N, k) float64, ascending, and indices (N, k)."""

    distances: np.ndarray
    indices: np.ndarray

    @property
    def closeness(self) -> np.ndarray:
        """The smallest distance divided by the mean of all k distances, (N,), 0 to 1; 0 for an exact copy."""
        mean = self.distances.mean(1)
        return np.divide(self.distances[:, 0], mean, out=np.zeros_like(mean), where=mean > 0)


def standardise(images: np.ndarray) -> Tensor:
    """Convert images (N, H, W, C) uint8 to rows (N, H * W * C) float32 with channel mean 0 and norm 1.

    Half the squared distance of two rows is 1 minus the correlation of their pixels. A constant image becomes
    a row of equal numbers, which is orthogonal to every row with channel mean 0.
    """
    rows = torch.from_numpy(np.ascontiguousarray(images)).double()
    rows = (rows - rows.mean((1, 2), keepdim=True)).flatten(1)
    norm = rows.norm(dim=1, keepdim=True)
    # One gray level in one pixel gives a norm of about 1; less than a half is due to rounding.
    rows = torch.where(norm < 0.5, rows.shape[1] ** -0.5, rows / norm.clamp(min=1.0))
    return rows.float()


def flatten_features(rows: np.ndarray) -> Tensor:
    """Flatten an array (N, ...) to vectors (N, d) float32."""
    # `torch.tensor` copies the array, because torch warns if a tensor shares a read-only array or memory map.
    return torch.tensor(np.asarray(rows), dtype=torch.float32, device="cpu").flatten(1)


def nearest_neighbours(
    queries: np.ndarray,
    views: Sequence[References],
    k: int = K,
    *,
    themselves: np.ndarray | None = None,
    embed: Embed = flatten_features,
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    """Find the k nearest references of each query, by the Euclidean distance after `embed`.

    Args:
        queries: the query images or features (N, ...).
        views: the reference images or features (M, ...), read block by block, and maybe other views (M, ...)
            of each reference, such as its mirror image; the nearest view counts.
        k: the number of neighbours. If there are fewer references, all are used, except the query itself if
            `themselves` is given.
        themselves: if the queries are references too, their indices (N,); a query is not its own neighbour.
        embed: the function that maps queries and references to vectors.
        progress: called with the number of references that were compared, and their total number.
    """
    count = len(views[0])
    k = min(k, count - (themselves is not None))
    x = embed(queries)
    # x.x - 2 x.y + y.y loses digits of small distances; subtracting the mean keeps most of them.
    centre = x.mean(0)
    x = x - centre
    squares = x.double().square().sum(1, keepdim=True)
    best = torch.full((len(x), k), torch.inf, dtype=torch.float64, device="cpu")
    which = torch.full((len(x), k), -1, device="cpu")
    for first in range(0, count, _BLOCK):
        here = torch.arange(first, min(first + _BLOCK, count), device="cpu")
        apart = torch.full((len(x), len(here)), torch.inf, dtype=torch.float64, device="cpu")
        for view in views:
            y = embed(view[first : first + _BLOCK]) - centre
            apart = apart.minimum(squares + y.double().square().sum(1) - 2 * (x @ y.T).double())
        if themselves is not None:
            apart[torch.as_tensor(themselves)[:, None] == here] = torch.inf
        best, order = torch.cat([best, apart], 1).topk(k, largest=False)
        which = torch.cat([which, here.expand(len(x), -1)], 1).gather(1, order)
        if progress:
            progress(first + len(here), count)
    # The distances are computed again as norms of differences, without the rounding errors of the search.
    indices, distances = which.numpy(), np.empty(which.shape)
    for row, query in enumerate(x):
        both = [(embed(view[indices[row]]) - centre - query).double().norm(dim=1) for view in views]
        distances[row] = torch.stack(both).amin(0).numpy()
    order = np.argsort(distances, axis=1, kind="stable")
    return Neighbours(np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1))
