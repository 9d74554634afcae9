import math
from fractions import Fraction

import pytest
import torch

from ddim.diffusion.grids import Karras, Listed, Quadratic, Sections, Spaced, Uniform, UniformLogSNR
from ddim.diffusion.schedules import Cosine, KarrasSigma, Linear, LinearBeta, LinearPath
from ddim.errors import UserError

SCHEDULES = [
    Cosine(),
    Cosine(0.014, 0.99995),
    Cosine(0.02, 1.0),
    LinearBeta(),
    Linear(),
    Linear(clip="powers"),
    Linear(clip="none", read="log_snr"),
    Linear(read="log_snr"),
    LinearPath(),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
every_grid = pytest.mark.parametrize(
    "grid", [Uniform(), Uniform(shift=3.0), Quadratic(), UniformLogSNR(end=1.9)], ids=str
)


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
    """Béres evaluates at t = 1 - k/N, k = 0 ... N - 1."""
    exact = [float(1 - Fraction(k, steps)) for k in range(steps)]
    assert torch.allclose(Uniform()(steps, Cosine()), torch.tensor(exact, dtype=torch.float64), rtol=1e-15)


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_a_shift_multiplies_the_noise_of_the_linear_path(shift):
    """Esser et al. 2024, eq. 23: the log-SNR of images of n times as many pixels falls by log n."""
    path = LinearPath(1e-12, 1.0)
    plain, shifted = (path(Uniform(s)(20, path)).log_snr[1:] for s in (1.0, shift))
    pixels = shift**2
    assert torch.allclose(shifted, plain - math.log(pixels), atol=1e-6)


def test_a_shift_of_one_keeps_every_bit():
    assert torch.equal(Uniform(1.0)(7, Cosine()), torch.arange(7, 0, -1, dtype=torch.float64) / 7)


def test_quadratic_steps_shrink_evenly():
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
@pytest.mark.parametrize("end", [-8.0, float("nan"), float("inf")])
def test_an_end_noisier_than_the_schedule_is_refused_and_its_start_named(end, steps):
    with pytest.raises(UserError, match=r"grid\.end must be above the log-SNR at t = 1, -7\.82, got"):
        UniformLogSNR(end)(steps, Cosine(0.02, 0.95))


TABLE = Linear(clip="none", read="log_snr")


@pytest.mark.parametrize("grid", [UniformLogSNR(30.0), Karras(1e-7)], ids=str)
@pytest.mark.parametrize(
    "schedule",
    [
        Cosine(0.02, 0.95),
        Linear(clip="rates", read="floor"),
        Linear(4000, read="floor"),
        TABLE,
        KarrasSigma(),
    ],
    ids=str,
)
def test_a_grid_ends_at_the_cleanest_level_of_a_schedule_that_is_noisier_than_its_end(grid, schedule):
    """A sweep over schedules uses each to its end, as k-diffusion does."""
    times = grid(7, schedule)
    assert (times.diff() < 0).all()
    cleanest = schedule(torch.tensor(1e-9, dtype=torch.float64)).log_snr
    assert schedule(times[-1]).log_snr == pytest.approx(cleanest.item(), abs=0.01)
    if grid == UniformLogSNR(30.0) and getattr(schedule, "read", "") != "floor":
        levels = schedule(times).log_snr
        assert torch.allclose(levels.diff(), levels.diff()[:1].expand(6), rtol=1e-3)


def test_the_cleanest_level_of_a_table_is_its_first_entry():
    for grid in (UniformLogSNR(30.0), Karras(0.002)):
        assert grid(20, TABLE)[-1] == 1 / 1000


@pytest.mark.parametrize("read", ["floor", "log_snr"])
@pytest.mark.parametrize("steps", [2, 20, 63, 64, 100, 500, 1000])
def test_quadratic_steps_each_have_a_level_of_their_own_on_a_table(steps, read):
    table = Linear(clip="none", read=read)
    times = Quadratic()(steps, table)
    assert (table(times).log_snr.diff() > 0).all()
    # Without waste, and away from the clean end, they are the squares.
    squares = Quadratic()(steps, Cosine())
    assert torch.equal(times[: steps // 2], squares[: steps // 2]) or steps == 1000
    assert torch.equal(times, squares) == (steps < 64)


def test_more_levels_than_a_table_has_are_refused():
    with pytest.raises(UserError, match="5000 steps"):
        UniformLogSNR(1.9)(5000, Linear(read="floor"))


@every_grid
@pytest.mark.parametrize("steps", [0, -1, 10**6 + 1, 99999999999])
def test_zero_steps_and_more_than_a_million_are_refused(grid, steps):
    with pytest.raises(UserError, match="steps must be at least 1 and at most 1,000,000, got"):
        grid(steps, Cosine())


def test_listed_times_are_taken_as_they_are():
    grid = Listed((1.0, 0.7, 0.01))
    assert Listed(torch.tensor(grid.times, dtype=torch.float64).numpy()) == Listed([1, 0.7, 0.01]) == grid
    assert grid(3, Cosine()).tolist() == [1.0, 0.7, 0.01]
    with pytest.raises(UserError, match=r"steps must be 3, .* got 4"):
        grid(4, Cosine())


@pytest.mark.parametrize(
    "times", [(), (0.5, 0.5), (0.5, 0.7), (1.1, 0.5), (0.5, 0.0), (float("nan"),), (1.0, -0.1)]
)
def test_times_that_do_not_fall_in_the_unit_interval_are_refused(times):
    with pytest.raises(UserError, match=r"grid\.times must decrease and lie in \(0, 1\]"):
        Listed(times)


def test_karras_steps_are_those_of_the_paper():
    """Karras et al. 2022, eq. 5: sigma_i from sigma_max to sigma_min, with rho = 7."""
    schedule = Cosine(0.014, 0.99999999)
    high, low = (1 / 0.014**2 - 1) ** 0.5, 0.002
    bars = (-schedule(Karras()(18, schedule)).log_snr / 2).exp()
    for i, found in enumerate(bars.tolist()):
        wanted = (high ** (1 / 7) + i / 17 * (low ** (1 / 7) - high ** (1 / 7))) ** 7
        assert found == pytest.approx(wanted, rel=1e-6)


def test_karras_steps_may_begin_below_the_start_of_the_schedule():
    schedule = Cosine(0.014, 0.99999999)
    bars = (-schedule(Karras(0.01, 2.0, 3.0)(9, schedule)).log_snr / 2).exp()
    assert bars[0].item() == pytest.approx(2.0)
    assert torch.allclose((bars ** (1 / 3)).diff(), (bars ** (1 / 3)).diff()[:1].expand(8), rtol=1e-6)
    assert Karras(0.01)(1, schedule).tolist() == [1.0]
    assert Karras(0.01, 1e9)(5, schedule)[0] == 1


@pytest.mark.parametrize("make", [lambda: Karras(0.0), lambda: Karras(2.0, 1.0), lambda: Karras(rho=0.0)])
def test_impossible_karras_steps_are_refused(make):
    with pytest.raises(UserError, match="sigma_min"):
        make()


@pytest.mark.parametrize("low, high", [(0.001, 0.3), (60.0, 70.0)])
def test_karras_steps_outside_the_schedule_are_refused_and_its_start_named(low, high):
    with pytest.raises(UserError, match=r"leave no noise level of this schedule, .* at most 49\.99, got"):
        Karras(low, high)(10, Cosine(0.02, 0.95))


@pytest.mark.parametrize(
    "spacing, steps, wanted",
    [
        # Lin et al. 2024, table 2, timesteps of ten among a thousand counted from 1.
        ("leading", 10, [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]),
        ("trailing", 10, [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]),
        ("trailing", 3, [1000, 667, 333]),
        ("leading", 1000, list(range(1000, 0, -1))),
        ("leading", 3, [667, 334, 1]),
        ("trailing", 1000, list(range(1000, 0, -1))),
        ("trailing", 1, [1000]),
    ],
)
def test_spaced_levels_are_entries_of_the_table(spacing, steps, wanted):
    times = Spaced(1000, spacing)(steps, Linear())
    assert (times * 1000).round().long().tolist() == wanted
    assert torch.allclose(times * 1000, (times * 1000).round(), rtol=1e-12)


@pytest.mark.parametrize("steps", [7, 30, 501, 600, 999])
def test_spaced_levels_reach_from_one_end_of_the_table_to_the_other(steps):
    """Song et al. 2021, appendix D.2: entries floor(c i) with a real c, whose last is close to T."""
    for spacing in ("leading", "trailing"):
        index = (Spaced(1000, spacing)(steps, Linear()) * 1000).round()
        gaps = -index.diff()
        assert {gaps.min().item(), gaps.max().item()} <= {1000 // steps, 1000 // steps + 1}
        assert index[0] - index[-1] >= 1000 - 1000 // steps - 1
    assert (index[0], Spaced(1000, "leading")(steps, Linear())[-1]) == (1000, 1 / 1000)


def test_one_step_of_leading_spacing_is_refused():
    with pytest.raises(UserError, match="steps with leading spacing must be at least 2"):
        Spaced(1000, "leading")(1, Linear())
    assert Spaced(1, "leading")(1, Linear()).tolist() == [1.0]


def test_more_levels_than_entries_are_refused():
    with pytest.raises(UserError, match="at most 100"):
        Spaced(100)(101, Linear(100))


def entries(grid, steps):
    """The entries of the table, from 0 and increasing, that a grid takes."""
    return (grid(steps, LinearBeta()).flip(0) * grid.entries).round().long().sub(1).tolist()


def test_sections_are_the_respacing_of_improved_ddpm():
    """Nichol & Dhariwal 2021, section 4, and the cases that their code documents.

    Their code sums strides: seven of 99 / 14 add up to 49.49999999999999, not to 49.5, which rounds to 50.
    """
    assert entries(Sections(300, (10, 15, 20)), 45) == [
        *(round(k * 99 / 9) for k in range(10)),
        *(149 if k == 7 else 100 + round(k * 99 / 14) for k in range(15)),
        *(200 + round(k * 99 / 19) for k in range(20)),
    ]
    assert entries(Sections(10), 10) == list(range(10))
    assert entries(Sections(4000), 2) == [0, 3999]
    assert entries(Sections(10, (1, 1, 1)), 3) == [0, 4, 7]
    assert entries(Sections(10, (1, 1, 1)), 9) == [0, 2, 3, 4, 5, 6, 7, 8, 9]


def test_leading_spacing_is_the_ddim_spacing_of_improved_ddpm():
    assert entries(Spaced(1000, "leading"), 50) == list(range(0, 1000, 20))


@pytest.mark.parametrize("shares, steps", [((1,), 1), ((1,), 1000), ((3, 2, 1), 60), ((10, 10, 10), 30)])
def test_sections_keep_the_levels_of_the_table_as_they_are(shares, steps):
    table = Linear(1000, clip="none", read="log_snr")
    times = Sections(1000, shares)(steps, table)
    assert times.shape == (steps,)
    assert (times.diff() < 0).all()
    index = (times * 1000).round().long() - 1
    assert torch.allclose(table(times).alpha ** 2, table.powers[index], rtol=1e-10)


def test_impossible_sections_are_refused():
    for shares in ((), (0, 1), (1,) * 1001):
        with pytest.raises(UserError, match=r"grid\.shares must be one to 1000"):
            Sections(1000, shares)
    with pytest.raises(UserError, match="steps must be a multiple of 30, the sum of grid.shares, got 31"):
        Sections(1000, (10, 10, 10))(31, LinearBeta())
    with pytest.raises(UserError, match="ask for 9 times of a section that has 5"):
        Sections(10, (9, 1))(10, LinearBeta())
