"""The random order, mirroring and split of images, as stateless functions of a seed.

The image at position p of a run (0, 1, 2, ... over all epochs), and whether it is mirrored, depend on p and
the seed alone. They do not depend on the batch size, the number of processes or the step of a resume.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

# Each purpose has its own random stream, so that mirroring is independent of the order.
_ORDER, _FLIPS, _SPLIT = 1, 2, 3


def _stream(seed: int, use: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, use, epoch])))


# Consecutive batches belong to one epoch; without the cache each of them would shuffle the whole epoch again.
@lru_cache(maxsize=8)
def shuffle_epoch(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the images in an epoch (the first is 0): a permutation (n,) int64, read-only."""
    permutation = _stream(seed, _ORDER, epoch).permutation(n)
    permutation.setflags(write=False)
    return permutation


@lru_cache(maxsize=8)
def _flip_epoch(n: int, seed: int, epoch: int) -> np.ndarray:
    return _stream(seed, _FLIPS, epoch).random(n) < 0.5


def select_indices(n: int, seed: int, first: int, count: int) -> np.ndarray:
    """Return the indices (count,) int64 of the images at positions `first` to `first` + `count` - 1 of a run.

    Args:
        n: number of training images.
        seed: the seed of the order.
        first: the first position.
        count: number of positions.
    """
    return _slice_epochs(shuffle_epoch, n, seed, first, count)


def draw_flips(n: int, seed: int, first: int, count: int) -> np.ndarray:
    """Return whether each image is mirrored, (count,) bool; the arguments are those of `select_indices`.

    Each image is mirrored with probability 1/2.
    """
    return _slice_epochs(_flip_epoch, n, seed, first, count)


def split_indices(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted int64 indices (train, validation), which together are range(n).

    The validation set has `fraction` * n images, rounded up, drawn with the seed.
    """
    # In floating point, (1 - 0.8) * 5 is slightly less than 1. With the tolerance, it counts as 1.
    train = int((1 - fraction) * n + 1e-6)
    shuffled = _stream(seed, _SPLIT, 0).permutation(n)
    return np.sort(shuffled[:train]), np.sort(shuffled[train:])


def _slice_epochs(
    values_of: Callable[[int, int, int], np.ndarray], n: int, seed: int, first: int, count: int
) -> np.ndarray:
    """Return entries `first` to `first` + `count` - 1 of the values of all epochs, one epoch after another.

    `values_of(n, seed, epoch)` returns the n values of an epoch.
    """
    epochs = range(first // n, (first + max(count, 1) - 1) // n + 1)
    slices = [slice(max(0, first - epoch * n), first + count - epoch * n) for epoch in epochs]
    return np.concatenate([values_of(n, seed, e)[part] for e, part in zip(epochs, slices, strict=True)])
