"""Whether a run repeats its training images, against what images that it never saw show by chance.

A picture counts as a copy where its `closeness` to the training images is below a threshold that real images
fall below with a bounded probability, at most 1 % where there are some 300 of them to learn it from. It is
learnt from real images alone: training images, each against the others, and half of those held out; the other
half is judged beside the pictures, so that the rate of false alarms is seen and not only promised. Nothing is
assumed of the images, and nothing is tuned to the model.

Real images that are near-duplicates of training images are left out: a few that come twice would put the
threshold at 0, which no copy is below, and held-out ones would pass for copies, as they should. So the
promise is of images that are no near-duplicates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ddim.errors import UserError
from ddim.metrics.features import Extractor, extract
from ddim.metrics.neighbours import Embed, Neighbours, mirrored, nearest, plain, standardised
from ddim.metrics.proportions import interval, threshold
from ddim.metrics.statistics import Estimate
from ddim.plots import pictures as plots
from ddim.runs.image_features import Chosen, features_of
from ddim.runs.images import OwnImages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ddim.evaluation.denoising import Gap

PIXELS = "pixels"
QUERIES = 2000
"""Training images, at most, that the threshold is learnt from."""

ALIKE = 0.95
"""Correlation of pixels from which two images count as near-duplicates."""

LEAST = 8
"""Images below which nothing can be said, of training and to learn from that are no near-duplicates: each
needs neighbours that are not its copy.
"""


@dataclass(frozen=True)
class Judged:
    """Of a set of images: the nearest training images of each, and how many are called copies.

    `share` is the number called over all, with its exact 95 % interval.
    """

    neighbours: Neighbours
    called: np.ndarray

    @property
    def share(self) -> Estimate:
        """The part that is called copies."""
        count, n = int(self.called.sum()), len(self.called)
        return Estimate(np.array(count / n), *map(np.array, interval(count, n)))


@dataclass(frozen=True)
class Verdict:
    """Pictures and held-out images, judged by a threshold that few real images are below.

    Few is a part of at most `bound` of those that are no near-duplicates of training images. It is learnt
    from `learnt_from` such, and others are judged, `held_out`, None where none was left; `left_out` were
    near-duplicates. `indices` of neighbours are of training.
    """

    space: str
    threshold: float
    bound: float
    learnt_from: int
    left_out: int
    pictures: Judged
    held_out: Judged | None

    @property
    def memorised(self) -> bool:
        """Whether more pictures are copies than chance allows: the interval lies above the bound."""
        return bool(self.pictures.share.low > self.bound)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        what = "repeats training images" if self.memorised else "is not seen to repeat training images"
        return (
            f"By {self.space}, this run {what}: {_percent(self.pictures.share)} of "
            f"{len(self.pictures.called)} pictures pass for copies, where at most {100 * self.bound:.1f} % "
            "of real images do that are no near-duplicates of training images."
        )


@dataclass(frozen=True)
class Duplicates:
    """Held-out images that training holds too: pairs (held out, training) of indices into all images.

    `same` to the last bit, `alike` of a correlation of pixels from 0.95 on and not the same. Mirror images
    count where training saw them.
    """

    same: list[tuple[int, int]]
    alike: list[tuple[int, int]]


def judge(
    pictures: np.ndarray,
    train: np.ndarray,
    valid: np.ndarray,
    *,
    also: np.ndarray | None = None,
    embed: Embed = standardised,
    space: str = PIXELS,
    images: tuple[np.ndarray, np.ndarray] | None = None,
) -> Verdict:
    """The verdict on pictures (N, ...), given the images that trained (M, ...) and those held out.

    `also` (M, ...) are the training images as training saw them too, mirrored. Where all of these are
    features, `images` are the pixels, of training and held out, by which duplicates are known. UserError for
    too few images.
    """
    if len(pictures) < 1 or len(train) < LEAST:
        raise UserError(
            f"memorising is judged by at least 1 picture and {LEAST} training images, "
            f"got {len(pictures)} and {len(train)}"
        )
    # By a seed, since files may come class by class.
    draw = np.random.default_rng(0)
    own = draw.permutation(len(train))[:QUERIES]
    halves = draw.permutation(len(valid))
    learn, rest = halves[: len(valid) // 2], halves[len(valid) // 2 :]

    seen, unseen = images or (train, valid)

    def near(queries: np.ndarray, own: np.ndarray | None = None) -> Neighbours:
        return nearest(queries, train, also=also, own=own, embed=embed)

    def real(which: np.ndarray, known: bool) -> Neighbours:
        """Of images of training, or held out: those of them that are no near-duplicates."""
        some, pixels = (train[which], seen[which]) if known else (valid[which], unseen[which])
        found = near(some, which if known else None)
        single = ~_twins(found, pixels, seen, also is not None)
        return Neighbours(found.distances[single], found.indices[single])

    null = [real(own, True), *([real(learn, False)] if len(learn) else [])]
    closeness = np.concatenate([found.closeness for found in null])
    apart = real(rest, False) if len(rest) else None
    left_out = len(own) + len(valid) - len(closeness) - (0 if apart is None else len(apart.closeness))
    if len(closeness) < LEAST:
        raise UserError(
            f"memorising is judged by at least {LEAST} real images that are no near-duplicates of training "
            f"images, and {left_out} of {len(own) + len(valid)} are: give each image once"
        )
    limit, bound = threshold(closeness)

    def judged(found: Neighbours) -> Judged:
        return Judged(found, found.closeness < limit)

    held_out = judged(apart) if apart is not None and len(apart.closeness) else None
    return Verdict(space, limit, bound, len(closeness), left_out, judged(near(pictures)), held_out)


def _twins(found: Neighbours, images: np.ndarray, train: np.ndarray, flip: bool) -> np.ndarray:
    """(N,) which of the images (N, H, W, C) are near-duplicates of their nearest in training (M, H, W, C)."""
    # Where the middle neighbour is alike too, images just are: that is the law there, and no duplicate, but
    # what is the same, in this space or in pixels, is one anywhere.
    pairs = found.indices[:, [0, found.indices.shape[1] // 2]]
    apart = np.empty(pairs.shape)
    for row, (image, pair) in enumerate(zip(images, pairs, strict=True)):
        views = [train[pair], mirrored(train[pair])] if flip else [train[pair]]
        rows = standardised(np.concatenate([image[None], *views]))
        # Of rows of norm 1 half the squared distance is 1 minus the correlation.
        apart[row] = (rows[1:] - rows[0]).square().sum(1).view(-1, 2).amin(0) / 2
    alike = apart <= 1 - ALIKE
    return (found.closeness == 0) | (apart[:, 0] == 0) | (alike[:, 0] & ~alike[:, 1])


def of_run(own: OwnImages, pictures: np.ndarray, flip: bool) -> Verdict:
    """The verdict by pixels on pictures (N, H, W, C) uint8; mirror images count where the run flips."""
    train, valid = own.images.pixels[own.train], own.images.pixels[own.valid]
    return judge(pictures, train, valid, also=mirrored(train) if flip else None)


def of_features(
    own: OwnImages,
    pictures: np.ndarray,
    flip: bool,
    extractor: Extractor,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Verdict:
    """The verdict by the features of an extractor on pictures (N, H, W, C) uint8; those of images are kept.

    `progress` is called with "pictures", "held out", "training" or "mirrored", how many are done and of how
    many.
    """

    def kept(what: str, which: np.ndarray, mirrored: bool = False) -> np.ndarray:
        return features_of(Chosen(own.images, which, "", what, mirrored), extractor, partial(progress, what))

    return judge(
        extract(extractor, pictures, progress=partial(progress, "pictures")),
        kept("training", own.train),
        kept("held out", own.valid),
        also=kept("mirrored", own.train, mirrored=True) if flip else None,
        embed=plain,
        space=f"{extractor.name} features",
        images=(own.images.pixels[own.train], own.images.pixels[own.valid]),
    )


def duplicates(own: OwnImages, flip: bool) -> Duplicates:
    """The held-out images of a run that are, or nearly are, among its training images."""
    if not len(own.valid):
        return Duplicates([], [])
    train, valid = own.images.pixels[own.train], own.images.pixels[own.valid]
    views = [train, mirrored(train)] if flip else [train]
    found = nearest(valid, train, 1, also=mirrored(train) if flip else None, embed=standardised)
    same, alike = [], []
    # Of rows of norm 1 half the squared distance is 1 minus the correlation.
    for k in np.flatnonzero(found.distances[:, 0] ** 2 / 2 <= 1 - ALIKE):
        index = found.indices[k, 0]
        pair = int(own.valid[k]), int(own.train[index])
        equal = any(np.array_equal(view[index], valid[k]) for view in views)
        (same if equal else alike).append(pair)
    return Duplicates(same, alike)


# --- shown --------------------------------------------------------------------------------------------------


def pairs(verdict: Verdict, pictures: np.ndarray, own: OwnImages, count: int = 12) -> Figure:
    """The pictures that are nearest to training images, worst first, each over its nearest one."""
    closeness = verdict.pictures.neighbours.closeness
    worst = np.argsort(closeness, kind="stable")[:count]
    which = own.train[verdict.pictures.neighbours.indices[worst, 0]]
    rows = {
        "picture": [pictures[k] for k in worst],
        "nearest in\ntraining": [np.asarray(own.images.pixels[k]) for k in which],
    }
    called = verdict.pictures.called
    notes = {"picture": [f"{closeness[k]:.2f}{' copy' if called[k] else ''}" for k in worst]}
    names = [own.images.names[k].rsplit("/", 1)[-1] for k in which]
    notes["nearest in\ntraining"] = [plots.shortened(name, 11) for name in names]
    title = f"Nearest by {verdict.space}; a closeness below {verdict.threshold:.2f} is a copy"
    return plots.strip(rows, [f"{k + 1}" for k in range(len(worst))], notes, title)


def record(
    verdict: Verdict, seeds: list[int], own: OwnImages, apart: Gap | None, twice: Duplicates
) -> dict[str, Any]:
    """All that was found, as JSON; pictures in the order of their seeds, training images by name."""
    nearest_of = own.train[verdict.pictures.neighbours.indices[:, 0]]
    names = own.images.names
    return {
        "memorised": verdict.memorised,
        "verdict": verdict.sentence,
        "space": verdict.space,
        "threshold": verdict.threshold,
        "bound": verdict.bound,
        "learnt_from": verdict.learnt_from,
        "left_out": verdict.left_out,
        "copies": _share(verdict.pictures),
        "false_alarms": None if verdict.held_out is None else _share(verdict.held_out),
        "pictures": [
            {"seed": seed, "closeness": float(c), "copy": bool(copy), "nearest": names[k]}
            for seed, c, copy, k in zip(
                seeds,
                verdict.pictures.neighbours.closeness,
                verdict.pictures.called,
                nearest_of,
                strict=True,
            )
        ],
        "gap": None
        if apart is None
        else {
            **{k: v.tolist() for k, v in vars(apart.overall).items()},
            "images": dict(zip(("train", "valid"), apart.images, strict=True)),
            "levels": len(apart.by_level.value),
        },
        "duplicates": {
            kind: [{"valid": names[a], "train": names[b]} for a, b in found]
            for kind, found in vars(twice).items()
        },
    }


def _share(judged: Judged) -> dict[str, Any]:
    share = {name: float(value) for name, value in vars(judged.share).items()}
    return {"count": int(judged.called.sum()), "of": len(judged.called), **share}


def report(verdict: Verdict, apart: Gap | None, twice: Duplicates) -> str:
    """What was found, a sentence a line, the verdict first."""
    lines = [verdict.sentence]
    if verdict.held_out is None:
        lines.append("No image was held out: the rate of false alarms is promised and not seen.")
    else:
        share, n = _percent(verdict.held_out.share), len(verdict.held_out.called)
        lines.append(f"{share} of {n} held-out images pass for copies: false alarms.")
    lines.append(
        f"Left out of both are {verdict.left_out} real images that are, or nearly are, other training images."
    )
    if apart is not None:
        what = "more than chance: it memorises" if apart.overall.low > 0 else "no more than chance"
        times, low, high = (1 + end for end in (apart.overall.value, apart.overall.low, apart.overall.high))
        lines.append(
            "Over all levels its noise MSE on held-out images is "
            f"{times:.3g} [{low:.3g}, {high:.3g}] times that on training images, {what}."
        )
    lines.append(
        f"{len(twice.same)} held-out images are also training images, and {len(twice.alike)} nearly are."
    )
    return "\n".join(lines)


def _percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f} % [{100 * e.low:.1f}, {100 * e.high:.1f}]"
