"""Bugs that the tests of experiments must catch; see `planted`."""

from planted import bug

BUGS = [
    bug(
        "the deviation over seeds divides by n and not by n - 1",
        "experiments/report.py",
        "mean, spread = fmean(values), stdev(values) => mean, spread = fmean(values), stdev(values) * (1 - 1 / len(values)) ** 0.5",
        "experiments/test_report.py::test_the_score_of_repeats_is_the_mean_and_the_sample_deviation",
    ),
]
