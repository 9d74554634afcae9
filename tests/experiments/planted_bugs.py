"""Bugs that the tests of experiments must catch; see `planted`."""

from planted import bug

BUGS = [
    bug(
        "the deviation over seeds divides by n and not by n - 1",
        "experiments/summary.py",
        "for value in values) / (n - 1) => for value in values) / n",
        "experiments/test_summary.py::test_a_spread_is_the_mean_and_the_sample_deviation",
    ),
]
