"""Find samples that are copies of training images, by a threshold learned from real images alone.

A sample counts as a copy if its nearest training image is unusually close, compared with its next neighbours
(`closeness`, see `ddim.metrics.neighbours`). The closeness of a real image is below the threshold with a
bounded probability: at most 1 % if the threshold is learned from about 460 images or more. The threshold is
learned from the training images, each compared with the others, and from half of the held-out images. The
other half is compared with the training images in the same way as samples. The share of copies in this half
is the rate of false alarms. At most `QUERIES` training images and `QUERIES` held-out images, drawn at random
with a fixed seed, are compared with all training images in this way. The bound needs no assumption about the
distribution of images or the model. It holds in about 95 % of cases (see `CONFIDENCE`).

Real images that are near-duplicates of training images are left out, both from learning the threshold and
from measuring false alarms. A few near-duplicates would move the threshold to 0, and no sample could then
count as a copy. A held-out near-duplicate rightly counts as a copy, so it would not be a false alarm. The
bound therefore applies only to real images that are not near-duplicates of training images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ddim.data import Images, SplitImages
from ddim.errors import UserError
from ddim.evaluation.image_summary import take_pictures
from ddim.machine.progress import Progress, ignore_progress
from ddim.metrics.features import Extractor, extract_features
from ddim.metrics.neighbours import (
    FEWEST,
    Embed,
    Neighbours,
    References,
    flatten_features,
    mirror,
    nearest_neighbours,
    standardise,
)
from ddim.metrics.statistics import Estimate, estimate_share, false_alarm_threshold
from ddim.sampling.image_features import ImageSet, compute_features

PIXELS = "pixels"
CONFIDENCE = 0.99
"""The probability that the bound holds, if the threshold is learned from independent values.

They are not independent: two training images may be each other's nearest neighbour. In simulations with 300
normal points in 10 dimensions, the bound failed in 13 % of 100 cases with a confidence of 0.95, and in 6 %
with 0.99.
"""

QUERIES = 2000
"""Largest number of training images, and of held-out images, that are compared with the training images."""

DUPLICATE_CORRELATION = 0.95
"""Two images count as near-duplicates if their pixels have at least this correlation."""


def draw_subset(indices: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` of the indices, drawn at random and sorted.

    The first `count` indices would be a bad choice, because neighbouring images often belong to one class.
    """
    return np.sort(np.random.default_rng(0).permutation(indices)[:count])


@dataclass(frozen=True)
class Matches:
    """The nearest training images of each of N images, and whether each image is a copy (N,)."""

    neighbours: Neighbours
    copies: np.ndarray

    @property
    def share(self) -> Estimate:
        """The share of copies, with its exact 95 % confidence interval."""
        return estimate_share(int(self.copies.sum()), len(self.copies))


@dataclass(frozen=True)
class Verdict:
    """Samples and held-out images, compared with the training images.

    Args:
        space: the representation that was compared: "pixels" or the name of features.
        threshold: the closeness below which an image counts as a copy.
        bound: an upper bound on the share of real images whose closeness is below the threshold; real images
            that are near-duplicates of training images are not counted.
        learned_from: number of real images from which the threshold was learned.
        left_out: number of real images that were left out as near-duplicates.
        samples: the matches of the samples; the indices of neighbours are positions in the training images.
        held_out: the matches of those held-out images that were not used to learn the threshold; None if
            there are no such images.
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
        """Whether more samples are copies than chance allows: the lower end of `share` is above `bound`."""
        return bool(self.samples.share.low > self.bound)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        what = "repeats training images" if self.memorised else "is not seen to repeat training images"
        return (
            f"By {self.space}, this run {what}: {format_share(self.samples.share)} of "
            f"{len(self.samples.copies)} samples count as copies. At most {100 * self.bound:.1f} % of real "
            "images that are not near-duplicates of training images count as copies."
        )


@dataclass(frozen=True)
class Duplicates:
    """Pairs of a held-out and a training image that are equal or nearly equal, as indices into all images.

    Args:
        same: pairs that are equal to the last bit.
        alike: other pairs whose pixels have a correlation of at least 0.95.
        compared: number of held-out images that were compared, at most `QUERIES`, drawn at random.
        held_out: number of all held-out images.
    """

    same: list[tuple[int, int]]
    alike: list[tuple[int, int]]
    compared: int
    held_out: int


@dataclass(frozen=True)
class Pictures:
    """The images at indices `which` as pictures (N, H, W, C) uint8, which are read when they are indexed.

    If `mirrored` is True, left and right are exchanged.
    """

    images: Images
    which: np.ndarray
    mirrored: bool = False

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.which)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return a copy of the pictures at a slice or an array of indices."""
        found = take_pictures(self.images, self.which[rows])
        return mirror(found) if self.mirrored else found


