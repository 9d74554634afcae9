"""Ratios of sums over images, with intervals by the jackknife."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NORMAL_95 = 1.96
"""Standard errors on either side of a value: 95 % of a normal law."""


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % interval, each () or (L,) float64."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def near(cls, value: np.ndarray, error: np.ndarray) -> Estimate:
        """A value and `WIDE` standard errors on either side."""
        value = np.asarray(value, dtype=np.float64)
        return cls(value, value - NORMAL_95 * error, value + NORMAL_95 * error)

    @property
    def error(self) -> np.ndarray:
        """The standard error."""
        return (self.high - self.low) / (2 * NORMAL_95)


def estimate_ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    """The sum of `above` over the sum of `below`, both (N, ...), each image left out once (Miller 1974)."""
    n, a, b = len(above), above.sum(0), below.sum(0)
    left = (a - above) / (b - below)
    spread = (left - left.mean(0)) ** 2
    return Estimate.near(a / b, np.sqrt((n - 1) / n * spread.sum(0)))


def estimate_mean(values: np.ndarray) -> Estimate:
    """The mean of (N, ...) values over the first axis."""
    return estimate_ratio(values, np.ones_like(values))


def estimate_difference(one: Estimate, other: Estimate) -> Estimate:
    """One less the other, which are independent."""
    return Estimate.near(one.value - other.value, np.hypot(one.error, other.error))
