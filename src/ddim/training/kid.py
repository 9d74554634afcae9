"""Measure the KID (kernel inception distance) of a run at each validation during training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ddim.errors import UserError
from ddim.metrics.catalogue import LEAST
from ddim.metrics.features import Extractor, load_extractor
from ddim.metrics.kid import kid
from ddim.sampling.generate import sample_uint8, split_into_parts
from ddim.sampling.image_features import BATCH, ImageSet, compute_features
from ddim.sampling.labels import choose_label
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training.loop import Training

MeasureKID = Callable[[], dict[str, float]]
"""Returns {"kid": ..., "kid_low": ..., "kid_high": ...}, or {} if `report.kid` is 0."""


def prepare_kid(training: Training) -> MeasureKID:
    """Return a function that measures the KID of `report.kid` samples, with its 95 % confidence interval.

    Samples come from the EMA weights, with the same seeds each time, in the recipe's number of steps. If the
    run has labels, the samples have each class in turn. If the classes are clusters, the samples have each
    class as often as in training. The reference set is all validation images.

    Raises:
        UserError: if there are too few validation images, or the packages for features are missing.
    """
    report, split, recipe = training.recipe.report, training.split, training.recipe
    if not report.kid:
        return dict
    if len(split.validation) < LEAST:
        raise UserError(
            f"report.kid needs at least {LEAST} validation images, got {len(split.validation)}: "
            "raise data.validation"
        )
    held_out = ImageSet(split.images, split.validation, recipe.data.source, "valid")

    def prepare() -> tuple[Extractor, np.ndarray]:
        extractor = load_extractor().to(training.runtime.exact_device)
        return extractor, compute_features(held_out, extractor)

    extractor, reference = training.processes.local_first(prepare)

    def measure() -> dict[str, float]:
        processes = training.processes
        with training.averaged() as pipeline:
            setup = SamplingSetup(pipeline, recipe.steps, choose_label(recipe))
            parts = processes.share([*split_into_parts(pipeline, range(report.kid), BATCH)])
            features = [
                extractor(batch).numpy()
                for part in parts
                # A training goes on with bad samples, whose NaN become black.
                for batch, _ in sample_uint8(setup, part, finite=False, progress=training.check_signals)
            ]
        found = kid(np.concatenate(processes.interleave(features)), reference, subsets=1)
        return {"kid": found.value, "kid_low": found.low, "kid_high": found.high}

    return measure
