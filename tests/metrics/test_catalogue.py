import pytest

from ddim.errors import UserError
from ddim.metrics.catalogue import METRICS, find_metric, metric_name


def test_a_ranking_by_fid_needs_a_covariance_of_full_rank_and_the_others_a_hundred_images():
    for dimensions in (64, 1280):
        needed = {name: metric.needs(dimensions) for name, metric in METRICS.items()}
        assert needed.pop("fid") == needed.pop("fid_infinity") == dimensions
        assert set(needed.values()) == {100}


def test_an_unknown_metric_is_refused_and_a_similar_name_suggested():
    with pytest.raises(
        UserError, match=r"^metric must be one of kid, fid, .*, got 'precison'; perhaps you meant precision$"
    ):
        find_metric("precison")
    assert find_metric("recall") is METRICS["recall"]
    assert [metric_name(text) for text in ("KID", "FID-infinity", "fid")] == ["kid", "fid_infinity", "fid"]
