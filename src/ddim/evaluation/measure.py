"""Measure metrics of two sets of images, and those of real images as a yardstick."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddim.errors import UserError, warn_user
from ddim.evaluation.record import FEW, Metrics, parse_metrics
from ddim.files import cache_folder, read_sealed, write_sealed
from ddim.metrics.catalogue import DEFAULT, LEAST
from ddim.metrics.features import Extractor, extract_features, open_extractor
from ddim.metrics.fid import fid, fid_infinity
from ddim.metrics.kid import kid
from ddim.metrics.prdc import prdc
from ddim.plots.pictures import check_images, to_uint8
from ddim.sampling.image_features import ImageSet, compute_features

ENOUGH = 10
"""FID-infinity needs more than this many samples for each dimension of the features.

Its smallest subsets, a fifth of the samples, then have two images for each dimension. With just more than
one, the bias of FID is not linear in 1 / N: for normal features in 256 dimensions, whose variance falls as
1 / k, the interval of 1,300 samples held the true value in 11 % of cases.
"""


def measure(
    images: Tensor | np.ndarray, reference: Tensor | np.ndarray, *, features: str | Extractor = DEFAULT
) -> Metrics:
    """Return KID, FID, precision, recall, density and coverage of images in memory; nothing is written.

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
    extractor = open_extractor(features)
    both = [extract_features(extractor, to_pixels(each)) for each in (images, reference)]
    if min(map(len, both)) < LEAST:
        count, other = map(len, both)
        raise UserError(f"metrics need at least {LEAST} images of each kind, got {count} and {other}")
    metrics, notes = measure_metrics(*both)
    return Metrics(parse_metrics(metrics), notes)


def to_pixels(images: Tensor | np.ndarray) -> np.ndarray:
    """Return images (N, C, H, W) that a user gives, in [0, 1] or uint8, as (N, H, W, C) uint8."""
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
    f: dict[str, float | None] = {"value": fid(generated, reference)}
    f |= {"infinity": None, "low": None, "high": None}
    notes = []
    if few <= dimensions:
        # A covariance in d dimensions needs d + 1 images for full rank.
        notes.append(
            f"FID of {few} images in {dimensions} dimensions is mostly bias, which FID-infinity cannot "
            "remove: compare it only with FID of the same number of images, or use KID, which is unbiased"
        )
    if count > ENOUGH * dimensions:
        infinity = fid_infinity(generated, reference)
        f = {"value": f["value"], "infinity": infinity.value, "low": infinity.low, "high": infinity.high}
        notes.append(
            f"FID-infinity and its interval are for these {len(reference):,} reference images, "
            "not for the distribution that they come from"
        )
    elif not notes:
        notes.append(f"FID-infinity needs more than {ENOUGH * dimensions:,} samples, got {count:,}")
    if k.value < 0:
        notes.append("KID is below 0: the estimate is unbiased, so it may fall below 0 for similar sets")
    if few < FEW:
        notes.append(f"with so few images ({few}), FID, precision and density say little, and only KID ranks")
    overlap = {name: {"value": value} for name, value in asdict(prdc(generated, reference)).items()}
    if not overlap["recall"]["value"]:
        notes.append("recall is 0: samples cover no reference image, so precision and density say little")
    return {"kid": k.to_json(), "fid": f, **overlap}, notes


def measure_yardstick(
    reference: ImageSet,
    samples: int,
    extractor: Extractor,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any] | None:
    """Return the metrics of real images against the reference, as a yardstick for the metrics of samples.

    The real images come from the same source as the reference, but are not part of it. For example, they are
    training images if the reference is the held-out images. There are as many real images as samples, if the
    source has enough, because some metrics depend on the number of images. The result is kept in the cache.

    Args:
        reference: the images that samples are compared with.
        samples: the number of samples.
        extractor: the network of the features.
        progress: called with (done, total) while features are computed.

    Returns:
        A dictionary with "images", "part", "sha256" and "metrics", as in a record; None if there are too few
        samples or real images.
    """
    others = np.setdiff1d(np.arange(len(reference.images)), reference.which)
    if min(samples, len(others)) < LEAST:
        return None
    chosen = np.sort(np.random.default_rng(0).permutation(others)[:samples])
    part = {"valid": "train", "train": "valid"}[reference.part]
    real = ImageSet(reference.images, chosen, reference.source, part)
    facts = [real.identity(extractor), reference.identity(extractor), version("ddim")]
    path = cache_folder() / "features" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}.json"
    try:
        if path.exists():
            return read_sealed(path)
    except UserError:
        warn_user(f"the cache file {path} is damaged, so it is computed again")
    features = compute_features(real, extractor, progress)
    metrics, _ = measure_metrics(features, compute_features(reference, extractor))
    found = {"images": len(chosen), "part": part, "sha256": facts[0], "metrics": metrics}
    write_sealed(path, found)
    return found
