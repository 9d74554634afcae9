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

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddim.diffusion.guidance import Interval
from ddim.errors import UserError, check_count, format_count
from ddim.evaluation.diagnose import describe_gap, draw_subset, measure_parts
from ddim.evaluation.image_sets import SampledParts
from ddim.evaluation.record import Recorded, name_recorded_guidance
from ddim.evaluation.run_folder import open_run_folder, write_result
from ddim.machine.progress import Progress, ignore_progress, with_bar
from ddim.metrics.features import Extractor, extract_features, open_extractor
from ddim.metrics.neighbours import Neighbours, References, flatten_features, nearest_neighbours, standardise
from ddim.metrics.statistics import estimate_share, false_alarm_threshold
from ddim.plots import charts
from ddim.sampling.image_features import ImageSet, compute_features
from ddim.sampling.images import open_run_images
from ddim.sampling.labels import choose_label
from ddim.sampling.pipeline import LoadedRun
from ddim.sampling.sampling_setup import choose_sampling, collect_guidance

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

FEWEST = 8
"""Smallest number of real images from which the threshold is learned."""

FARTHEST_DUPLICATE = 1 - 0.95
"""Two images count as near-duplicates if 1 minus the correlation of their pixels is at most this number."""


class Memorisation(Recorded):
    """The record of a memorisation test; its rows are the samples, of which the text shows the closest."""

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
        record, alarms, same = self.record, self.record["false_alarms"], self.record["duplicates"]
        notes = [
            f"By {record['space']}, {_describe_share(record['copies'])} samples count as copies. At most "
            f"{100 * record['bound']:.1f} % of real images do so, if near-duplicates of training images, "
            f"here {record['left_out']:,}, are left out."
        ]
        if alarms:
            notes.append(f"As a check, {_describe_share(alarms)} held-out images do so: false alarms.")
        if record["gap"]:
            notes.append(describe_gap(record["gap"]))
        notes.append(
            f"Of {same['compared']:,} of {format_count(same['of'], 'held-out image')}, "
            f"{len(same['same']):,} equal a training image, and {len(same['alike']):,} nearly do."
        )
        return notes

    def to_records(self) -> list[dict[str, Any]]:
        """Return one dictionary for each sample: seed, closeness, copy or not, nearest training image.

        The closeness is the distance to the nearest training image, divided by the mean distance to the
        nearest 50: about 1 for a new image, near 0 for a copy.
        """
        return self.record["samples"]

    def _shown_rows(self) -> Sequence[Mapping[str, Any]]:
        """Return the rows of the pairs in the picture, in its order."""
        return _sort_closest(self.record)


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
    before copies appear. The record lists held-out images that are training images too.

    The samples are those of `ddim.sample`, of all classes in turn; clusters are as frequent as in training.

    Args:
        run: a run folder.
        n: number of samples; their seeds are 0 ... n - 1.
        steps: sampling steps (default: the run's).
        features: "pixels", or the network whose features are compared, such as efficientnet-lite0.
        guidance: guidance scale (default: 1, off).
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
    run = open_run_folder(run, out)
    extractor = None if features == PIXELS else open_extractor(features).to(run.runtime.exact_device)
    asked = collect_guidance(guidance, guidance_interval, guide_with)
    setup = choose_sampling(run, steps, choose_label(run.recipe), fields or {}, guidance=asked)
    run = setup.pipeline
    split = open_run_images(run, progress)
    sampled = SampledParts(setup, range(n), progress)
    samples = sampled.samples().permute(0, 2, 3, 1).numpy()
    train = ImageSet(split.images, split.train, "", "training")
    valid = ImageSet(split.images, draw_subset(split.validation, QUERIES), "", "held-out")
    mirrored = replace(train, part="mirrored", mirrored=True)
    views = [train, mirrored] if run.recipe.data.flip else [train]
    copies = find_copies(samples, views, valid, extractor, progress)
    pairs = charts.rasterise(draw_pairs(copies, samples, train))
    gap = measure_parts(run, split, progress)["gap"]
    content = {
        **copies,
        "samples": [{**row, "nearest": train.name(row["nearest"])} for row in copies["samples"]],
        "gap": gap and gap["overall"],
        "duplicates": {**find_duplicates(views, valid, progress), "of": len(split.validation)},
        "features": extractor and {"extractor": extractor.name, "weights": extractor.weights},
        "sampling": sampled.record,
    }
    return Memorisation(*write_result("memorisation", run, "memorisation", out, content, pairs=pairs))


# Copies


def find_copies(
    samples: np.ndarray,
    views: Sequence[References],
    valid: References,
    extractor: Extractor | None = None,
    progress: Progress = ignore_progress,
) -> dict[str, Any]:
    """Return the copies among samples, with the threshold below which an image counts as a copy, as JSON.

    "bound" is an upper bound on the share of real images below the threshold, "learned_from" the number of
    real images from which it was learned, and "left_out" the number of near-duplicates among all real images.
    "memorised" says whether more samples are copies than chance allows: the interval of their share is above
    the bound. "samples" has the closeness of each sample, and the place of its nearest training image.

    Args:
        samples: the samples (N, H, W, C) uint8; sample k has the seed k.
        views: the training images as an array or an `ImageSet`, whose features are cached, and their mirror
            images if the run was trained on them.
        valid: the held-out images.
        extractor: the network whose features are compared; None compares pixels.
        progress: called with "features of samples", "neighbours of training images" and so on.

    Raises:
        UserError: if too few real images are not near-duplicates of training images.
    """
    # The images are drawn at random, because files may be sorted by class.
    draw, train = np.random.default_rng(0), views[0]
    some = draw.permutation(len(train))[:QUERIES]
    order, half = draw.permutation(len(valid)), len(valid) // 2
    learn, rest = order[:half], order[half:]
    rows: list[References] = [samples, valid, *views]
    embed = standardise
    if extractor is not None:
        rows = [_compute(extractor, images, progress) for images in rows]
        embed = flatten_features
    drawn, held_out, *known = rows

    def find(what: str, rows: np.ndarray, themselves: np.ndarray | None = None) -> Neighbours:
        onward = partial(progress, f"neighbours of {what}")
        return nearest_neighbours(rows, known, themselves=themselves, embed=embed, progress=onward)

    def keep_single(found: Neighbours, images: np.ndarray) -> np.ndarray:
        """Return the closeness of those real images that are not near-duplicates of training images."""
        return found.closeness[~_near_duplicates(found, images, views)]

    seen = keep_single(find("training images", known[0][some], some), train[some])
    unseen = keep_single(find("held-out images", held_out[learn]), valid[learn])
    fresh = keep_single(find("held-out images", held_out[rest]), valid[rest])
    null = np.concatenate([seen, unseen])
    if len(null) < FEWEST:
        raise UserError(f"memorisation needs at least {FEWEST} different real images, got {len(null)}")
    threshold, bound = false_alarm_threshold(null, confidence=CONFIDENCE)
    found = find("samples", drawn)
    copies = _count_copies(found.closeness, threshold)
    nearest = zip(found.closeness.tolist(), found.indices[:, 0].tolist(), strict=True)
    return {
        "space": PIXELS if extractor is None else f"{extractor.name} features",
        "threshold": threshold,
        "bound": bound,
        "learned_from": len(null),
        "left_out": len(some) + len(valid) - len(null) - len(fresh),
        "memorised": copies["low"] > bound,
        "verdict": _judge(copies, bound),
        "copies": copies,
        "false_alarms": _count_copies(fresh, threshold) if len(fresh) else None,
        "samples": [
            {"seed": seed, "closeness": closeness, "copy": closeness < threshold, "nearest": place}
            for seed, (closeness, place) in enumerate(nearest)
        ],
    }


def _compute(extractor: Extractor, images: ImageSet | np.ndarray, progress: Progress) -> np.ndarray:
    """Return the features of images; those of an `ImageSet` are kept in the cache."""
    if isinstance(images, ImageSet):
        return compute_features(images, extractor, partial(progress, f"features of {images.part} images"))
    return extract_features(extractor, images, progress=partial(progress, "features of samples"))


def _count_copies(closeness: np.ndarray, threshold: float) -> dict[str, Any]:
    """Return the number of copies, and their share with its exact 95 % interval, as JSON."""
    count = int((closeness < threshold).sum())
    share = estimate_share(count, len(closeness))
    return {"count": count, "of": len(closeness), **share.to_json()}


def _judge(copies: Mapping[str, Any], bound: float) -> str:
    """Return the verdict for a reader without statistics."""
    count, n = copies["count"], copies["of"]
    if not count:
        return f"no sample copies a training image ({n:,} samples were compared)"
    if copies["low"] > bound:
        return f"{count:,} of {n:,} samples copy training images"
    return f"{count:,} of {n:,} samples may copy training images, which is no more than chance explains"


def _near_duplicates(found: Neighbours, images: np.ndarray, views: Sequence[References]) -> np.ndarray:
    """Return whether each of N images (N, H, W, C) is a near-duplicate of its nearest training image."""
    rows = standardise(images)

    def measure(places: np.ndarray) -> np.ndarray:
        """Return 1 minus the correlation of each image with the training image at its place."""
        squares = [(standardise(view[places]) - rows).square().sum(1) for view in views]
        # For rows of norm 1, half the squared distance is 1 minus the correlation.
        return torch.stack(squares).amin(0).numpy() / 2

    nearest = measure(found.indices[:, 0])
    middle = measure(found.indices[:, found.indices.shape[1] // 2])
    # If even the middle neighbour has a correlation of at least 0.95, all images of the set look similar.
    # Then only images that are equal, in this space or in pixels, are duplicates.
    alike = (nearest <= FARTHEST_DUPLICATE) & (middle > FARTHEST_DUPLICATE)
    return (found.closeness == 0) | (nearest == 0) | alike


def find_duplicates(
    views: Sequence[ImageSet], valid: ImageSet, progress: Progress = ignore_progress
) -> dict[str, Any]:
    """Return the pairs of (nearly) equal held-out and training images, by name, as JSON.

    "same" has the pairs that are equal to the last bit, and "alike" the other pairs whose pixels have a
    correlation of at least 0.95. "compared" is the number of held-out images.
    """
    images, pairs = valid[:], {"same": [], "alike": []}
    onward = partial(progress, "duplicates of held-out images")
    found = nearest_neighbours(images, views, 1, embed=standardise, progress=onward)
    # For rows of norm 1, half the squared distance is 1 minus the correlation.
    alike = found.distances[:, 0] ** 2 / 2 <= FARTHEST_DUPLICATE
    for k in np.flatnonzero(alike).tolist():
        nearest = found.indices[k]
        equal = any(np.array_equal(view[nearest][0], images[k]) for view in views)
        pair = {"valid": valid.name(k), "train": views[0].name(nearest[0])}
        pairs["same" if equal else "alike"].append(pair)
    return {**pairs, "compared": len(valid)}


def _describe_share(share: Mapping[str, Any]) -> str:
    """Return a share with its confidence interval, such as "3.0 % [1.1, 6.4] of 200"."""
    value, low, high = (100 * share[name] for name in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}] of {share['of']:,}"


def _sort_closest(copies: Mapping[str, Any]) -> list[dict[str, Any]]:
    return sorted(copies["samples"], key=lambda row: row["closeness"])[:PAIRS]


def draw_pairs(copies: Mapping[str, Any], samples: np.ndarray, train: ImageSet) -> charts.Figure:
    """Return a figure of the samples closest to training images, each above its nearest training image.

    The samples are (N, H, W, C) uint8, and `copies` is what `find_copies` returned.
    """
    closest = _sort_closest(copies)
    nearest, below = np.array([row["nearest"] for row in closest]), "nearest in\ntraining"
    rows = {"sample": [samples[row["seed"]] for row in closest], below: list(train[nearest])}
    notes = {
        "sample": [f"{row['closeness']:.2f}{' copy' if row['copy'] else ''}" for row in closest],
        below: [textwrap.fill(train.name(k), 11) for k in nearest],
    }
    heads = [f"{k + 1}" for k in range(len(closest))]
    numbers = f"numbers: relative distance, below {copies['threshold']:.2f} a copy"
    return charts.plot_strip(rows, heads, notes, f"Nearest by {copies['space']}; {numbers}")
