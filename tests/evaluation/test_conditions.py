"""The conditions of evaluations decide which numbers compare."""

import re

import pytest

from ddim.evaluation.conditions import (
    Aspect,
    Mismatch,
    TooFewImages,
    error_conditions,
    evaluation_conditions,
    find_obstacle,
)
from ddim.metrics.catalogue import METRICS
from ddim.recipe.codec import dump, override
from ddim.recipe.named import smoke
from stubs import SAMPLING, evaluation


@pytest.mark.parametrize("metric", METRICS)
def test_records_of_the_same_features_reference_and_count_have_no_obstacle(metric):
    assert find_obstacle(evaluation(), evaluation(generated__source="runs/b"), metric) is None


@pytest.mark.parametrize(
    "changes, aspect, sentence",
    [
        ({"features__extractor": "other"}, Aspect.MEASURE, "different features: stub .*, 2 px.* and other"),
        ({"features__weights": "v" * 64}, Aspect.MEASURE, "features: .*wwwwwwww.* and .*vvvvvvvv"),
        ({"features__resize": "3 px"}, Aspect.MEASURE, "different features: .*, 2 px.* and .*, 3 px"),
        ({"reference__sha256": "q" * 64}, Aspect.REFERENCE, "different reference: .*rrrr.* and .*qqqq"),
        ({"generated__images": 99}, None, "99 images are too few to rank by KID, which needs at least 100"),
        ({"metrics": {}}, None, "runs/a has no KID"),
    ],
)
def test_an_obstacle_to_a_ranking_is_described_in_one_sentence_either_way(changes, aspect, sentence):
    obstacle = find_obstacle(evaluation(), evaluation(**changes), "kid")
    assert re.search(sentence, str(obstacle))
    assert "\n" not in str(obstacle)
    assert obstacle.aspect is aspect if aspect else not isinstance(obstacle, Mismatch)
    assert find_obstacle(evaluation(**changes), evaluation(), "kid") is not None


def test_a_metric_that_one_evaluation_lacks_hinders_no_other_metric():
    without = evaluation(metrics__fid__infinity=None)
    assert str(find_obstacle(evaluation(), without, "fid_infinity")) == "runs/a has no FID-infinity"
    assert find_obstacle(evaluation(), without, "fid") is None


@pytest.mark.parametrize("metric", METRICS)
def test_biased_metrics_need_equal_numbers_of_samples(metric):
    """KID is unbiased (Binkowski et al. 2018); FID-infinity is extrapolated."""
    obstacle = find_obstacle(evaluation(), evaluation(generated__images=300), metric)
    if metric in ("kid", "fid_infinity"):
        assert obstacle is None
    else:
        assert obstacle == Mismatch(Aspect.IMAGES, 400, 300)
        assert str(obstacle) == "different number of samples: 400 and 300"


@pytest.mark.parametrize("metric", METRICS)
def test_a_small_reference_has_too_few_images_too(metric):
    few = evaluation(reference__images=50, features__dimensions=60)
    assert "50 images are too few" in str(find_obstacle(few, few, metric))


def test_fid_needs_as_many_images_as_features_have_dimensions():
    """With fewer images the covariance is singular."""
    wide = evaluation(features__dimensions=401)
    assert find_obstacle(wide, wide, "kid") is None
    obstacle = find_obstacle(wide, wide, "fid")
    assert obstacle == TooFewImages("fid", 400, 401)
    assert str(obstacle) == "400 images are too few to rank by FID, which needs at least 401"
    exact = evaluation(features__dimensions=400)
    assert find_obstacle(exact, exact, "fid") is None


@pytest.mark.parametrize(
    "changes, aspects",
    [
        ({"optim.lr": 1e-4, "seed": 3}, []),
        ({"schedule": "linear"}, [Aspect.MEASURE]),
        ({"pixels.std": 2.0}, [Aspect.MEASURE]),
        ({"data.size": "64"}, [Aspect.REFERENCE]),
        ({"report.validation_images": 10}, [Aspect.REFERENCE, Aspect.IMAGES]),
    ],
)
def test_denoising_errors_compare_in_the_same_units_on_the_same_images(changes, aspects):
    one, other = (error_conditions(dump(override(smoke(), each)), "f") for each in ({}, changes))
    assert [mismatch.aspect for mismatch in one.mismatches(other)] == aspects
    assert one != error_conditions(dump(smoke()), "another")


def test_samples_of_given_vectors_can_be_grouped():
    sampling = {**SAMPLING, "label": {"3": [0.5, 1.0]}}
    conditions = evaluation_conditions(evaluation(sampling=sampling))
    assert conditions in {conditions}
    assert conditions not in {evaluation_conditions(evaluation(sampling={**SAMPLING, "label": [0.5, 1.0]}))}
