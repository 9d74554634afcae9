"""Means, ratios and differences over images, with 95 % confidence intervals by the jackknife."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % confidence interval, each () or (L,) float64.

    `freedom` is the number of degrees of freedom of the standard error, a number.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    freedom: float = math.inf

    @classmethod
    def from_error(cls, value: np.ndarray, error: np.ndarray, freedom: float) -> Estimate:
        """Return the estimate with this value, this standard error and its degrees of freedom."""
        value, half = np.asarray(value, dtype=np.float64), _quantile_95(freedom) * error
        return cls(value, value - half, value + half, freedom)

    @property
    def error(self) -> np.ndarray:
        """The standard error."""
        return (self.high - self.low) / (2 * _quantile_95(self.freedom))

    def to_json(self) -> dict[str, Any]:
        """Return the value and the ends of its interval as JSON."""
        return {"value": self.value.tolist(), "low": self.low.tolist(), "high": self.high.tolist()}


def _quantile_95(freedom: float) -> float:
    """Return half the width of a 95 % confidence interval, in standard errors, by Student's t."""
    # scipy.stats takes 1 s and 60 MB to import, of which scipy.special takes a quarter.
    from scipy import special

    return float(special.ndtri(0.975) if math.isinf(freedom) else special.stdtrit(freedom, 0.975))


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
