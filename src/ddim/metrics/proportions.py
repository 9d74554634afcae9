"""Shares with their exact intervals, and thresholds with a bounded rate of false alarms."""

from __future__ import annotations

import numpy as np


def share_interval(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval (low, high) of a share of which `count` of `n` were seen.

    It holds the true share with at least the given confidence (Clopper & Pearson 1934).
    """
    from scipy import stats

    return tuple(stats.binomtest(count, n).proportion_ci(confidence, "exact"))


def false_alarm_threshold(
    null: np.ndarray, level: float = 0.01, confidence: float = 0.95
) -> tuple[float, float]:
    """Return a threshold that honest values rarely fall below, and a bound on how often they do.

    A new draw from the distribution of `null` lies below `threshold` with probability at most `bound`. This
    holds with the given confidence over the draw of `null`, for any distribution: the share of it below the
    r-th smallest of n draws is Beta(r, n + 1 - r) (Wilks 1941).

    Args:
        null: (n,) values of the statistic for honest images.
        level: the wanted rate of false alarms.
        confidence: the probability that the bound holds.

    Returns:
        (threshold, bound). `bound` is `level` where n allows, from n = 299 for 1 % and 95 %. With fewer draws
        the threshold is the smallest of them and `bound` is 1 - (1 - confidence)^(1 / n).
    """
    from scipy import stats

    n = len(null)
    # The r-th smallest draw will do while P(Binomial(n, level) <= r - 1) is at most 1 - confidence.
    rank = min(max(int(stats.binom.ppf(1 - confidence, n, level)), 1), n)
    bound = max(level, 1 - (1 - confidence) ** (1 / n))
    return float(np.sort(null)[rank - 1]), bound
