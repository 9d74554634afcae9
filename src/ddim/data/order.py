"""The order of the images, their mirroring and their split: functions of their arguments, without state.

Position p of a run (0, 1, 2, ... over all epochs) sees the same image in the same way. It does not depend on
the batch size, the number of processes, or the step from which the run was resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

# Each use has its own stream of random numbers, so that mirroring does not depend on the order.
_ORDER, _FLIPS, _SPLIT = 1, 2, 3


def _stream(seed: int, use: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, use, epoch])))


# Consecutive batches are of the same epoch: without the cache each would shuffle the whole epoch again.
@lru_cache(maxsize=8)
def shuffle_epoch(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return the permutation of range(n) that an epoch (from 0) follows: (n,) int64, read-only."""
    permutation = _stream(seed, _ORDER, epoch).permutation(n)
    permutation.setflags(write=False)
    return permutation


@lru_cache(maxsize=8)
def _flip_epoch(n: int, seed: int, epoch: int) -> np.ndarray:
    return _stream(seed, _FLIPS, epoch).random(n) < 0.5


def select_indices(n: int, seed: int, first: int, count: int) -> np.ndarray:
    """Return the images at positions first ... first + count - 1 of a run over n images: (count,) int64."""
    return _slice_epochs(shuffle_epoch, n, seed, first, count)


def draw_flips(n: int, seed: int, first: int, count: int) -> np.ndarray:
    """Return whether the images at these positions are mirrored, about half of them: (count,) bool."""
    return _slice_epochs(_flip_epoch, n, seed, first, count)


def split_indices(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split range(n) into sorted int64 indices (train, validation).

    Validation has this fraction of n, rounded up; the seed selects it.
    """
    # The tolerance keeps 0.1 of 30 at 3: (1 - 0.1) * 30 is a little less than 27 in floating point.
    train = int((1 - fraction) * n + 1e-6)
    shuffled = _stream(seed, _SPLIT, 0).permutation(n)
    return np.sort(shuffled[:train]), np.sort(shuffled[train:])


def _slice_epochs(
    values_of: Callable[[int, int, int], np.ndarray], n: int, seed: int, first: int, count: int
) -> np.ndarray:
    """Return entries first ... first + count - 1 of the values of all epochs, end to end."""
    epochs = range(first // n, (first + count - 1) // n + 1)
    if not epochs:
        return values_of(n, seed, first // n)[:0]
    start = first - epochs.start * n
    return np.concatenate([values_of(n, seed, epoch) for epoch in epochs])[start : start + count]
