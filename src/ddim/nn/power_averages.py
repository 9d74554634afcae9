"""Power-function averages of any width from snapshots of two (Karras et al. 2024, section 3 and appendix C).

The average of power gamma after T updates gives the weights of update k the share P(k) - P(k - 1), with the
cumulative profile P(t) = (t / T)^(gamma + 1). A combination of averages, with coefficients whose sum is 1, is
exactly the average whose cumulative profile is the same combination of cumulative profiles.

The error of a reconstruction is the sum, over all updates, of the change of the weights times the error in P.
If the changes are uncorrelated, as in a random walk, its size is proportional to the norm of the error in P,
which is minimised here. The paper minimises the norm of the error in the density dP/dt, as if the weights
themselves were uncorrelated. In a training this led to errors about 50 times as large (docs/averages.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ddim.errors import UserError
from ddim.nn.ema import Averaging, Power, name_averages

GAMMAS = (16.97, 6.94)
"""The powers of the averages that snapshots hold; their relative widths are 0.05 and 0.10."""

REACH = 4
"""Kept snapshots reach back to this fraction of the run, 1 / REACH.

An average of relative width 0.10 has 0.002 % of its mass before it, and one of width 0.25 has 9 %.
"""

FIRST = 64
"""The first step with a snapshot. Averages of a shorter run are mostly its warm-up."""


@dataclass(frozen=True)
class Profile:
    """The profile of a power-function average.

    Attributes:
        step: the number of updates after which the average was taken.
        gamma: its power.
    """

    step: int
    gamma: float


@dataclass(frozen=True)
class Combination:
    """A combination of averages that reconstructs another average.

    Attributes:
        coefficients: one for each average; their sum is 1.
        error: the expected distance from the wanted average, divided by that of the wanted average from the
            weights of the last update, for weights that move like a random walk.
    """

    coefficients: tuple[float, ...]
    error: float


def track_averages(rule: Averaging, snapshots: int) -> dict[str, Averaging]:
    """Return all averages that a run tracks, keyed by name: those of its recipe, and those of snapshots.

    Args:
        rule: the averaging method of the recipe.
        snapshots: the number of snapshots that the run keeps. If it is above 0, an average of each power in
            `GAMMAS` is added, such as "power-6.94", unless the recipe has it already.
    """
    named = name_averages(rule)
    known = list_powers(named)
    return named | {f"power-{gamma}": Power(gamma) for gamma in GAMMAS if snapshots and gamma not in known}


def list_powers(rules: Mapping[str, Averaging]) -> dict[float, str]:
    """Return the names of the power-function averages among `rules`, keyed by power."""
    return {rule.gamma: name for name, rule in rules.items() if isinstance(rule, Power)}


def relative_width(gamma: float) -> float:
    """Return the standard deviation of the profile of power `gamma`, as a fraction of the run."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def power_of_width(width: float) -> float:
    """Return the power whose profile has this relative width; the inverse of `relative_width`.

    Raises:
        UserError: if the width is not above 0, or above the width of a plain mean over the run, 1 / sqrt(12).
    """
    widest = relative_width(0.0)
    if not 0 < width <= widest * (1 + 1e-12):
        raise UserError(
            f"width must be above 0 and at most {widest:.3f}, the relative width of the mean over the whole "
            f"run, got {width:g}"
        )
    # (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = width^2 is a cubic equation; its largest root is the power.
    square = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - square, 12.0 - square])
    return max(0.0, float(roots.real.max()))


def is_snapshot_step(step: int, count: int) -> bool:
    """Return whether training writes a snapshot after `step`.

    The steps grow by a constant factor, so that the newest `count` of them reach back to 1 / REACH of the
    run, whenever it ends. They depend on nothing but the step: a budget may be found late, or raised.

    Args:
        step: the number of updates so far.
        count: the number of snapshots that are kept; 0 for none.
    """
    return count > 0 and step >= FIRST and _place(step, count) > _place(step - 1, count)


def _place(step: int, count: int) -> int:
    return math.floor(count * math.log2(step) / math.log2(REACH))


def inner_products(one: Sequence[Profile], other: Sequence[Profile]) -> np.ndarray:
    """Return the integrals of (1 - P(t)) (1 - Q(t)) over t, for all cumulative profiles P and Q (N, M).

    Cumulative profiles are 1 after their step, so that these integrals end at the earlier step.
    """
    (t, a), (s, b) = _columns(one), _columns(other)
    t, a, s, b = t[:, None], a[:, None], s[None], b[None]
    early, late = np.minimum(t, s), np.maximum(t, s)
    # Up to the earlier step, the later profile rises to a power of this ratio, which cannot overflow.
    steep, flat = np.where(t > s, a, b), np.where(t > s, b, a)
    end = (early / late) ** steep
    return early * (1 - 1 / (flat + 1) - end / (steep + 1) + end / (steep + flat + 1))


def combine_profiles(known: Sequence[Profile], wanted: Profile) -> Combination:
    """Return the combination of known profiles whose cumulative profile is nearest to that of `wanted`.

    This is a least-squares problem with the constraint that the sum of the coefficients is 1.

    Args:
        known: different profiles, none of a later step than the wanted profile.
        wanted: the wanted profile.
    """
    gram, target = inner_products(known, known), inner_products(known, [wanted])[:, 0]
    n, scale = len(known), 1 / np.sqrt(np.diag(gram))
    # Lagrange's equations, for coefficients of functions of norm 1.
    system = np.zeros((n + 1, n + 1))
    system[:n, :n] = gram * np.outer(scale, scale)
    system[:n, n] = system[n, :n] = scale
    solved = np.linalg.lstsq(system, np.append(target * scale, 1.0), rcond=None)[0][:n] * scale
    left = inner_products([wanted], [wanted])[0, 0] - 2 * solved @ target + solved @ gram @ solved
    # The cumulative profile of the last weights is 0 before their update: the norm of the difference is that
    # of the wanted cumulative profile itself.
    whole = wanted.step / (2 * wanted.gamma + 3)
    return Combination(tuple(solved.tolist()), math.sqrt(max(0.0, left) / whole))


def _columns(profiles: Sequence[Profile]) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps of profiles, and the exponents of their cumulative profiles, float64."""
    return (
        np.array([profile.step for profile in profiles], dtype=np.float64),
        np.array([profile.gamma + 1 for profile in profiles], dtype=np.float64),
    )
