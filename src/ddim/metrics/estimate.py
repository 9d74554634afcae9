"""A value with its 95 % confidence interval. This module imports neither torch nor NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % confidence interval, each a number or (L,) float64.

    `freedom` is the number of degrees of freedom of the standard error.
    """

    value: Any
    low: Any
    high: Any
    freedom: float = field(default=math.inf, kw_only=True)

    @classmethod
    def from_error(cls, value: Any, error: Any, freedom: float = math.inf, **fields: Any) -> Self:  # noqa: ANN401
        """Return the estimate with this value, this standard error and its degrees of freedom.

        `fields` are those of a subclass.
        """
        half = _quantile(freedom) * error
        return cls(value, value - half, value + half, freedom=freedom, **fields)

    @property
    def error(self) -> Any:  # noqa: ANN401  (a number or an array)
        """The standard error."""
        return (self.high - self.low) / (2 * _quantile(self.freedom))

    @property
    def distinguishable(self) -> bool:
        """Whether the interval of a number excludes 0."""
        return self.distinguishable_among(1)

    def distinguishable_among(self, candidates: int) -> bool:
        """Return whether the best of several differences is distinguishable from 0.

        The best of many is partly good by chance, so its interval must be wider: its confidence is 1 - 0.05 /
        `candidates` (Bonferroni).
        """
        wider = _quantile(self.freedom, candidates) / _quantile(self.freedom)
        low = self.value - wider * (self.value - self.low)
        high = self.value + wider * (self.high - self.value)
        return not low <= 0 <= high

    def to_json(self) -> dict[str, Any]:
        """Return the value, the ends of its interval and the fields of a subclass as JSON."""
        import numpy as np

        return {name: np.asarray(value).tolist() for name, value in vars(self).items() if name != "freedom"}


def _quantile(freedom: float, candidates: int = 1) -> float:
    """Return half the width of a confidence interval, in standard errors, by Student's t.

    The confidence is 95 %; for one of several candidates it is 1 - 0.05 / `candidates`.
    """
    # scipy.stats takes 1 s and 60 MB to import, of which scipy.special takes a quarter.
    from scipy import special

    below = 1 - 0.025 / candidates
    return float(special.ndtri(below) if math.isinf(freedom) else special.stdtrit(freedom, below))
