"""The metrics by name: how each is read, and how many images it needs."""

from __future__ import annotations

from dataclasses import dataclass

from ddim.errors import UserError, suggest

DEFAULT = "efficientnet-lite0"
"""The network of the features where none is named."""

LEAST = 20
"""Images of either set below which nothing is measured."""


@dataclass(frozen=True)
class Metric:
    """How a metric is read.

    `biased`: its expectation moves with the number of generated images, so that unequal numbers of them make
    unequal values. `least`: images of either set below which values are not ranked; 0 stands for as many as
    features have dimensions.
    """

    title: str
    lower_is_better: bool
    biased: bool
    least: int

    def needs(self, dimensions: int) -> int:
        """How many images it takes to rank by this metric on features of so many dimensions."""
        return self.least or dimensions


METRICS = {
    "kid": Metric("KID", lower_is_better=True, biased=False, least=100),
    # A covariance of fewer images than dimensions is singular, and the value mostly bias.
    "fid": Metric("FID", lower_is_better=True, biased=True, least=0),
    "fid_infinity": Metric("FID-infinity", lower_is_better=True, biased=False, least=0),
    "precision": Metric("precision", lower_is_better=False, biased=True, least=100),
    "recall": Metric("recall", lower_is_better=False, biased=True, least=100),
    "density": Metric("density", lower_is_better=False, biased=True, least=100),
    "coverage": Metric("coverage", lower_is_better=False, biased=True, least=100),
}


def find_metric(name: str) -> Metric:
    """The metric of a name; UserError suggests the near one."""
    if name not in METRICS:
        raise UserError(f"metric must be one of {', '.join(METRICS)}, got {name!r}{suggest(name, METRICS)}")
    return METRICS[name]
