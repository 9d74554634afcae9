"""Measure metrics of two sets of images, and differences of metrics between two evaluations."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddim.errors import UserError, describe_given
from ddim.evaluation.record import FEATURES, FEW, Evaluation, Metrics, format_estimate, parse_metrics
from ddim.files import hash_file
from ddim.metrics.catalogue import DEFAULT, LEAST, METRICS
from ddim.metrics.estimate import Estimate
from ddim.metrics.features import Extractor, extract_features, open_extractor
from ddim.metrics.fid import fid, fid_infinity
from ddim.metrics.kid import kid, kid_difference
from ddim.metrics.prdc import prdc
from ddim.plots.pictures import check_images, to_uint8
from ddim.sampling.image_features import find_features

ENOUGH = 10
"""FID-infinity needs more than this many samples for each dimension of the features.

Its smallest subsets, a fifth of the samples, then have two images for each dimension. With just more than
one, the bias of FID is not linear in 1 / N: for normal features in 256 dimensions, whose variance falls as
1 / k, the interval of 1,300 samples held the true value in 11 % of cases.
"""

GROUPS = 10
"""Number of parts of each set of images; the jackknife leaves out one part at a time."""


def measure(
    images: Tensor | np.ndarray, reference: Tensor | np.ndarray, *, features: str | Extractor = DEFAULT
) -> Metrics:
    """Return KID, FID and the other metrics of images in memory; nothing is written.

    Args:
        images: (N, C, H, W) in [0, 1] or uint8, with C = 1 (gray), 3 (RGB) or 4 (RGBA).
        reference: the real images (M, C, H, W); their size may differ.
        features: the network that computes the features: a name in `ddim.metrics.catalogue.EXTRACTORS`, or an
            `Extractor`.

    Returns:
        The metrics as a table; KID with its 95 % confidence interval.

    Raises:
        UserError: if there are fewer than 20 images of one kind, or their values are outside [0, 1].

    Example:
        >>> found = ddim.measure(samples, photos)
        >>> found.value("kid"), found.interval("kid")
    """
    pixels = [to_pixels(images), to_pixels(reference)]
    count, other = map(len, pixels)
    if min(count, other) < LEAST:
        raise UserError(f"metrics need at least {LEAST} images of each kind, got {count} and {other}")
    extractor = open_extractor(features)
    metrics, notes = measure_metrics(*(extract_features(extractor, each) for each in pixels))
    return Metrics(parse_metrics(metrics), notes)


def to_pixels(images: Tensor | np.ndarray) -> np.ndarray:
    """Return images (N, C, H, W) that a user gives, in [0, 1] or uint8, as (N, H, W, C) uint8."""
    if not isinstance(images, Tensor | np.ndarray):
        given = describe_given(images)
        raise UserError(f"images must be one tensor or array; ddim.evaluate takes other images, got {given}")
    if isinstance(images, np.ndarray):
        # An array that is read-only or reversed, such as bgr[..., ::-1], is copied.
        images = torch.from_numpy(np.require(images, None, ["C", "W"]))
    check_images(images)
    return to_uint8(images)


def measure_metrics(generated: np.ndarray, reference: np.ndarray) -> tuple[dict[str, Any], list[str]]:
    """Return the metrics of features (N, d) and (M, d), in the form of a record, and notes on the metrics.

    A note is a sentence about a number that is missing or easily misread.
    """
    count, dimensions, few = len(generated), generated.shape[1], min(len(generated), len(reference))
    # A subset has 1000 images, as published, but at most half of the set: subsets as large as the set
    # would all be the same.
    k = kid(generated, reference, size=min(1000, few // 2))
    values = {"fid": fid(generated, reference), **asdict(prdc(generated, reference))}
    metrics: dict[str, Any] = {"kid": k.to_json(), **{name: {"value": each} for name, each in values.items()}}
    if count > ENOUGH * dimensions:
        metrics["fid_infinity"] = fid_infinity(generated, reference).to_json()
    notes = []
    if few <= dimensions:
        # A covariance in d dimensions needs d + 1 images for full rank.
        bias = f"FID of {few} images in {dimensions} dimensions is mostly bias"
        advice = "compare it only with FID of the same number of images, or use KID, which is unbiased"
        notes.append(f"{bias}, which FID-infinity cannot remove: {advice}")
    if k.value < 0:
        notes.append("KID is below 0: the estimate is unbiased, so it may fall below 0 for similar sets")
    if few < FEW:
        notes.append(f"with so few images ({few}), FID, precision and density say little, and only KID ranks")
    return metrics, notes


# Differences


@dataclass(frozen=True)
class Difference(Estimate):
    """The metric of an evaluation minus the metric of the first evaluation, with its 95 % interval.

    `paired` says whether both evaluations sampled the same seeds.
    """

    paired: bool

    def __str__(self) -> str:
        """Return whether the interval excludes 0, the difference, and half the width of its interval."""
        judged = "larger than chance" if self.distinguishable else "may be chance"
        kind = "paired" if self.paired else "not paired"
        return f"{judged}: {format_estimate(self, '+')}, {kind}"


def measure_difference(one: Evaluation, other: Evaluation, metric: str) -> Difference | str:
    """Return the metric of `one` minus the metric of `other`, or the reason why the difference is not known.

    The 95 % confidence interval comes from a jackknife. For KID, the jackknife leaves out one image at a
    time; for the other metrics, it leaves out a tenth of each set. Both evaluations lose the same reference
    images. If they sampled the same seeds, they also lose the same samples.

    Except for KID, the intervals are conservative, because the jackknife overestimates the variance (Efron &
    Stein 1981): they contain the true difference in at least 95 % of cases. For precision, recall, density
    and coverage they are up to about twice as wide as needed.
    """
    if metric == "fid_infinity":
        return f"differences of {METRICS[metric].title} have no reliable confidence interval"
    reference = find_features(one.reference.sha256, one.reference.images)
    if reference is None:
        return f"the cache lacks the features of the reference: evaluate again with {one.features.extractor}"
    mine, theirs = load_features(one), load_features(other)
    if mine is None or theirs is None:
        missing = one if mine is None else other
        return f"{missing.folder / FEATURES} is missing or does not belong to its record"
    paired = bool(one.sampling and other.sampling and one.sampling["seeds"] == other.sampling["seeds"])
    if metric == "kid":
        found = kid_difference(mine, theirs, reference, paired=paired)
    else:
        statistic = fid if metric == "fid" else lambda generated, of: getattr(prdc(generated, of), metric)
        found = _jackknife(statistic, mine, theirs, reference)
    return Difference(**vars(found), paired=paired)


def load_features(evaluation: Evaluation) -> np.ndarray | None:
    """Return the features of an evaluation, from the file beside its record, as a read-only memory map.

    Return None if the file is missing or belongs to another record.
    """
    path = evaluation.folder / FEATURES
    if not path.is_file() or evaluation.record["generated"]["sha256"] != hash_file(path):
        return None
    return np.lib.format.open_memmap(path, mode="r")


def _jackknife(statistic: Callable[..., float], *sets: np.ndarray) -> Estimate:
    """Return the statistic of one set minus that of another, with the interval of a jackknife.

    Each round leaves out a tenth of each of the three sets together. The variances of independent sets still
    add up, because their tenths are independent.

    Args:
        statistic: the metric, as a function of generated and reference features.
        sets: features (N, d) of the first evaluation, (M, d) of the second one, and (R, d) of the reference.
    """
    one, other, reference = sets
    value = statistic(one, reference) - statistic(other, reference)
    # The ten parts are drawn at random. If each were every tenth sample, one part could contain all samples
    # of a class, because seed s may have class s % classes.
    # Sets of equal size are divided in the same way, so samples of equal seeds are left out together.
    tenths = [np.random.default_rng(0).permutation(len(features)) % GROUPS for features in sets]
    without = []
    for k in range(GROUPS):
        a, b, truth = (features[tenth != k] for features, tenth in zip(sets, tenths, strict=True))
        without.append(statistic(a, truth) - statistic(b, truth))
    error = math.sqrt((GROUPS - 1) * float(np.var(without)))
    return Estimate.from_error(value, error, GROUPS - 1)
