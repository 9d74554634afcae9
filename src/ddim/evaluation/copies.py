"""Which samples are copies of training images, decided by a threshold learned from real images alone.

A sample counts as a copy if its nearest training image is unusually close, compared with its next neighbours
(`closeness`, see `ddim.metrics.neighbours`). A real image falls below the threshold with a bounded
probability, at most 1 % if there are about 300 images to learn it from. The threshold is learned from the
training images, each compared with the others, and from half of the held-out images. The other half is
judged like the samples, so that the rate of false alarms is measured. No law is assumed for the images, and
nothing is tuned to the model.

Real images that are near-duplicates of training images are left out. A few of them would move the threshold
to 0, below which no copy falls, and held-out ones would rightly count as copies. The promise therefore holds
for images that are no near-duplicates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ddim.data import SplitImages
from ddim.errors import UserError
from ddim.metrics.features import Extractor, extract_features
from ddim.metrics.neighbours import (
    Embed,
    Neighbours,
    flatten_features,
    mirror,
    nearest_neighbours,
    standardise,
)
from ddim.metrics.proportions import false_alarm_threshold, share_interval
from ddim.metrics.statistics import Estimate
from ddim.runs.image_features import ImageSet, compute_features

PIXELS = "pixels"
QUERIES = 2000
"""Training images, at most, from which the threshold is learned."""

DUPLICATE_CORRELATION = 0.95
"""Correlation of pixels from which two images count as near-duplicates."""

LEAST = 8
"""Fewest training images, and fewest real images to learn from: each needs neighbours besides its copy."""


@dataclass(frozen=True)
class Matches:
    """The nearest training images of each of N images, and which of the N are copies (N,)."""

    neighbours: Neighbours
    copies: np.ndarray

    @property
    def share(self) -> Estimate:
        """The share of copies, with its exact 95 % interval."""
        count, n = int(self.copies.sum()), len(self.copies)
        return Estimate(np.array(count / n), *map(np.array, share_interval(count, n)))


@dataclass(frozen=True)
class Verdict:
    """Samples and held-out images, compared with the training images.

    Args:
        space: what was compared, "pixels" or the name of features.
        threshold: the closeness below which an image counts as a copy.
        bound: the largest share of real images below the threshold, near-duplicates not counted.
        learned_from: number of real images from which the threshold was learned.
        left_out: number of real images that were left out as near-duplicates.
        samples: the matches of the samples; the indices of neighbours count training images.
        held_out: the matches of the held-out images not learned from, None if there are none.
    """

    space: str
    threshold: float
    bound: float
    learned_from: int
    left_out: int
    samples: Matches
    held_out: Matches | None

    @property
    def memorised(self) -> bool:
        """Whether more samples are copies than chance allows: the interval lies above the bound."""
        return bool(self.samples.share.low > self.bound)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        what = "repeats training images" if self.memorised else "is not seen to repeat training images"
        return (
            f"By {self.space}, this run {what}: {format_share(self.samples.share)} of "
            f"{len(self.samples.copies)} samples count as copies. Of real images that are no near-duplicates "
            f"of training images, at most {100 * self.bound:.1f} % do."
        )


@dataclass(frozen=True)
class Duplicates:
    """Held-out images that are training images too: pairs (held out, training) of indices into all images.

    Args:
        same: pairs that are equal to the last bit.
        alike: other pairs whose pixels correlate by 0.95 or more.
    """

    same: list[tuple[int, int]]
    alike: list[tuple[int, int]]


def find_copies(
    samples: np.ndarray,
    train: np.ndarray,
    valid: np.ndarray,
    *,
    also: np.ndarray | None = None,
    embed: Embed = standardise,
    space: str = PIXELS,
    images: tuple[np.ndarray, np.ndarray] | None = None,
) -> Verdict:
    """Find the copies among samples (N, ...).

    Args:
        samples: pixels or features of the samples.
        train: those of the training images (M, ...).
        valid: those of the held-out images.
        also: the mirrored training images (M, ...), if the run was trained on them too.
        embed: how to compare two of them.
        space: the name of what is compared.
        images: the pixels of training and held-out images, which decide what is a near-duplicate. Needed only
            if `train` and `valid` are features.

    Raises:
        UserError: if there are too few images.
    """
    _check_counts(len(samples), len(train))
    # At random, because files may be sorted by class.
    draw = np.random.default_rng(0)
    own = draw.permutation(len(train))[:QUERIES]
    halves = draw.permutation(len(valid))
    learn, rest = halves[: len(valid) // 2], halves[len(valid) // 2 :]
    train_pixels, valid_pixels = images or (train, valid)

    find_nearest = partial(nearest_neighbours, references=train, also=also, embed=embed)

    def find_real(which: np.ndarray, training: bool) -> Neighbours:
        """Return the neighbours of real images, without those of near-duplicates."""
        queries, pixels = (train, train_pixels) if training else (valid, valid_pixels)
        found = find_nearest(queries[which], own=which if training else None)
        single = ~_near_duplicates(found, pixels[which], train_pixels, also is not None)
        return Neighbours(found.distances[single], found.indices[single])

    null = [find_real(own, True), *([find_real(learn, False)] if len(learn) else [])]
    closeness = np.concatenate([found.closeness for found in null])
    held_out = find_real(rest, False) if len(rest) else None
    judged = len(held_out.closeness) if held_out else 0
    left_out = len(own) + len(valid) - len(closeness) - judged
    if len(closeness) < LEAST:
        raise UserError(
            f"memorisation needs at least {LEAST} real images that are no near-duplicates of training "
            f"images, and {left_out} of {len(own) + len(valid)} are: give each image once"
        )
    limit, bound = false_alarm_threshold(closeness)

    def match(found: Neighbours) -> Matches:
        return Matches(found, found.closeness < limit)

    others = match(held_out) if held_out and judged else None
    return Verdict(space, limit, bound, len(closeness), left_out, match(find_nearest(samples)), others)


def _check_counts(samples: int, train: int) -> None:
    if samples < 1 or train < LEAST:
        raise UserError(
            f"memorisation needs at least 1 sample and {LEAST} training images, got {samples} and {train}"
        )


def _near_duplicates(found: Neighbours, images: np.ndarray, train: np.ndarray, flip: bool) -> np.ndarray:
    """Return which (N,) of images (N, H, W, C) are near-duplicates of their nearest in `train`."""
    # If the middle neighbour is alike too, all images of this set are: then only equal ones are duplicates,
    # equal in this space or in pixels.
    pairs = found.indices[:, [0, found.indices.shape[1] // 2]]
    apart = np.empty(pairs.shape)
    for row, (image, pair) in enumerate(zip(images, pairs, strict=True)):
        views = [train[pair], mirror(train[pair])] if flip else [train[pair]]
        rows = standardise(np.concatenate([image[None], *views]))
        # For rows of norm 1, half the squared distance is 1 minus the correlation.
        apart[row] = (rows[1:] - rows[0]).square().sum(1).view(-1, 2).amin(0) / 2
    alike = apart <= 1 - DUPLICATE_CORRELATION
    return (found.closeness == 0) | (apart[:, 0] == 0) | (alike[:, 0] & ~alike[:, 1])


def find_copies_by_pixels(own: SplitImages, samples: np.ndarray, flip: bool) -> Verdict:
    """Find copies among samples (N, H, W, C) uint8 by pixels; `flip` compares with mirror images too."""
    train, valid = own.images.pixels[own.train], own.images.pixels[own.validation]
    return find_copies(samples, train, valid, also=mirror(train) if flip else None)


def find_copies_by_features(
    own: SplitImages,
    samples: np.ndarray,
    flip: bool,
    extractor: Extractor,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Verdict:
    """Find copies among samples (N, H, W, C) uint8 by the features of a network.

    The features of the run's images are kept in the cache.

    Args:
        own: the images of the run.
        samples: the samples.
        flip: whether the run was trained on mirror images too.
        extractor: the network of the features.
        progress: called with "samples", "held out", "training" or "mirrored", and how many of how many are
            done.
    """

    def features(what: str, which: np.ndarray, mirror: bool = False) -> np.ndarray:
        return compute_features(
            ImageSet(own.images, which, "", what, mirror), extractor, partial(progress, what)
        )

    return find_copies(
        extract_features(extractor, samples, progress=partial(progress, "samples")),
        features("training", own.train),
        features("held out", own.validation),
        also=features("mirrored", own.train, mirror=True) if flip else None,
        embed=flatten_features,
        space=f"{extractor.name} features",
        images=(own.images.pixels[own.train], own.images.pixels[own.validation]),
    )


def find_held_out_duplicates(own: SplitImages, flip: bool) -> Duplicates:
    """Find the held-out images that are, or nearly are, training images; `flip` counts mirror images too."""
    if not len(own.validation):
        return Duplicates([], [])
    train, valid = own.images.pixels[own.train], own.images.pixels[own.validation]
    views = [train, mirror(train)] if flip else [train]
    found = nearest_neighbours(valid, train, 1, also=mirror(train) if flip else None, embed=standardise)
    same, alike = [], []
    # For rows of norm 1, half the squared distance is 1 minus the correlation.
    for k in np.flatnonzero(found.distances[:, 0] ** 2 / 2 <= 1 - DUPLICATE_CORRELATION):
        index = found.indices[k, 0]
        pair = int(own.validation[k]), int(own.train[index])
        equal = any(np.array_equal(view[index], valid[k]) for view in views)
        (same if equal else alike).append(pair)
    return Duplicates(same, alike)


def format_share(share: Estimate) -> str:
    """Return a share and its interval in percent, such as "3.0 % [1.1, 6.4]"."""
    return f"{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"
