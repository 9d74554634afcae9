"""Reconstruct power-function averages of any width from snapshots of averages of two other widths.

See Karras et al. 2024, section 3 and appendix C. In an average of power gamma after T updates, the weights
after update k have the share P(k) - P(k - 1). P(t) = (t / T)^(gamma + 1) is the cumulative profile of the
average. A linear combination of averages, with coefficients that sum to 1, is an average too. Its cumulative
profile is the same combination of their cumulative profiles. From update 262,144 on, a tracked average does
not change at each update (see `ddim.nn.ema.Power`). Its profile differs from P by a shift in time of less
than 1/131,072 of the run, which is neglected here.

The error of a reconstruction is a sum over all updates: the change of the weights times the error in P. If
the changes are uncorrelated, as in a random walk, the size of this sum is proportional to the norm of the
error in P. This norm is minimised here. The paper minimises the norm of the error in the density dP/dt, as
if the weights themselves were uncorrelated, and then divides the coefficients by their sum. In a test, its
errors were 0.8 to 4.7 times as large (docs/howto/averages.md).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ddim.errors import UserError
from ddim.nn.ema import Averaging, Power, name_averages

GAMMAS = (16.97, 6.94)
"""The powers of the averages that snapshots hold; their relative widths are 0.05 and 0.10."""

REACH = 4
"""The oldest kept snapshot was written at about 1 / REACH of the run.

An average of relative width 0.10 has 0.002 % of its mass before this step, and one of width 0.25 has 9 %.
"""

FIRST = 64
"""The first step with a snapshot. Earlier averages consist mostly of weights from the warm-up."""


class Profile(NamedTuple):
    """The profile of a power-function average.

    Attributes:
        step: the number of updates after which the average was taken.
        gamma: the power of the average.
    """

    step: int
    gamma: float


class Combination(NamedTuple):
    """A combination of averages that reconstructs another average.

    Attributes:
        coefficients: one coefficient for each average; the sum of the coefficients is 1.
        error: the expected distance of the combination from the wanted average, for weights that move like a
            random walk. It is a fraction of the distance of the wanted average from the last weights.
    """

    coefficients: tuple[float, ...]
    error: float


def track_averages(rule: Averaging, snapshots: int) -> dict[str, Averaging]:
    """Return the rules of all averages that a run tracks, for its recipe and its snapshots, keyed by name.

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
        UserError: if the width is 0 or less, or larger than the relative width of a plain mean over the run,
            1 / sqrt(12).
    """
    widest = relative_width(0.0)
    if not 0 < width <= widest * (1 + 1e-12):
        raise UserError(f"width must be above 0 and at most {widest:.3f}, that of a mean, got {width:g}")
    # (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = width^2 is a cubic equation; its largest root is the power.
    square = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - square, 12.0 - square])
    return max(0.0, float(roots.real.max()))


def is_snapshot_step(step: int, count: int) -> bool:
    """Return whether training writes a snapshot after `step`.

    The steps of snapshots grow by a constant factor. So the newest `count` snapshots go back to 1 / REACH of
    the run, whenever it ends. The steps do not depend on the training budget, because it can change during
    the run.

    Args:
        step: the number of updates so far.
        count: the number of snapshots that are kept; 0 for none.
    """
    return count > 0 and step >= FIRST and _place(step, count) > _place(step - 1, count)


def _place(step: int, count: int) -> int:
    return math.floor(count * math.log2(step) / math.log2(REACH))


def inner_products(one: Sequence[Profile], other: Sequence[Profile]) -> np.ndarray:
    """Return the integrals (N, M) of (1 - P(t)) (1 - Q(t)) over t, for all pairs of cumulative profiles.

    A cumulative profile is 1 after its step. Each integral therefore ends at the earlier of the two steps.
    """
    t, a = np.array(one, np.float64).T[:, :, None]
    s, b = np.array(other, np.float64).T[:, None]
    a, b = a + 1, b + 1  # the exponents of the cumulative profiles
    early, late = np.minimum(t, s), np.maximum(t, s)
    # `end` is the value, at the earlier step, of the profile with the later step. It is a power of a ratio of
    # at most 1, so it cannot overflow.
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
    # The last coefficient is 1 minus the others. This leaves a problem without a constraint: to approximate
    # the difference from the last known profile by the differences of the others from it.
    n = len(known)
    less_last = np.hstack([np.eye(n - 1), -np.ones((n - 1, 1))])
    system, right = less_last @ gram @ less_last.T, less_last @ (target - gram[:, -1])
    # The differences are scaled to norm 1. Without `rcond`, profiles that are nearly equal would get large
    # coefficients that cancel each other, and rounding could make a combination of more profiles worse.
    scale = 1 / np.sqrt(np.diag(system))
    scaled = np.linalg.lstsq(system * np.outer(scale, scale), right * scale, rcond=1e-10)[0]
    others = scale * scaled
    solved = np.append(others, 1 - others.sum())
    # By the normal equations, this is the squared distance that is left. No large coefficients cancel in it.
    apart = inner_products([wanted], [wanted])[0, 0] - 2 * target[-1] + gram[-1, -1]
    left = apart - scaled @ (right * scale)
    # The cumulative profile of the last weights is 0 before the last update. The squared norm of its
    # difference from the wanted cumulative profile is therefore that of the wanted profile itself.
    whole = wanted.step / (2 * wanted.gamma + 3)
    return Combination(tuple(solved.tolist()), math.sqrt(max(0.0, left) / whole))
