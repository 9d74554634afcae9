import math

import pytest
import torch

from ddim.diffusion.grids import Karras, Quadratic, Sections, Spaced, Uniform, UniformLogSNR
from ddim.diffusion.schedules import Cosine, KarrasSigma, Linear, LinearBeta, LinearPath


@pytest.mark.parametrize(
    "schedule",
    [Cosine(0.02, 1.0), LinearBeta(), Linear(read="floor"), Linear(clip="powers"), Linear(), LinearPath()],
    ids=str,
)
@pytest.mark.parametrize(
    "grid", [Uniform(), Uniform(shift=3.0), Quadratic(), UniformLogSNR(end=1.9), Spaced()], ids=str
)
def test_times_fall_from_one_and_never_reach_zero(grid, schedule):
    for steps in (1, 2, 3, 20, 50):
        times = grid(steps, schedule)
        assert times.shape == (steps,)
        assert times.dtype == torch.float64
        assert times[0] == 1
        assert (times.diff() < 0).all()
        assert times[-1] > 0
        assert schedule(times).log_snr.isfinite().all()


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_a_shift_multiplies_the_noise_of_the_linear_path(shift):
    """Esser et al. 2024, eq. 23: the log-SNR of images of n times as many pixels falls by log n."""
    path = LinearPath(1e-12, 1.0)
    plain, shifted = (path(Uniform(s)(20, path)).log_snr[1:] for s in (1.0, shift))
    assert torch.allclose(shifted, plain - math.log(shift**2), atol=1e-6)


@pytest.mark.parametrize("schedule", [Cosine(0.014, 0.99995), LinearBeta()], ids=str)
def test_uniform_log_snr_takes_equal_steps_to_its_end(schedule):
    log_snr = schedule(UniformLogSNR(end=5.0)(17, schedule)).log_snr
    assert log_snr[-1] == pytest.approx(5.0)
    assert torch.allclose(log_snr.diff(), log_snr.diff()[:1].expand(16), rtol=1e-6)


@pytest.mark.parametrize("grid", [UniformLogSNR(30.0), Karras(1e-7)], ids=str)
@pytest.mark.parametrize(
    "schedule", [Cosine(0.02, 0.95), Linear(4000, read="floor"), Linear(), KarrasSigma()], ids=str
)
def test_a_grid_ends_at_the_cleanest_level_of_a_schedule_that_is_noisier_than_its_end(grid, schedule):
    """A sweep over schedules uses each to its end, as k-diffusion does."""
    times = grid(7, schedule)
    assert (times.diff() < 0).all()
    assert schedule(times[-1]).log_snr == pytest.approx(schedule(1e-9).log_snr.item(), abs=0.01)


@pytest.mark.parametrize("read", ["floor", "log_snr"])
@pytest.mark.parametrize("steps", [2, 63, 64, 500, 1000])
def test_quadratic_steps_each_have_a_level_of_their_own_on_a_table(steps, read):
    table = Linear(read=read)
    times, squares = Quadratic()(steps, table), Quadratic()(steps, Cosine())
    assert (table(times).log_snr.diff() > 0).all()
    # Without waste, and away from the clean end, they are the squares.
    assert torch.equal(times[: steps // 2], squares[: steps // 2]) or steps == 1000
    assert torch.equal(times, squares) == (steps < 64)


def test_karras_steps_are_those_of_the_paper():
    """Karras et al. 2022, eq. 5: sigma_i from sigma_max to sigma_min, with rho = 7."""
    schedule = Cosine(0.014, 0.99999999)
    high, low = (1 / 0.014**2 - 1) ** 0.5, 0.002
    ratios = schedule(Karras()(18, schedule)).noise_to_signal.tolist()
    wanted = [(high ** (1 / 7) + i / 17 * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(18)]
    assert ratios == pytest.approx(wanted, rel=1e-6)


def entries(grid, steps):
    """The entries of the table, from 0 and increasing, that a grid takes."""
    return (grid(steps, LinearBeta()).flip(0) * grid.entries).round().long().sub(1).tolist()


@pytest.mark.parametrize(
    "spacing, steps, wanted",
    [
        # Lin et al. 2024, table 2.
        ("leading", 10, list(range(0, 1000, 100))),
        ("trailing", 10, list(range(99, 1000, 100))),
        # The DDIM spacing of improved DDPM.
        ("leading", 50, list(range(0, 1000, 20))),
        ("trailing", 3, [332, 666, 999]),
        ("leading", 3, [0, 333, 666]),
        ("trailing", 1, [999]),
    ],
)
def test_spaced_levels_are_entries_of_the_table(spacing, steps, wanted):
    assert entries(Spaced(1000, spacing), steps) == wanted


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
