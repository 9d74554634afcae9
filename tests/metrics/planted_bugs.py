"""Bugs that the tests of metrics must catch; see `planted`."""

from planted import bug

BUGS = [
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
