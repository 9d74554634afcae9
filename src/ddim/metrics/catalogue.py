"""All metrics and all extractors of features, keyed by name. This module does not import torch."""

from dataclasses import dataclass

from ddim.errors import check_choice

DEFAULT = "efficientnet-lite0"
"""The name of the extractor that is used by default."""

EXTRACTORS = {
    DEFAULT: ("224 px bicubic antialiased", 1280),
    "inception-2015": ("299 px bilinear of TensorFlow 1, not antialiased", 2048),
    "inception-torchvision": ("299 px bilinear, not antialiased", 2048),
    "scattering": ("64 px bicubic antialiased", 1251),
}
"""How each extractor resizes images, and its number of features; see `ddim.metrics.features`."""

LEAST = 20
"""The smallest number of generated and of reference images for which metrics are computed."""


@dataclass(frozen=True)
class Metric:
    """Facts that are needed to interpret a metric; `ddim.evaluation.measure` computes it.

    Attributes:
        title: its name in tables and messages.
        meaning: what it measures, in a few words.
        lower_is_better: whether lower values are better.
        biased: whether its expectation depends on the number of generated images. If so, values for different
            numbers of images cannot be compared.
        least: the number of generated and of reference images that a ranking needs; 0 means the number of
            features.
    """

    title: str
    meaning: str
    lower_is_better: bool
    biased: bool = True
    least: int = 100


METRICS = {
    # In simulations with 20 to 100 reference images, the intervals of KID and of its differences held the
    # truth in 93 % to 100 % of cases.
    "kid": Metric("KID", "distance, about 0 if real", lower_is_better=True, biased=False, least=LEAST),
    # least=0: with fewer images than features, the covariance is singular and FID is mostly bias.
    "fid": Metric("FID", "distance, biased upwards", lower_is_better=True, least=0),
    "fid_infinity": Metric("FID-infinity", "FID without bias", lower_is_better=True, biased=False, least=0),
    "precision": Metric("precision", "share of samples that look real", lower_is_better=False),
    "recall": Metric("recall", "share of real images that are covered", lower_is_better=False),
    "density": Metric("density", "real images near a sample, about 1 if real", lower_is_better=False),
    "coverage": Metric("coverage", "share of real images with a sample nearby", lower_is_better=False),
}


def metric_name(text: str) -> str:
    """Return the key in `METRICS` for a key or title in upper or lower case, such as "fid" for "FID".

    Raises:
        UserError: if there is no such metric; the message suggests a similar name.
    """
    name = str(text).lower().replace("-", "_").replace(" ", "_")
    check_choice("metric", name, METRICS)
    return name
