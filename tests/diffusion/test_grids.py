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


@pytest.mark.parametrize("schedule", [Cosine(0.014, 0.99995), LinearBeta()], ids=str)
def test_uniform_log_snr_takes_equal_steps_to_its_end(schedule):
    log_snr = schedule(UniformLogSNR(end=5.0)(17, schedule)).log_snr
    assert log_snr[-1] == pytest.approx(5.0)
    assert torch.allclose(log_snr.diff(), log_snr.diff()[:1].expand(16), rtol=1e-6)


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


def test_listed_times_are_taken_as_they_are():
    grid = Listed((1.0, 0.7, 0.01))
    assert Listed(torch.tensor(grid.times, dtype=torch.float64).numpy()) == Listed([1, 0.7, 0.01]) == grid
    assert grid(3, Cosine()).tolist() == [1.0, 0.7, 0.01]
    with pytest.raises(UserError, match=r"steps must be 3, .* got 4"):
        grid(4, Cosine())


def test_karras_steps_are_those_of_the_paper():
    """Karras et al. 2022, eq. 5: sigma_i from sigma_max to sigma_min, with rho = 7."""
    schedule = Cosine(0.014, 0.99999999)
    high, low = (1 / 0.014**2 - 1) ** 0.5, 0.002
    bars = (-schedule(Karras()(18, schedule)).log_snr / 2).exp()
    for i, found in enumerate(bars.tolist()):
        wanted = (high ** (1 / 7) + i / 17 * (low ** (1 / 7) - high ** (1 / 7))) ** 7
        assert found == pytest.approx(wanted, rel=1e-6)


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
