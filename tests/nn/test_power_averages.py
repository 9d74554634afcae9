"""Averages of any width from snapshots of two: profiles, their inner products, and the least squares."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.integrate import quad

from ddim.errors import UserError
from ddim.nn.ema import Exponential, HalfLife, Power, update_average
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


def reconstruct(values, steps, gamma):
    """The average of power `gamma` after all `values`, from averages of two powers after `steps`."""
    known = [Profile(step, power) for step in [*steps, len(values)] for power in GAMMAS]
    found = combine_profiles(known, Profile(len(values), gamma))
    tracked = {power: track(values, power) for power in GAMMAS}
    parts = [tracked[profile.gamma][profile.step] for profile in known]
    return math.fsum(c * part for c, part in zip(found.coefficients, parts, strict=True)), found


# Widths


@pytest.mark.parametrize(("gamma", "width"), [(6.94, 0.10), (16.97, 0.05), (0.0, 1 / math.sqrt(12))])
def test_widths_are_those_of_the_paper_and_of_a_plain_mean(gamma, width):
    assert relative_width(gamma) == pytest.approx(width, rel=5e-4)
    assert power_of_width(relative_width(gamma)) == pytest.approx(gamma, abs=1e-6)


@given(WIDTHS)
def test_the_power_of_a_width_has_this_width(width):
    assert relative_width(power_of_width(width)) == pytest.approx(width, rel=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 6.94, 16.97, 40.0])
def test_the_width_is_the_standard_deviation_of_the_tracked_weights(gamma):
    n = 400
    middles = np.arange(n) + 0.5
    mean = track(middles, gamma)[n]
    variance = track((middles - mean) ** 2, gamma)[n] + 1 / 12  # within an update the weights are constant
    assert math.sqrt(variance) / n == pytest.approx(relative_width(gamma), rel=2e-3)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.2888, 1.0, math.nan])
def test_impossible_widths_are_refused(width):
    with pytest.raises(UserError, match=r"width must be above 0 and at most 0\.289, .*got "):
        power_of_width(width)


# Profiles


@given(POWERS, POWERS, st.integers(1, 500), st.integers(1, 500))
def test_inner_products_are_integrals_of_the_cumulative_profiles(one, other, t, s):
    value, _ = quad(
        lambda x: (1 - (x / t) ** (one + 1)) * (1 - (x / s) ** (other + 1)), 0, min(t, s), epsrel=1e-10
    )
    (found,) = inner_products([Profile(t, one)], [Profile(s, other)])[0]
    assert found == pytest.approx(value, rel=1e-8)
    assert found == pytest.approx(inner_products([Profile(s, other)], [Profile(t, one)])[0, 0], rel=1e-12)


def test_profiles_of_late_steps_and_large_powers_are_finite():
    steps = [Profile(10**9, 97.0), Profile(10**9 - 1, 97.0), Profile(1, 97.0)]
    assert np.isfinite(inner_products(steps, steps)).all()


@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.94, 16.97])
def test_the_tracked_average_is_the_integral_of_the_profile(gamma):
    """With weights that are constant during an update, no sum over updates is approximated."""
    n = 50
    values = np.sin(np.arange(n))
    edges = (np.arange(n + 1) / n) ** (gamma + 1)
    assert track(values, gamma)[n] == pytest.approx(math.fsum(np.diff(edges) * values), abs=1e-12)


# The least squares


def midpoints(profiles, end, count=20_000):
    """The cumulative profiles on a fine grid, (count, N): no closed form is used."""
    x = (np.arange(count) + 0.5) * end / count
    columns = [np.minimum(x / profile.step, 1) ** (profile.gamma + 1) for profile in profiles]
    return np.stack(columns, 1)


@pytest.mark.parametrize("width", [0.03, 0.07, 0.15])
def test_coefficients_are_the_constrained_least_squares_on_a_fine_grid(width):
    known = [Profile(step, gamma) for step in (400, 700, 1000) for gamma in GAMMAS]
    wanted = Profile(1000, power_of_width(width))
    found = combine_profiles(known, wanted)
    # The last coefficient is 1 minus the others, which leaves a problem without a constraint.
    columns, target = midpoints(known, 1000), midpoints([wanted], 1000)[:, 0]
    free = np.linalg.lstsq(columns[:, :-1] - columns[:, -1:], target - columns[:, -1], rcond=None)[0]
    coefficients = np.append(free, 1 - free.sum())
    assert found.coefficients == pytest.approx(coefficients, rel=1e-3, abs=1e-4)
    # The last weights have the cumulative profile 0 until their update.
    left = np.linalg.norm(columns @ coefficients - target) / np.linalg.norm(target)
    assert found.error == pytest.approx(left, rel=1e-3)


# Two cases in which Lagrange's equations, solved in float64, gave a larger error for more snapshots.
@example(0.125, 8, 863)
@example(0.021719838766910173, 8, 1725)
@given(WIDTHS, st.sampled_from([1, 2, 4, 8]), st.integers(FIRST + 1, 3000))
def test_coefficients_sum_to_one_and_more_snapshots_never_increase_the_error(width, count, end):
    steps = snapshot_steps(end, count)
    wanted, errors = Profile(end, power_of_width(width)), []
    for some in (steps[1:], steps):
        known = [Profile(step, gamma) for step in [*some, end] for gamma in GAMMAS]
        found = combine_profiles(known, wanted)
        assert math.fsum(found.coefficients) == pytest.approx(1, abs=1e-9)
        errors.append(found.error)
    assert errors[1] <= errors[0] + 1e-7


@given(WIDTHS, st.integers(1, 1000))
def test_the_coefficients_do_not_depend_on_the_unit_of_steps(width, unit):
    steps = (30, 50, 80)
    one, other = (
        combine_profiles(
            [Profile(unit * step, gamma) for step in steps for gamma in GAMMAS],
            Profile(unit * 80, power_of_width(width)),
        )
        for unit in (1, unit)
    )
    assert one.coefficients == pytest.approx(other.coefficients, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_stored_average_is_itself(gamma):
    values = np.random.default_rng(0).normal(size=500)
    found, combination = reconstruct(values, snapshot_steps(500, 8), gamma)
    assert found == pytest.approx(track(values, gamma)[-1], abs=1e-12)
    assert combination.error < 1e-7


@given(WIDTHS, st.floats(-1e4, 1e4))
def test_constant_weights_are_met_exactly(width, value):
    found, _ = reconstruct([value] * 100, (64, 77, 91), power_of_width(width))
    assert found == pytest.approx(value, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("width", [0.04, 0.07, 0.12])
def test_the_average_of_a_ramp_of_weights_is_the_closed_form(width):
    """The mean of the profile is (gamma + 1) / (gamma + 2) of the run, and 1/2 for the end of an update."""
    n, gamma = 1000, power_of_width(width)
    found, _ = reconstruct(np.arange(1, n + 1), snapshot_steps(n, 8), gamma)
    assert n - found == pytest.approx(n / (gamma + 2) - 0.5, rel=5e-3)


@pytest.mark.parametrize("width", [0.03, 0.07, 0.15])
def test_the_error_is_that_of_weights_that_move_like_a_random_walk(width):
    n, gamma, misses, ways = 600, power_of_width(width), [], []
    for seed in range(40):
        values = np.random.default_rng(seed).normal(size=n).cumsum()
        found, combination = reconstruct(values, snapshot_steps(n, 4), gamma)
        wanted = track(values, gamma)[-1]
        misses.append(found - wanted)
        ways.append(values[-1] - wanted)
    ratio = np.linalg.norm(misses) / np.linalg.norm(ways)
    # 40 walks: the ratio of two standard deviations has a relative error of about 15 %.
    assert combination.error / 1.5 < ratio < combination.error * 1.5


@pytest.mark.parametrize(("count", "error"), [(8, 2e-5), (24, 1e-6)])
def test_more_snapshots_meet_a_smooth_trajectory_to_a_millionth(count, error):
    n = 2000
    values = 2 - np.exp(-np.arange(n) / 1000)
    for width in (0.05, 0.07, 0.1, 0.12):
        gamma = power_of_width(width)
        found, _ = reconstruct(values, snapshot_steps(n, count), gamma)
        assert found == pytest.approx(track(values, gamma)[-1], rel=error)


# What is tracked, and when


@pytest.mark.parametrize("count", [1, 4, 8, 50])
def test_the_kept_snapshots_reach_back_to_a_quarter_of_the_run_whenever_it_ends(count):
    for end in (300, 999, 1024, 5000):
        steps = snapshot_steps(end + 1, count)
        assert len(steps) == count
        assert end / REACH * 0.98 <= steps[0] <= end / REACH * REACH ** (1 / count) * 1.02
        ratios = np.divide(steps[1:], steps[:-1])
        assert ratios == pytest.approx(np.full(count - 1, REACH ** (1 / count)), rel=0.03)


def test_no_snapshots_are_due_without_a_count_or_at_the_start():
    assert not any(is_snapshot_step(step, 0) for step in range(1, 500))
    assert [step for step in range(1, 200) if is_snapshot_step(step, 4)][0] == FIRST


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (Exponential(0.99), ["default", "power-16.97", "power-6.94"]),
        (Power(16.97), ["default", "power-6.94"]),
        (Power(3.0, (6.94,)), ["default", "6.94", "power-16.97"]),
        (HalfLife(9.0, more=(6.94,)), ["default", "6.94", "power-16.97", "power-6.94"]),
    ],
    ids=str,
)
def test_both_averages_are_tracked_once(rule, names):
    found = track_averages(rule, 4)
    assert list(found) == names
    assert set(GAMMAS) <= set(list_powers(found))
    assert all(found[name].gamma == gamma for gamma, name in list_powers(found).items())
    assert "power-6.94" not in track_averages(rule, 0)
