"""Means, ratios and differences over images, with 95 % confidence intervals by the jackknife."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NORMAL_95 = 1.96
"""Half the width of a 95 % confidence interval, in standard errors."""


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % confidence interval, each () or (L,) float64."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def from_error(cls, value: np.ndarray, error: np.ndarray) -> Estimate:
        """Return the estimate with this value and this standard error."""
        value = np.asarray(value, dtype=np.float64)
        return cls(value, value - NORMAL_95 * error, value + NORMAL_95 * error)

    @property
    def error(self) -> np.ndarray:
        """The standard error."""
        return (self.high - self.low) / (2 * NORMAL_95)


def estimate_ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    """Return the sum of `above` divided by the sum of `below`, both (N, ...), over the first axis.

    The 95 % confidence interval is computed by the jackknife (Miller 1974).
    """
    n, a, b = len(above), above.sum(0), below.sum(0)
    left = (a - above) / (b - below)
    spread = (left - left.mean(0)) ** 2
    return Estimate.from_error(a / b, np.sqrt((n - 1) / n * spread.sum(0)))


def estimate_mean(values: np.ndarray) -> Estimate:
    """Return the mean of values (N, ...) over the first axis, with its 95 % confidence interval."""
    return estimate_ratio(values, np.ones_like(values))


def estimate_difference(one: Estimate, other: Estimate) -> Estimate:
    """Return the difference of two independent estimates, `one` minus `other`."""
    return Estimate.from_error(one.value - other.value, np.hypot(one.error, other.error))
