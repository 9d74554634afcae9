"""The conditions of evaluations decide which numbers compare."""

import re

import pytest

from ddim.evaluation.conditions import (
    why_not_comparable,
)
from ddim.metrics.catalogue import METRICS
from stubs import evaluation


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"features__extractor": "other"}, "different features: stub .*, 2 px.* and other"),
        ({"features__weights": "v" * 64}, "features: .*wwwwwwww.* and .*vvvvvvvv"),
        ({"features__resize": "3 px"}, "different features: .*, 2 px.* and .*, 3 px"),
        (
            {"reference__sha256": "q" * 64},
            'different images of 500 .*: evaluate both with part="all"',
        ),
        (
            {"reference__sha256": "q" * 64, "reference__fingerprint": "e" * 64},
            "different reference: 500 images .*ffff.* and .*eeee",
        ),
        ({"generated__images": 19}, "19 images are too few to rank by KID, which needs at least 20$"),
        ({"metrics": {}}, "runs/a has no KID"),
    ],
)
def test_why_evaluations_are_not_comparable_is_one_sentence_either_way(changes, sentence):
    why = why_not_comparable(evaluation(), evaluation(**changes), "kid")
    assert re.search(sentence, why)
    assert why_not_comparable(evaluation(**changes), evaluation(), "kid") is not None


def test_a_metric_that_one_evaluation_lacks_hinders_no_other_metric():
    without = evaluation(metrics__fid__infinity=None)
    assert why_not_comparable(evaluation(), without, "fid_infinity") == "runs/a has no FID-infinity"
    assert why_not_comparable(evaluation(), without, "fid") is None


@pytest.mark.parametrize("metric", METRICS)
def test_biased_metrics_need_equal_numbers_of_samples(metric):
    """KID is unbiased (Binkowski et al. 2018); FID-infinity is extrapolated."""
    obstacle = why_not_comparable(evaluation(), evaluation(generated__images=300), metric)
    if metric in ("kid", "fid_infinity"):
        assert obstacle is None
    else:
        assert obstacle == "different numbers of samples: 400 and 300"


def test_few_held_out_images_rank_by_kid_and_all_images_are_proposed_for_other_metrics():
    few = evaluation(reference__images=65)
    assert why_not_comparable(few, few, "kid") is None
    why = why_not_comparable(few, few, "precision")
    assert why.startswith("65 images are too few to rank by precision, which needs at least 100; evaluate")
    assert 'part="all"' in why


def test_fid_needs_as_many_images_as_features_have_dimensions():
    """With fewer images the covariance is singular."""
    wide = evaluation(features__dimensions=401)
    assert why_not_comparable(wide, wide, "kid") is None
    assert why_not_comparable(wide, wide, "fid").startswith("400 images are too few to rank by FID")
    exact = evaluation(features__dimensions=400)
    assert why_not_comparable(exact, exact, "fid") is None
