"""Exact confidence intervals of proportions, and thresholds with a bounded false-alarm rate."""

from __future__ import annotations

import numpy as np


def share_interval(count: int, n: int) -> tuple[float, float]:
    """Return the exact 95 % confidence interval (low, high) of a proportion, seen in `count` of `n` cases.

    The interval contains the true proportion with a probability of at least 95 % (Clopper & Pearson 1934).
    """
    from scipy import stats

    return tuple(stats.binomtest(count, n).proportion_ci(0.95, "exact"))


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
