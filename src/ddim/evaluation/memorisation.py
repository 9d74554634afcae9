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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ddim.data import Images, SplitImages
from ddim.diffusion.guidance import Interval
from ddim.errors import UserError, check_count, format_count
from ddim.evaluation.diagnose import describe_gap, draw_subset, measure_parts
from ddim.evaluation.image_summary import take_pictures
from ddim.evaluation.record import name_recorded_guidance
from ddim.evaluation.run_folder import Recorded, open_run_folder, write_result
from ddim.evaluation.sample_features import SampledParts
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.metrics.features import Extractor, extract_features, open_extractor
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
from ddim.metrics.statistics import estimate_share, false_alarm_threshold
from ddim.plots import charts
from ddim.sampling.image_features import ImageSet, compute_features
from ddim.sampling.images import open_run_images
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import LoadedRun
from ddim.sampling.record import make_record
from ddim.sampling.sampling_setup import choose_sampling, collect_guidance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS = "pixels"
PAIRS = 12
"""The largest number of samples in the figure of pairs."""

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


class Memorisation(Recorded):
    """The record of a memorisation test; its rows are the samples, with the nearest image of each."""

    @property
    def verdict(self) -> str:
        """Whether samples copy training images."""
        return self.record["verdict"]

    @property
    def title(self) -> str:
        """The guidance of the samples, and the file of the closest pairs."""
        guidance = name_recorded_guidance(self.record["sampling"])
        pairs = f"the closest pairs: {self.folder}/pairs.png"
        return f"samples with {guidance}\n{pairs}" if guidance else pairs

    @property
    def notes(self) -> list[str]:
        """The numbers behind the verdict, and the other findings, as sentences."""
        return list(_explain(self.record))

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each sample: seed, closeness, copy or not, nearest training image."""
        return self.record["samples"]


@with_bar
def memorisation(  # noqa: PLR0913 (the options of a command)
    run: str | Path | LoadedRun,
    n: int = 500,
    steps: int | None = None,
    *,
    features: str | Extractor = PIXELS,
    guidance: float | None = None,
    guidance_interval: Interval | None = None,
    guide_with: str | Path | LoadedRun | None = None,
    fields: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    progress: Progress = ignore_progress,
) -> Memorisation:
    """Measure whether a run copies its training images.

    A sample counts as a copy if its nearest training image is unusually close, compared with its next 50
    neighbours. What is unusual is learned from real images. Pixels are compared without brightness and
    contrast, and with mirrored training images too if the run trained on them.

    The test also measures how much worse held-out images are denoised than training images: this gap grows
    before copies appear. It lists held-out images that are training images too.

    The samples are those of `ddim sample`, of all classes in turn; clusters are as frequent as in training.

    Args:
        run: a run folder.
        n: number of samples; their seeds are 0 ... n - 1.
        steps: sampling steps (default: the run's).
        features: "pixels", or the network whose features are compared, such as efficientnet-lite0.
        guidance: guidance scale; 1 is off (default: what `ddim search` found, else 1).
        guidance_interval: guide only at these log-SNRs, such as -2,5 (default: all).
        guide_with: guide with a weaker model: @guide (early weights of the run), or runs/small-1@raw.
        out: a new or empty folder for the results (default: RUN/memorisation/N).

    Other Parameters:
        fields: fields of the sampler and the grid, such as sampler.eta.
        progress: called while images are decoded, sampled, denoised and compared.

    Returns:
        The verdict, with a row for each sample; its folder has record.json and pairs.png.

    Raises:
        UserError: if there are too few images, or the images of the run are missing or have changed.

    Commands:
        ddim memorisation runs/photos-fast-1
        ddim memorisation runs/photos-fast-1 -n 1000 --features efficientnet-lite0
    """
    check_count("n", n)
    extractor = None if features == PIXELS else open_extractor(features)
    run = open_run_folder(run, out)
    asked = collect_guidance(guidance, guidance_interval, guide_with)
    setup = choose_sampling(run, steps, choose_label(run.recipe), fields or {}, guidance=asked)
    run = setup.pipeline
    if extractor is not None:
        extractor.to(run.runtime.exact_device)
    own = open_run_images(run, progress)
    sampled = SampledParts(setup, range(n), progress)
    samples = torch.cat([*sampled.samples()]).permute(0, 2, 3, 1).numpy()
    flip = run.recipe.data.flip
    copies = compare_with_training(own, samples, flip, extractor, progress)
    parts = measure_parts(run, own, progress=progress)
    gap = parts["gap"] and {
        **parts["gap"]["overall"],
        "images": {"train": parts["train"]["images"], "valid": parts["held_out"]["images"]},
        "levels": len(parts["train"]["log_snr"]),
    }
    content = {
        **_describe_copies(copies, range(n), own),
        "gap": gap,
        "duplicates": find_held_out_duplicates(own, flip, progress),
        "features": extractor and {"extractor": extractor.name, "weights": extractor.weights},
        "sampling": sampled.record,
    }
    record = make_record("memorisation", content, run)
    pairs = charts.rasterise(draw_pairs(copies, samples, own))
    return Memorisation(record, write_result(run, "memorisation", out, record, {"pairs.png": pairs}))


# Copies


@dataclass(frozen=True)
class Copies:
    """Samples and held-out images, compared with the training images.

    Attributes:
        space: the representation that was compared: "pixels" or the name of features.
        threshold: the closeness below which an image counts as a copy.
        bound: an upper bound on the share of real images whose closeness is below the threshold; real images
            that are near-duplicates of training images are not counted.
        learned_from: number of real images from which the threshold was learned.
        left_out: number of real images that were left out as near-duplicates.
        samples: the nearest training images of the samples, as positions in the training images.
        held_out: the same of those held-out images that were not used to learn the threshold.
    """

    space: str
    threshold: float
    bound: float
    learned_from: int
    left_out: int
    samples: Neighbours
    held_out: Neighbours

    @property
    def memorised(self) -> bool:
        """Whether more samples are copies than chance allows: the interval of the share is above `bound`."""
        return bool(self.count(self.samples)["low"] > self.bound)

    def count(self, images: Neighbours) -> dict[str, Any]:
        """Return how many of the images are copies, and their share with its exact 95 % interval, as JSON."""
        count, n = int((images.closeness < self.threshold).sum()), len(images.indices)
        return {"count": count, "of": n, **estimate_share(count, n).to_json()} if n else {}


def find_copies(
    samples: np.ndarray,
    train: References,
    valid: References,
    *,
    also: References | None = None,
    embed: Embed = standardise,
    images: tuple[References, References] | None = None,
    progress: Progress = ignore_progress,
) -> Copies:
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

    Raises:
        UserError: if too few real images are not near-duplicates of training images.
    """
    # The images are drawn at random, because files may be sorted by class.
    draw = np.random.default_rng(0)
    some = draw.permutation(len(train))[:QUERIES]
    learn, rest = np.split(draw.permutation(len(valid)), [len(valid) // 2])
    train_pixels, valid_pixels = images or (train, valid)
    find = partial(nearest_neighbours, references=train, also=also, embed=embed)

    def find_real(which: np.ndarray, training: bool) -> Neighbours:
        """Return the nearest training images of the real images `which`, without near-duplicates."""
        queries, pixels = (train, train_pixels) if training else (valid, valid_pixels)
        onward = partial(progress, f"neighbours of {'training' if training else 'held-out'} images")
        found = find(queries[which], themselves=which if training else None, progress=onward)
        single = ~_near_duplicates(found, pixels[which], train_pixels, also is not None)
        return Neighbours(found.distances[single], found.indices[single])

    null = np.concatenate([find_real(some, True).closeness, find_real(learn, False).closeness])
    held_out, total = find_real(rest, False), len(some) + len(valid)
    left_out = total - len(null) - len(held_out.indices)
    if len(null) < FEWEST:
        raise UserError(
            f"memorisation needs at least {FEWEST} real images that are not near-duplicates of training "
            f"images, but {left_out} of {total} are: give each image once"
        )
    threshold, bound = false_alarm_threshold(null, confidence=CONFIDENCE)
    nearest = find(samples, progress=partial(progress, "neighbours of samples"))
    return Copies(PIXELS, threshold, bound, len(null), left_out, nearest, held_out)


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


# Images of a run


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
        pictures = take_pictures(self.images, self.which[rows])
        return mirror(pictures) if self.mirrored else pictures


def compare_with_training(
    own: SplitImages,
    samples: np.ndarray,
    flip: bool,
    extractor: Extractor | None = None,
    progress: Progress = ignore_progress,
) -> Copies:
    """Return the copies among samples (N, H, W, C) uint8, found by pixels or by the features of a network.

    The features of the run's images are kept in the cache.

    Args:
        own: the images of the run.
        samples: the samples.
        flip: whether the run was trained on mirror images too.
        extractor: the network of the features; None compares pixels.
        progress: called with "features of samples", then with "features of training images" and so on, and
            as by `find_copies`.
    """
    train, valid = Pictures(own.images, own.train), Pictures(own.images, draw_subset(own.validation, QUERIES))
    also = replace(train, mirrored=True) if flip else None
    if extractor is None:
        return find_copies(samples, train, valid, also=also, progress=progress)

    def features(what: str, pictures: Pictures) -> np.ndarray:
        onward = partial(progress, f"features of {what} images")
        images = ImageSet(own.images, pictures.which, "", what, pictures.mirrored)
        return compute_features(images, extractor, onward)

    copies = find_copies(
        extract_features(extractor, samples, progress=partial(progress, "features of samples")),
        features("training", train),
        features("held out", valid),
        also=None if also is None else features("mirrored", also),
        embed=flatten_features,
        images=(train, valid),
        progress=progress,
    )
    return replace(copies, space=f"{extractor.name} features")


def find_held_out_duplicates(
    own: SplitImages, flip: bool, progress: Progress = ignore_progress
) -> dict[str, Any]:
    """Return the pairs of (nearly) equal held-out and training images, by name, as JSON.

    At most `QUERIES` held-out images, drawn at random, are compared with all training images; if `flip`, with
    their mirror images too. "same" has the pairs that are equal to the last bit, and "alike" the other pairs
    whose pixels have a correlation of at least 0.95.
    """
    which, pairs = draw_subset(own.validation, QUERIES), {"same": [], "alike": []}
    if len(which):
        valid = take_pictures(own.images, which)
        views = [Pictures(own.images, own.train, mirrored) for mirrored in [False, True][: 1 + flip]]
        also, onward = views[1] if flip else None, partial(progress, "duplicates of held-out images")
        found = nearest_neighbours(valid, views[0], 1, also=also, embed=standardise, progress=onward)
        # For rows of norm 1, half the squared distance is 1 minus the correlation.
        for k in np.flatnonzero(found.distances[:, 0] ** 2 / 2 <= 1 - DUPLICATE_CORRELATION):
            index, names = found.indices[k], own.images.names
            equal = any(np.array_equal(view[index][0], valid[k]) for view in views)
            pair = {"valid": names[which[k]], "train": names[own.train[index[0]]]}
            pairs["same" if equal else "alike"].append(pair)
    return {**pairs, "compared": len(which), "of": len(own.validation)}


# The record


def _describe_copies(copies: Copies, seeds: range, own: SplitImages) -> dict[str, Any]:
    """Return the copies as JSON; samples are in the order of their seeds, training images given by name."""
    share, closeness, names = copies.count(copies.samples), copies.samples.closeness, own.images.names
    rows = zip(seeds, closeness.tolist(), own.train[copies.samples.indices[:, 0]], strict=True)
    facts = ("space", "threshold", "bound", "learned_from", "left_out", "memorised")
    return {
        **{name: getattr(copies, name) for name in facts},
        "verdict": _judge(share, copies.memorised),
        "copies": share,
        "false_alarms": copies.count(copies.held_out) or None,
        "samples": [
            {"seed": seed, "closeness": c, "copy": c < copies.threshold, "nearest": names[k]}
            for seed, c, k in rows
        ],
    }


def _judge(share: Mapping[str, Any], memorised: bool) -> str:
    """Return the verdict for a reader without statistics."""
    count, n = share["count"], share["of"]
    if not count:
        return f"no sample copies a training image ({n:,} samples were compared)"
    of = f"{count:,} of {format_count(n, 'sample')}"
    if memorised:
        return f"{of} {'copies a training image' if count == 1 else 'copy training images'}"
    return f"{of} may copy training images, which is no more than chance explains"


def _explain(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the numbers behind the verdict of a record, and its other findings, as sentences."""
    alarms, left_out, same = record["false_alarms"], record["left_out"], record["duplicates"]
    yield (
        f"By {record['space']}, {_describe_share(record['copies'])} count as copies. At most "
        f"{100 * record['bound']:.1f} % of real images that are not near-duplicates of training images do so."
    )
    if alarms is None:
        yield "No held-out image is left for a check of this bound."
    else:
        yield f"As a check, {_describe_share(alarms, 'held-out image')} count as copies: false alarms."
    if left_out:
        yield f"{format_count(left_out, 'real image')} left out as near-duplicates of training images."
    if record["gap"] is not None:
        yield describe_gap(record["gap"])
    yield (
        f"Of {same['compared']:,} of {format_count(same['of'], 'held-out image')}, {len(same['same']):,} "
        f"equal a training image, and {len(same['alike']):,} nearly do."
    )


def _describe_share(share: Mapping[str, Any], noun: str = "sample") -> str:
    """Return a share with its confidence interval, such as "3.0 % [1.1, 6.4] of 200 samples"."""
    value, low, high = (100 * share[name] for name in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}] of {format_count(share['of'], noun)}"


def draw_pairs(copies: Copies, samples: np.ndarray, own: SplitImages) -> Figure:
    """Return a figure of the samples closest to training images, each above its nearest training image.

    The samples are (N, H, W, C) uint8.
    """
    closeness = copies.samples.closeness
    worst = np.argsort(closeness, kind="stable")[:PAIRS]
    which = own.train[copies.samples.indices[worst, 0]]
    below = "nearest in\ntraining"
    rows = {"sample": [samples[k] for k in worst], below: list(take_pictures(own.images, which))}
    marks = [" copy" if closeness[k] < copies.threshold else "" for k in worst]
    names = [own.images.names[k] for k in which]
    notes = {
        "sample": [f"{closeness[k]:.2f}{mark}" for k, mark in zip(worst, marks, strict=True)],
        below: charts.shorten_apart(names, 11),
    }
    title = (
        f"Nearest by {copies.space}; numbers: distance relative to other neighbours; below "
        f"{copies.threshold:.2f}, a sample is a copy"
    )
    return charts.plot_strip(rows, [f"{k + 1}" for k in range(len(worst))], notes, title)
