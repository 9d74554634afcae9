"""Bugs that the tests of metrics must catch; see `planted`."""

from planted import bug

BUGS = [
    bug(
        "KID pairs an image with itself",
        "metrics/kid.py",
        "k.fill_diagonal_(0) => pass",
        "metrics/test_kid.py::test_the_value_is_the_mean_over_pairs_of_different_images",
        "metrics/test_kid.py::test_the_estimate_is_unbiased_and_often_below_zero",
    ),
    bug(
        "FID divides the covariance by N",
        "metrics/fid.py",
        "math.sqrt(len(features) - 1) => math.sqrt(len(features))",
        "metrics/test_fid.py::test_fid_of_commuting_gaussians_adds_distances_of_means_and_deviations",
        "metrics/test_fid.py::test_fid_of_two_dimensions_has_a_closed_form",
    ),
    bug(
        "FID-infinity fits a line in N and not in 1 / N",
        "metrics/fid.py",
        "at.append(cuts / len(generated)) => at.append(len(generated) / cuts)",
        "metrics/test_fid.py::test_fid_infinity_removes_the_bias_of_few_generated_images",
    ),
    bug(
        "an image is its own nearest neighbour",
        "metrics/prdc.py",
        "nearest[:, ks] => nearest[:, [k - 1 for k in ks]]",
        "metrics/test_prdc.py::test_precision_and_recall_equal_torch_fidelity",
        "metrics/test_prdc.py::test_all_four_metrics_follow_their_definitions",
    ),
    bug(
        "the interval of a share has one tail",
        "metrics/statistics.py",
        'proportion_ci(0.95, "exact") => proportion_ci(0.9, "exact")',
        "metrics/test_statistics.py::test_the_interval_of_zero_successes_has_its_closed_form",
    ),
]
