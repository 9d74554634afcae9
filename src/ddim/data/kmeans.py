"""k-means (Lloyd 1982) with k-means++ seeding (Arthur & Vassilvitskii 2007).

If training mirrors images at random, an image and its mirror image should have the same cluster. Mirroring
keeps the first `kept` features of an image and changes the sign of all others. The distance of an image from
a centre is therefore the smaller of two distances: that of the image, and that of its mirror image. A centre
is the mean of its images, each of them mirrored if its mirror image is nearer to the centre.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

RESTARTS = 4
"""The number of times that k-means starts; the result with the smallest sum of squared distances is used."""

STEP = 2.0**-24
"""Centres are rounded to multiples of this number, so that they do not depend on the number of threads."""

_ITERATIONS = 100
_LARGEST = 2**22  # numbers in a table of distances, 32 MB


def find_centres(features: np.ndarray, count: int, kept: int, draw: np.random.Generator) -> np.ndarray:
    """Return the centres (count, d) of the best of `RESTARTS` k-means clusterings; no cluster is empty.

    Args:
        features: features (N, d); at least `count` of them differ.
        count: number of clusters.
        kept: number of features that mirroring keeps; d if mirror images count as different.
        draw: the generator of the random numbers.
    """
    found = [_iterate(features, _draw_centres(features, count, kept, draw), kept) for _ in range(RESTARTS)]
    return min(found, key=lambda each: each[0])[1]


def find_nearest(features: np.ndarray, centres: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest centre (N,) int64 of each image, and the squared distance (N,) to it.

    Args:
        features: features (N, d).
        centres: centres (K, d).
        kept: number of features that mirroring keeps.
    """
    labels, distances = np.zeros(len(features), np.int64), np.zeros(len(features))
    size = max(1, _LARGEST // len(centres))
    for first in range(0, len(features), size):
        part = slice(first, first + size)
        far = _squared_distances(features[part], centres, kept)
        labels[part], distances[part] = far.argmin(1), far.min(1)
    return labels, distances


def _iterate(features: np.ndarray, centres: np.ndarray, kept: int) -> tuple[float, np.ndarray]:
    """Return the sum of squared distances and the centres, after Lloyd's iterations."""
    parts = np.ascontiguousarray(features[:, :kept]), np.ascontiguousarray(features[:, kept:])
    best, before = (np.inf, centres), np.zeros(0)
    for _ in range(_ITERATIONS):
        labels, distances = find_nearest(features, centres, kept)
        empty = np.setdiff1d(np.arange(len(centres)), labels)
        if len(empty):
            # Each empty cluster starts again at one of the images that are farthest from their centres.
            centres = centres.copy()
            centres[empty] = features[np.argsort(-distances, kind="stable")[: len(empty)]]
            continue
        best = float(distances.sum()), centres
        if np.array_equal(before, labels):
            break
        before, centres = labels, _update(*parts, labels, centres)
    return best


def _update(kept: np.ndarray, turning: np.ndarray, labels: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the mean features of each cluster, which are the new centres.

    An image is first mirrored if its mirror image is nearer to the old centre.
    """
    count, size = len(centres), len(labels)
    toward = np.einsum("nd,nd->n", turning, centres[labels, kept.shape[1] :])
    places = labels, np.arange(size)
    sums = [
        sparse.csr_array((weights, places), (count, size)) @ part
        for weights, part in ((np.ones(size), kept), (np.where(toward < 0, -1.0, 1.0), turning))
    ]
    means = np.concatenate(sums, 1) / np.bincount(labels, minlength=count)[:, None]
    return np.rint(means / STEP) * STEP


def _draw_centres(features: np.ndarray, count: int, kept: int, draw: np.random.Generator) -> np.ndarray:
    """Return the features of random images, which are the initial centres.

    The probability of an image is proportional to its squared distance from the nearest centre drawn so far.
    """
    chosen = [int(draw.integers(len(features)))]
    distances = _squared_distances(features, features[chosen], kept)[:, 0]
    while len(chosen) < count:
        sums = np.cumsum(distances)
        place = int(np.searchsorted(sums, draw.random() * sums[-1], side="right"))
        chosen.append(min(place, len(features) - 1))
        distances = np.minimum(distances, _squared_distances(features, features[chosen[-1:]], kept)[:, 0])
    return features[chosen]


def _squared_distances(features: np.ndarray, centres: np.ndarray, kept: int) -> np.ndarray:
    inner = features[:, :kept] @ centres[:, :kept].T
    inner += np.abs(features[:, kept:] @ centres[:, kept:].T)
    squares = np.einsum("nd,nd->n", features, features)[:, None] + np.einsum("kd,kd->k", centres, centres)
    return np.maximum(squares - 2 * inner, 0)
