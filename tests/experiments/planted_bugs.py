"""Bugs that the tests of experiments must catch; see `planted`."""

from planted import bug

BUGS = [
    bug(
        "the deviation over seeds divides by n and not by n - 1",
        "experiments/report.py",
        "stdev(values) / math.sqrt(len(values)) => stdev(values) / math.sqrt(len(values)) * (1 - 1 / len(values)) ** 0.5",
        "experiments/test_report.py::test_the_score_of_repeats_is_the_mean_and_its_interval_by_students_t",
    ),
]