def find_copies(
    samples: np.ndarray,
    train: References,
    valid: References,
    *,
    also: References | None = None,
    embed: Embed = standardise,
    images: tuple[References, References] | None = None,
    progress: Progress = ignore_progress,
) -> Verdict:
    """Return the copies among samples (N, ...), with the threshold below which an image counts as a copy.

    Args:
        samples: pixels or features of the samples.
        train: pixels or features of the training images (M, ...).
        valid: pixels or features of the held-out images (V, ...).
        also: pixels or features of the mirrored training images (M, ...), if the run was trained on them.
        embed: a function that maps pixels or features to rows; the Euclidean distances of rows are compared.
        images: the pixels of training and held-out images, by which near-duplicates are found. They are
            needed only if `train` and `valid` are features.
        progress: called with "neighbours of training images" and so on, and numbers of training images.

    Returns:
        The verdict, with the copies among the samples and among the held-out images.

    Raises:
        UserError: if there are too few images.
    """
    check_counts(len(samples), len(train))
    # The images are drawn at random, because files may be sorted by class.
    draw = np.random.default_rng(0)
    own = draw.permutation(len(train))[:QUERIES]
    halves = draw.permutation(len(valid))
    learn, rest = halves[: len(valid) // 2], halves[len(valid) // 2 :]
    train_pixels, valid_pixels = images or (train, valid)

    find_nearest = partial(nearest_neighbours, references=train, also=also, embed=embed)

    def find_real(which: np.ndarray, training: bool) -> Neighbours:
        """Return the nearest training images of the real images `which`, without near-duplicates."""
        queries, pixels = (train, train_pixels) if training else (valid, valid_pixels)
        onward = partial(progress, f"neighbours of {'training' if training else 'held-out'} images")
        found = find_nearest(queries[which], themselves=which if training else None, progress=onward)
        single = ~_near_duplicates(found, pixels[which], train_pixels, also is not None)
        return Neighbours(found.distances[single], found.indices[single])

    null = [find_real(own, True), *([find_real(learn, False)] if len(learn) else [])]
    closeness = np.concatenate([found.closeness for found in null])
    held_out = find_real(rest, False) if len(rest) else None
    judged = len(held_out.closeness) if held_out else 0
    left_out = len(own) + len(valid) - len(closeness) - judged
    _check_learned(len(closeness), left_out, len(own) + len(valid))
    limit, bound = false_alarm_threshold(closeness, confidence=CONFIDENCE)

    def match(found: Neighbours) -> Matches:
        return Matches(found, found.closeness < limit)

    others = match(held_out) if held_out and judged else None
    nearest = find_nearest(samples, progress=partial(progress, "neighbours of samples"))
    return Verdict(PIXELS, limit, bound, len(closeness), left_out, match(nearest), others)


def check_counts(samples: int, train: int) -> None:
    """Check that there are enough images to find copies.

    Raises:
        UserError: if there is no sample, or there are fewer than `FEWEST` training images.
    """
    if samples < 1 or train < FEWEST:
        raise UserError(
            f"memorisation needs at least 1 sample and {FEWEST} training images, got {samples} and {train}: "
            "with so few images, compare them by eye"
        )


def _check_learned(count: int, left_out: int, total: int) -> None:
    if count < FEWEST:
        raise UserError(
            f"memorisation needs at least {FEWEST} real images that are not near-duplicates of training "
            f"images, but {left_out} of {total} are: give each image once"
        )


def _near_duplicates(found: Neighbours, images: np.ndarray, train: References, flip: bool) -> np.ndarray:
    """Return whether each of N images (N, H, W, C) is a near-duplicate of its nearest image in `train`."""
    # If even the middle neighbour has a correlation of at least 0.95, all images of the set look similar.
    # Then only images that are equal, in this space or in pixels, are duplicates.
    pairs = found.indices[:, [0, found.indices.shape[1] // 2]]
    apart = np.empty(pairs.shape)
    for row, (image, pair) in enumerate(zip(images, pairs, strict=True)):
        views = [train[pair], mirror(train[pair])] if flip else [train[pair]]
        rows = standardise(np.concatenate([image[None], *views]))
        # For rows of norm 1, half the squared distance is 1 minus the correlation.
        apart[row] = (rows[1:] - rows[0]).square().sum(1).view(-1, 2).amin(0) / 2
    alike = apart <= 1 - DUPLICATE_CORRELATION
    return (found.closeness == 0) | (apart[:, 0] == 0) | (alike[:, 0] & ~alike[:, 1])


def find_copies_by_pixels(
    own: SplitImages, samples: np.ndarray, flip: bool, progress: Progress = ignore_progress
) -> Verdict:
    """Return the copies among samples (N, H, W, C) uint8, found by pixels.

    If `flip` is True, mirrored copies are found too.
    """
    train, also = Pictures(own.images, own.train), Pictures(own.images, own.train, mirrored=True)
    valid = Pictures(own.images, draw_subset(own.validation, QUERIES))
    return find_copies(samples, train, valid, also=also if flip else None, progress=progress)


def find_copies_by_features(
    own: SplitImages,
    samples: np.ndarray,
    flip: bool,
    extractor: Extractor,
    progress: Progress = ignore_progress,
) -> Verdict:
    """Return the copies among samples (N, H, W, C) uint8, found by the features of a network.

    The features of the run's images are kept in the cache.

    Args:
        own: the images of the run.
        samples: the samples.
        flip: whether the run was trained on mirror images too.
        extractor: the network of the features.
        progress: called with "features of samples", then with "features of training images" and so on, and
            as by `find_copies`.
    """
    held_out = draw_subset(own.validation, QUERIES)

    def features(what: str, which: np.ndarray, mirror: bool = False) -> np.ndarray:
        return compute_features(
            ImageSet(own.images, which, "", what, mirror),
            extractor,
            partial(progress, f"features of {what} images"),
        )

    verdict = find_copies(
        extract_features(extractor, samples, progress=partial(progress, "features of samples")),
        features("training", own.train),
        features("held out", held_out),
        also=features("mirrored", own.train, mirror=True) if flip else None,
        embed=flatten_features,
        images=(Pictures(own.images, own.train), Pictures(own.images, held_out)),
        progress=progress,
    )
    return replace(verdict, space=f"{extractor.name} features")


def find_held_out_duplicates(
    own: SplitImages, flip: bool, progress: Progress = ignore_progress
) -> Duplicates:
    """Return pairs of (nearly) equal held-out and training images; if `flip`, compare mirror images too.

    At most `QUERIES` held-out images, drawn at random, are compared with all training images.
    """
    which, total = draw_subset(own.validation, QUERIES), len(own.validation)
    if not total:
        return Duplicates([], [], 0, 0)
    valid = take_pictures(own.images, which)
    views = [Pictures(own.images, own.train, mirrored) for mirrored in ([False, True] if flip else [False])]
    also, onward = views[1] if flip else None, partial(progress, "duplicates of held-out images")
    found = nearest_neighbours(valid, views[0], 1, also=also, embed=standardise, progress=onward)
    same, alike = [], []
    # For rows of norm 1, half the squared distance is 1 minus the correlation.
    for k in np.flatnonzero(found.distances[:, 0] ** 2 / 2 <= 1 - DUPLICATE_CORRELATION):
        index = found.indices[k]
        pair = int(which[k]), int(own.train[index[0]])
        equal = any(np.array_equal(view[index][0], valid[k]) for view in views)
        (same if equal else alike).append(pair)
    return Duplicates(same, alike, len(which), total)


def format_share(share: Estimate) -> str:
    """Return a share and its confidence interval in percent, such as "3.0 % [1.1, 6.4]"."""
    return f"{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"
