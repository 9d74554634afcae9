"""Values with their 95 % confidence intervals: means, ratios, differences and shares over images."""

import numpy as np

from ddim.metrics.estimate import Estimate


def estimate_ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    """Return the sum of `above` divided by the sum of `below`, both (N, ...), over the first axis.

    The 95 % confidence interval is computed by the jackknife (Miller 1974), and has the quantile of Student's
    t with N - 1 degrees of freedom.
    """
    n, a, b = len(above), above.sum(0), below.sum(0)
    left = (a - above) / (b - below)
    spread = (left - left.mean(0)) ** 2
    return Estimate.from_error(a / b, np.sqrt((n - 1) / n * spread.sum(0)), n - 1)


def estimate_mean(values: np.ndarray) -> Estimate:
    """Return the mean of values (N, ...) over the first axis, with its 95 % confidence interval."""
    return estimate_ratio(values, np.ones_like(values))


def estimate_difference(one: Estimate, other: Estimate) -> Estimate:
    """Return the difference of two independent estimates, `one` minus `other`.

    Its degrees of freedom are the smaller number, so that the interval is not too narrow (Mickey & Brown
    1966). The number of Welch (1947) depends on the data: with two images, intervals hold the truth in 88 %.
    """
    freedom = min(one.freedom, other.freedom)
    return Estimate.from_error(one.value - other.value, np.hypot(one.error, other.error), freedom)


def estimate_share(count: int, n: int) -> Estimate:
    """Return the share of `count` of `n` cases, with its exact 95 % confidence interval.

    The interval contains the true share with a probability of at least 95 % (Clopper & Pearson 1934).
    """
    from scipy import stats

    return Estimate(count / n, *stats.binomtest(count, n).proportion_ci(0.95, "exact"))


def false_alarm_threshold(null: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return a threshold below which a value counts as an alarm, and a bound on the false-alarm rate.

    A new draw from the distribution of `null` is below the threshold with probability at most `bound`. This
    holds for any distribution of independent draws. It holds with the given confidence, because the draws in
    `null` are random: the probability below the r-th smallest of n draws has distribution
    Beta(r, n + 1 - r) (Wilks 1941).

    Args:
        null: values (n,) of the statistic for images that are not copies.
        confidence: the probability that the bound holds.

    Returns:
        (threshold, bound). `bound` is 1 % if n is large enough, at least 299 for a confidence of 95 %. With
        fewer draws the threshold is the smallest of them, and `bound` is 1 - (1 - confidence)^(1 / n).
    """
    from scipy import stats

    n, level = len(null), 0.01
    # The r-th smallest draw is a valid threshold if P(Binomial(n, level) <= r - 1) <= 1 - confidence.
    rank = min(max(int(stats.binom.ppf(1 - confidence, n, level)), 1), n)
    bound = max(level, 1 - (1 - confidence) ** (1 / n))
    return float(np.sort(null)[rank - 1]), bound
