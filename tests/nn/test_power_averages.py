"""Averages of any width from snapshots of two: profiles, their inner products, and the least squares."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, strategies as st
from scipy.integrate import quad

from ddim.errors import UserError
from ddim.nn.ema import HalfLife, Power, update_average
from ddim.nn.power_averages import (
    FIRST,
    GAMMAS,
    REACH,
    Profile,
    combine_profiles,
    inner_products,
    is_snapshot_step,
    list_powers,
    power_of_width,
    relative_width,
    track_averages,
)

WIDTHS = st.floats(0.005, 0.288)
POWERS = st.floats(0.0, 60.0)


def track(values, gamma):
    """Return the average after each update of `values` (T,), by the update that training makes."""
    average, averages = [torch.tensor(7.0, dtype=torch.float64)], [math.nan]
    for k, value in enumerate(values, 1):
        update_average(average, [torch.tensor(float(value), dtype=torch.float64)], Power(gamma)(k, 8))
        averages.append(average[0].item())
    return averages


def snapshot_steps(end, count):
    """The steps of the snapshots that a run of `end` steps keeps, without its end."""
    return [step for step in range(1, end) if is_snapshot_step(step, count)][-count:]


def list_profiles(steps):
    return [Profile(step, gamma) for step in steps for gamma in GAMMAS]


def reconstruct(values, steps, gamma):
    """The average of power `gamma` after all `values`, from averages of two powers after `steps`."""
    known = list_profiles([*steps, len(values)])
    found = combine_profiles(known, Profile(len(values), gamma))
    tracked = {power: track(values, power) for power in GAMMAS}
    parts = [tracked[profile.gamma][profile.step] for profile in known]
    return math.fsum(c * part for c, part in zip(found.coefficients, parts, strict=True))


@given(WIDTHS)
def test_the_power_of_a_width_has_this_width_which_is_that_of_the_paper_and_of_a_plain_mean(width):
    found = [*map(relative_width, (6.94, 16.97, 0.0))]
    assert found == pytest.approx([0.10, 0.05, 1 / math.sqrt(12)], rel=5e-4)
    assert relative_width(power_of_width(width)) == pytest.approx(width, rel=1e-9)
    with pytest.raises(UserError, match="width must be above 0"):
        power_of_width(width + 0.289)


@given(POWERS, POWERS, st.integers(1, 500), st.integers(1, 500))
def test_inner_products_are_integrals_of_the_cumulative_profiles(one, other, t, s):
    value, _ = quad(
        lambda x: (1 - (x / t) ** (one + 1)) * (1 - (x / s) ** (other + 1)), 0, min(t, s), epsrel=1e-10
    )
    (found,) = inner_products([Profile(t, one)], [Profile(s, other)])[0]
    assert found == pytest.approx(value, rel=1e-8)


@pytest.mark.parametrize("width", [0.03, 0.07, 0.15])
def test_coefficients_are_the_constrained_least_squares_on_a_fine_grid(width):
    """No closed form is used: the cumulative profiles at 20,000 points."""
    known, wanted = list_profiles((400, 700, 1000)), Profile(1000, power_of_width(width))
    found = combine_profiles(known, wanted)
    x = (np.arange(20_000) + 0.5) / 20
    columns = np.stack([np.minimum(x / p.step, 1) ** (p.gamma + 1) for p in [*known, wanted]], 1)
    columns, target = columns[:, :-1], columns[:, -1]
    # The last coefficient is 1 minus the others, which leaves a problem without a constraint.
    free = np.linalg.lstsq(columns[:, :-1] - columns[:, -1:], target - columns[:, -1], rcond=None)[0]
    coefficients = np.append(free, 1 - free.sum())
    assert found.coefficients == pytest.approx(coefficients, rel=1e-3, abs=1e-4)
    # The last weights have the cumulative profile 0 until their update.
    left = np.linalg.norm(columns @ coefficients - target) / np.linalg.norm(target)
    assert found.error == pytest.approx(left, rel=1e-3)


# Two cases in which Lagrange's equations, solved in float64, gave a larger error for more snapshots.
@example(0.125, 8, 863)
@example(0.021719838766910173, 8, 1725)
# One in which the error, as a sum of terms with large coefficients, was rounded by 1e-7.
@example(0.02, 8, 2443)
@given(WIDTHS, st.sampled_from([1, 2, 4, 8]), st.integers(FIRST + 1, 3000))
def test_coefficients_sum_to_one_and_more_snapshots_never_increase_the_error(width, count, end):
    steps = snapshot_steps(end, count)
    wanted = Profile(end, power_of_width(width))
    fewer, more = (combine_profiles(list_profiles([*some, end]), wanted) for some in (steps[1:], steps))
    assert math.fsum(more.coefficients) == pytest.approx(1, abs=1e-9)
    assert more.error <= fewer.error + 1e-7


@pytest.mark.parametrize(("count", "error"), [(8, 2e-5), (24, 1e-6)])
def test_more_snapshots_meet_a_smooth_trajectory_to_a_millionth(count, error):
    values = 2 - np.exp(-np.arange(2000) / 1000)
    for gamma in map(power_of_width, (0.05, 0.07, 0.12)):
        found = reconstruct(values, snapshot_steps(2000, count), gamma)
        assert found == pytest.approx(track(values, gamma)[-1], rel=error)
    assert reconstruct(values, [], GAMMAS[0]) == pytest.approx(track(values, GAMMAS[0])[-1], rel=1e-12)


@pytest.mark.parametrize("count", [1, 4, 50])
def test_the_kept_snapshots_reach_back_to_a_quarter_of_the_run_whenever_it_ends(count):
    for end in (300, 999, 1024, 5000):
        steps = snapshot_steps(end + 1, count)
        assert len(steps) == count
        assert end / REACH * 0.98 <= steps[0] <= end / REACH * REACH ** (1 / count) * 1.02
        ratios = np.divide(steps[1:], steps[:-1])
        assert ratios == pytest.approx(np.full(count - 1, REACH ** (1 / count)), rel=0.03)
    assert snapshot_steps(FIRST + 1, count) == [FIRST]
    assert not snapshot_steps(500, 0)


def test_both_averages_are_tracked_once():
    assert list(track_averages(Power(3.0, (6.94,)), 4)) == ["default", "6.94", "power-16.97"]
    found = track_averages(HalfLife(9.0, more=(6.94,)), 4)
    assert list(found) == ["default", "6.94", "power-16.97", "power-6.94"]
    assert list_powers(found) == {16.97: "power-16.97", 6.94: "power-6.94"}
    assert list(track_averages(Power(3.0), 0)) == ["default"]
