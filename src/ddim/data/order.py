"""The order of the images, their flips and their split: functions of their arguments, with nothing to save.

Position p of a run (0, 1, 2, ... over all epochs) sees the same image in the same way whatever the batch
size, the number of processes, or the step at which the run was resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

# One stream of random numbers for each use, so that flips do not follow from the order.
_ORDER, _FLIPS, _SPLIT = 1, 2, 3


def _stream(seed: int, use: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, use, epoch])))


# Batches of one epoch follow each other: without the cache each would shuffle the whole epoch again.
@lru_cache(maxsize=8)
def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """(n,) int64, read-only: the permutation of range(n) that an epoch (from 0) follows."""
    permutation = _stream(seed, _ORDER, epoch).permutation(n)
    permutation.setflags(write=False)
    return permutation


@lru_cache(maxsize=8)
def _flips(n: int, seed: int, epoch: int) -> np.ndarray:
    return _stream(seed, _FLIPS, epoch).random(n) < 0.5


def indices(n: int, seed: int, first: int, count: int) -> np.ndarray:
    """(count,) int64: positions first ... first + count - 1 of order(n, seed, 0), order(n, seed, 1), ...
    end to end.
    """
    return _endless(order, n, seed, first, count)


def flips(n: int, seed: int, first: int, count: int) -> np.ndarray:
    """(count,) bool: whether the images at these positions are mirrored, as about half of all are."""
    return _endless(_flips, n, seed, first, count)


def halves(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, valid): sorted int64 indices; valid holds the fraction of n, rounded up, chosen by the seed."""
    # The tolerance keeps 0.1 of 30 at 3: (1 - 0.1) * 30 is a little less than 27 in floating point.
    train = int((1 - fraction) * n + 1e-6)
    shuffled = _stream(seed, _SPLIT, 0).permutation(n)
    return np.sort(shuffled[:train]), np.sort(shuffled[train:])


def _endless(
    epoch_of: Callable[[int, int, int], np.ndarray], n: int, seed: int, first: int, count: int
) -> np.ndarray:
    epochs = range(first // n, (first + count - 1) // n + 1)
    if not epochs:
        return epoch_of(n, seed, first // n)[:0]
    start = first - epochs.start * n
    return np.concatenate([epoch_of(n, seed, epoch) for epoch in epochs])[start : start + count]
