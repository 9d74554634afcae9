"""Bugs that the tests of experiments must catch; see `planted`."""

from planted import bug

BUGS = [
    bug(
        "the deviation over seeds divides by n and not by n - 1",
        "experiments/summary.py",
        "for value in values) / (n - 1) => for value in values) / n",
        "experiments/test_summary.py::test_a_spread_is_the_mean_and_the_sample_deviation",
    ),
    bug(
        "errors are interpolated in images and not in their logarithm",
        "experiments/learning_curves.py",
        "math.log(images / low) / math.log(high / low) => (images - low) / (high - low)",
        "experiments/test_learning_curves.py::test_the_error_is_linear_in_the_logarithm_of_the_images",
    ),
    bug(
        "errors outside the measured range are those of its end",
        "experiments/learning_curves.py",
        "if not known or not min(known) / NEAR <= images <= max(known) * NEAR: => if not known:",
        "experiments/test_learning_curves.py::test_nothing_is_extrapolated_but_the_inexactness_of_a_forecast",
    ),
]
