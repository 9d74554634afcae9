from fractions import Fraction

import pytest
import torch

from ddim.errors import UserError
from ddim.grids import Listed, Quadratic, Uniform, UniformLogSNR
from ddim.schedules import Cosine, Linear, LinearBeta

SCHEDULES = [
    Cosine(),
    Cosine(0.014, 0.99995),
    Cosine(0.02, 1.0),
    LinearBeta(),
    Linear(),
    Linear(clip="powers"),
    Linear(clip="none", read="log_snr"),
    Linear(read="log_snr"),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
every_grid = pytest.mark.parametrize("grid", [Uniform(), Quadratic(), UniformLogSNR(end=1.9)], ids=str)


@every_schedule
@every_grid
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 50])
def test_times_fall_from_one_and_never_reach_zero(grid, schedule, steps):
    times = grid(steps, schedule)
    assert times.shape == (steps,)
    assert times.dtype == torch.float64
    assert times[0] == 1
    assert (times.diff() < 0).all()
    assert times[-1] > 0
    assert schedule(times).log_snr.isfinite().all()


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 1000])
def test_uniform_times_are_those_of_the_originals(steps):
    """Béres asks at t = 1 - k/N, k = 0 ... N - 1."""
    exact = [float(1 - Fraction(k, steps)) for k in range(steps)]
    assert torch.allclose(Uniform()(steps, Cosine()), torch.tensor(exact, dtype=torch.float64), rtol=1e-15)


def test_quadratic_times_have_steps_that_shrink_evenly():
    times = Quadratic()(10, Cosine())
    assert times[-1] == pytest.approx(0.01)
    second = times.diff().diff()
    assert torch.allclose(second, second[:1].expand(8))
    assert second[0] == pytest.approx(2 / 100)


@pytest.mark.parametrize("schedule", [Cosine(0.014, 0.99995), LinearBeta()], ids=str)
def test_uniform_log_snr_takes_equal_steps_to_its_end(schedule):
    log_snr = schedule(UniformLogSNR(end=5.0)(17, schedule)).log_snr
    assert log_snr[-1] == pytest.approx(5.0)
    assert torch.allclose(log_snr.diff(), log_snr.diff()[:1].expand(16), rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
@pytest.mark.parametrize(
    "schedule, end", [(Cosine(), 6.0), (Cosine(), -8.0), (Linear(), 3.0), (Cosine(), float("nan"))]
)
def test_an_end_outside_the_schedule_is_refused_and_the_range_named(schedule, end, steps):
    with pytest.raises(UserError, match=r"grid\.end must lie between .*-\d\.\d\d and \d\.\d\d, got"):
        UniformLogSNR(end)(steps, schedule)


def test_more_levels_than_a_table_has_are_refused():
    with pytest.raises(UserError, match="5000 steps"):
        UniformLogSNR(1.9)(5000, Linear())


@every_grid
@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_are_refused(grid, steps):
    with pytest.raises(UserError, match="steps must be at least 1, got"):
        grid(steps, Cosine())


def test_listed_times_are_taken_as_they_are():
    grid = Listed((1.0, 0.7, 0.01))
    assert grid(3, Cosine()).tolist() == [1.0, 0.7, 0.01]
    with pytest.raises(UserError, match=r"steps must be 3, .* got 4"):
        grid(4, Cosine())


@pytest.mark.parametrize(
    "times", [(), (0.5, 0.5), (0.5, 0.7), (1.1, 0.5), (0.5, 0.0), (float("nan"),), (1.0, -0.1)]
)
def test_times_that_do_not_fall_in_the_unit_interval_are_refused(times):
    with pytest.raises(UserError, match=r"grid\.times must decrease and lie in \(0, 1\]"):
        Listed(times)
