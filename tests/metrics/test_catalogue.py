from ddim.metrics.catalogue import METRICS


def test_a_ranking_by_fid_needs_a_covariance_of_full_rank_and_the_others_a_hundred_images():
    for dimensions in (64, 1280):
        needed = {name: metric.needs(dimensions) for name, metric in METRICS.items()}
        assert needed.pop("fid") == needed.pop("fid_infinity") == dimensions
        assert set(needed.values()) == {100}
