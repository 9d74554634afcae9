"""How good a run's pictures are while it trains: KID at its events."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ddim.errors import UserError
from ddim.metrics.catalogue import LEAST
from ddim.metrics.features import load_extractor
from ddim.metrics.kid import kid
from ddim.runs.classes import choose_label
from ddim.runs.generate import sample_uint8
from ddim.runs.image_features import Chosen, features_of
from ddim.runs.pipeline import Pipeline
from ddim.training.loop import Training

Judge = Callable[[], dict[str, float]]


def judge(training: Training) -> Judge:
    """What gives the KID of `report.kid` pictures with its interval; nothing where the recipe wants none.

    Pictures are those of the averaged weights, of the same seeds every time, in `report.steps`, of a run with
    labels of its classes in turn; the reference is all validation images. UserError where these are too few,
    or the packages of features are missing.
    """
    report, parts, recipe = training.recipe.report, training.split, training.recipe
    if not report.kid:
        return dict
    if len(parts.valid) < LEAST:
        raise UserError(
            f"report.kid needs at least {LEAST} validation images, got {len(parts.valid)}: raise data.valid"
        )
    extractor = load_extractor()
    truth = features_of(Chosen(parts.images, parts.valid, recipe.data.source, "valid"), extractor)

    def judged() -> dict[str, float]:
        with training.averaged() as model:
            shown = Pipeline(model, training.pixels, recipe, training.engine.runtime)
            pictures = sample_uint8(shown, range(report.kid), report.steps, choose_label(recipe))
            features = np.concatenate([extractor(batch).numpy() for batch, _ in pictures])
        found = kid(features, truth, subsets=1)
        return {"kid": found.value, "kid_low": found.low, "kid_high": found.high}

    return judged
