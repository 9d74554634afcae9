"""Shares with their exact intervals, and thresholds whose rate of false alarms is bounded."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def at_most(count: int, n: int, p: float) -> float:
    """The probability of at most `count` successes in n independent trials of probability p."""
    if count >= n or p <= 0:
        return 1.0 if count >= 0 else 0.0
    if count < 0 or p >= 1:
        return 0.0
    k = np.arange(count + 1)
    choose = math.lgamma(n + 1) - np.array([math.lgamma(i + 1) + math.lgamma(n - i + 1) for i in k])
    return min(1.0, float(np.exp(choose + k * math.log(p) + (n - k) * math.log1p(-p)).sum()))


def share_interval(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share, `count` of n (Clopper & Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else _root(lambda p: at_most(count - 1, n, p) - (1 - tail))
    high = 1.0 if count == n else _root(lambda p: at_most(count, n, p) - tail)
    return low, high


def false_alarm_threshold(
    null: np.ndarray, level: float = 0.01, confidence: float = 0.95
) -> tuple[float, float]:
    """A number that a new draw of the law of `null` (n,) falls below with probability at most `bound`.

    Both are returned: (threshold, bound). It holds with the given confidence over the draw of `null`, for any
    law (Wilks 1941: the share of a law below the r-th smallest of n draws is Beta(r, n + 1 - r)). `bound` is
    `level` where n allows, from n = 299 for 1 % and 95 %; with fewer the smallest is taken, and `bound` is
    1 - (1 - confidence)^(1 / n).
    """
    n, rank = len(null), 1
    while rank < n and at_most(rank, n, level) <= 1 - confidence:
        rank += 1
    bound = max(level, 1 - (1 - confidence) ** (1 / n))
    return float(np.sort(null)[rank - 1]), bound


def _root(falling: Callable[[float], float]) -> float:
    """Where a falling function of [0, 1] crosses 0, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
