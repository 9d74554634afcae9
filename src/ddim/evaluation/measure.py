"""Measure metrics of two sets of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddim.errors import UserError, describe_given
from ddim.evaluation.record import FEW, Metrics, parse_metrics
from ddim.metrics.catalogue import DEFAULT, LEAST
from ddim.metrics.features import Extractor, extract_features, open_extractor
from ddim.metrics.fid import fid, fid_infinity
from ddim.metrics.kid import kid
from ddim.metrics.prdc import prdc
from ddim.plots.pictures import check_images, to_uint8

ENOUGH = 10
"""FID-infinity needs more than this many samples for each dimension of the features.

Its smallest subsets, a fifth of the samples, then have two images for each dimension. With just more than
one, the bias of FID is not linear in 1 / N: for normal features in 256 dimensions, whose variance falls as
1 / k, the interval of 1,300 samples held the true value in 11 % of cases.
"""

STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"fid": fid}
"""Metrics without an interval, as functions of generated and reference features, beside those of `prdc`."""


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
    values = {name: statistic(generated, reference) for name, statistic in STATISTICS.items()}
    values |= asdict(prdc(generated, reference))
    metrics: dict[str, Any] = {"kid": k.to_json(), **{name: {"value": each} for name, each in values.items()}}
    metrics["fid"] |= {"infinity": None, "low": None, "high": None}
    notes = []
    if few <= dimensions:
        # A covariance in d dimensions needs d + 1 images for full rank.
        notes.append(
            f"FID of {few} images in {dimensions} dimensions is mostly bias, which FID-infinity cannot "
            "remove: compare it only with FID of the same number of images, or use KID, which is unbiased"
        )
    if count > ENOUGH * dimensions:
        infinity = fid_infinity(generated, reference)
        metrics["fid"] |= {"infinity": infinity.value, "low": infinity.low, "high": infinity.high}
    if k.value < 0:
        notes.append("KID is below 0: the estimate is unbiased, so it may fall below 0 for similar sets")
    if few < FEW:
        notes.append(f"with so few images ({few}), FID, precision and density say little, and only KID ranks")
    return metrics, notes
