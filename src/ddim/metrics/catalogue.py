"""The metrics by name: which direction is better, and how many images each needs."""

from __future__ import annotations

from dataclasses import dataclass

from ddim.errors import UserError, suggest

DEFAULT = "efficientnet-lite0"
"""The network whose features are used by default."""

EXTRACTORS = (DEFAULT, "inception-2015", "inception-torchvision")
"""The networks whose features metrics may use, by name; see `ddim.metrics.features`."""

LEAST = 20
"""The smallest number of images on either side for which metrics are computed."""


@dataclass(frozen=True)
class Metric:
    """How to read a metric.

    Attributes:
        title: its name in tables and messages.
        lower_is_better: the direction of better values.
        biased: whether its expectation depends on the number of generated images, so that values of different
            numbers cannot be compared.
        least: images on either side that a ranking needs; 0 means as many as the features have dimensions.
    """

    title: str
    lower_is_better: bool
    biased: bool
    least: int

    def needs(self, dimensions: int) -> int:
        """Return how many images a ranking by this metric needs, for features of `dimensions` dimensions."""
        return self.least or dimensions


METRICS = {
    "kid": Metric("KID", lower_is_better=True, biased=False, least=100),
    # With fewer images than dimensions the covariance is singular, and the value is mostly bias.
    "fid": Metric("FID", lower_is_better=True, biased=True, least=0),
    "fid_infinity": Metric("FID-infinity", lower_is_better=True, biased=False, least=0),
    "precision": Metric("precision", lower_is_better=False, biased=True, least=100),
    "recall": Metric("recall", lower_is_better=False, biased=True, least=100),
    "density": Metric("density", lower_is_better=False, biased=True, least=100),
    "coverage": Metric("coverage", lower_is_better=False, biased=True, least=100),
}


def find_metric(name: str) -> Metric:
    """Return the metric of a name.

    Raises:
        UserError: if there is none; the message suggests a similar name.
    """
    if name not in METRICS:
        raise UserError(f"metric must be one of {', '.join(METRICS)}, got {name!r}{suggest(name, METRICS)}")
    return METRICS[name]
