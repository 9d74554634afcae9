"""Noise schedules: functions t -> Level(alpha, sigma), the signal rate and the noise rate at time t.

In the whole package x_t = alpha * x0 + sigma * eps; t = 0 is the clean image and t = 1 is noise.
"""

from __future__ import annotations

from ddim.diffusion.schedules.cosine import Cosine
from ddim.diffusion.schedules.karras_sigma import KarrasSigma
from ddim.diffusion.schedules.level import Level, as_double, variance_preserving
from ddim.diffusion.schedules.linear_beta import LinearBeta
from ddim.diffusion.schedules.linear_in import LinearIn
from ddim.diffusion.schedules.linear_path import LinearPath
from ddim.diffusion.schedules.schedule import Schedule
from ddim.diffusion.schedules.table import BetaTable, Linear

__all__ = [
    "SCHEDULES",
    "BetaTable",
    "Cosine",
    "KarrasSigma",
    "Level",
    "Linear",
    "LinearBeta",
    "LinearIn",
    "LinearPath",
    "Schedule",
    "as_double",
    "variance_preserving",
]

SCHEDULES: dict[str, type[Schedule]] = {
    "cosine": Cosine,
    "linear": Linear,
    "linear_beta": LinearBeta,
    "beta_table": BetaTable,
    "linear_in": LinearIn,
    "karras_sigma": KarrasSigma,
    "linear_path": LinearPath,
}
"""All schedules, keyed by their names in a recipe."""
