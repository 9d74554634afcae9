import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch

from ddim.diffusion.denoiser import Model
from ddim.diffusion.schedules import (
    BetaTable,
    Cosine,
    KarrasSigma,
    Level,
    Linear,
    LinearBeta,
    LinearIn,
    LinearPath,
    Schedule,
    as_double,
)
from ddim.diffusion.times import plateaus
from ddim.errors import UserError

SEVEN = ["noise_power", "angle", "log_snr", "log_noise", "log_signal", "noise_step", "signal_step"]
PRESERVING = [
    Cosine(),
    Cosine(0.014, 0.99995),
    Cosine(0.02, 1.0),
    LinearBeta(),
    LinearBeta(0.01, 200.0),
    LinearBeta(0.0, 20.0),
    Linear(entries=7, first=0.01, last=0.7),
    *(Linear(clip=clip, read=read) for clip in ("none", "rates", "powers") for read in ("floor", "log_snr")),
    *(BetaTable(clip="none", read="log_snr", betas=betas) for betas in ("quad", "const", "sigmoid")),
    *(BetaTable(entries=7, clip="rates", read=read, betas="jsd") for read in ("floor", "log_snr")),
    *(LinearIn(quantity, *ends) for quantity in SEVEN for ends in ((3.0, -10.0), (36.0, -36.0))),
]
SCHEDULES = [
    *PRESERVING,
    KarrasSigma(),
    KarrasSigma(0.02, 100.0, None),
    KarrasSigma(0.1, 2.0, 1.0),
    LinearPath(),
    LinearPath(1e-6, 1.0),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
TIMES = torch.cat([torch.logspace(-12, 0, 200, dtype=torch.float64), torch.linspace(1e-4, 1, 3001).double()])
TIMES = TIMES.clamp(max=1).sort().values


@every_schedule
def test_the_log_snr_never_rises_and_powers_add_up_to_one(schedule):
    at = schedule(TIMES)
    assert at.log_snr.isfinite().all()
    assert (at.log_snr.diff() <= 0).all()
    assert at.log_snr[0] > at.log_snr[-1]
    if schedule in PRESERVING:
        assert torch.allclose(at.alpha**2 + at.sigma**2, torch.ones_like(TIMES), rtol=0, atol=1e-15)


def earliest(schedule):
    """A table read between its entries has no level before the first of them."""
    return 1 / schedule.entries if getattr(schedule, "read", "") == "log_snr" else 0


@every_schedule
def test_the_inverse_comes_back_to_the_same_level_and_is_never_later(schedule):
    log_snr = schedule(TIMES).log_snr
    t = schedule.inverse(log_snr)
    assert ((t >= 0) & (t <= 1)).all()
    # A time is known no better than the log-SNR is, and that only to 1e-16 of the nearest rate.
    assert (t <= TIMES.clamp(min=earliest(schedule)) + 1e-9).all()
    assert (schedule(t).log_snr <= log_snr + 1e-6).all()
    usual = max(1e-4, earliest(schedule)) < TIMES
    assert torch.allclose(schedule(t).log_snr[usual], log_snr[usual], rtol=0, atol=1e-6)


@every_schedule
def test_the_inverse_never_grows_and_is_clamped(schedule):
    ends = torch.tensor([torch.inf], dtype=torch.float64)
    log_snr = torch.cat([-ends, torch.linspace(-300, 300, 601, dtype=torch.float64), ends])
    t = schedule.inverse(log_snr)
    assert (t.diff() <= 0).all()
    assert t[0] == pytest.approx(1, abs=1e-15)
    assert 0 <= t[-1] - earliest(schedule) < 1e-9
    assert schedule.inverse(torch.zeros(2, 3)).shape == (2, 3)


def test_linear_beta_solves_its_differential_equation():
    """Song et al. 2021b, eq. 32: d log alpha / dt = -beta(t) / 2 with beta linear from low to high."""
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64, requires_grad=True)
    LinearBeta(0.1, 20.0)(t).alpha.log().sum().backward()
    assert torch.allclose(-2 * t.grad, 0.1 + 19.9 * t.detach())
    clean = LinearBeta()(torch.tensor(0.0))
    assert (clean.alpha, clean.sigma) == (1, 0)


@pytest.mark.parametrize("quantity", SEVEN)
def test_a_linear_in_schedule_is_linear_in_its_quantity(quantity):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    at = LinearIn(quantity, 2.0, -3.0)(t)
    noise, signal = at.sigma**2, at.alpha**2
    # Of the two last the ratios of neighbouring powers, whose logarithms differ by equal amounts.
    linear = {
        "noise_power": noise,
        "angle": torch.atan2(at.sigma, at.alpha),
        "log_snr": (signal / noise).log(),
        "log_noise": noise.log(),
        "log_signal": signal.log(),
        "noise_step": (noise[1:] / noise[:-1]).log(),
        "signal_step": (signal[1:] / signal[:-1]).log(),
    }[quantity]
    assert torch.allclose(linear.diff(), linear.diff().mean(), rtol=1e-6, atol=0)
    ends = torch.tensor([2.0, -3.0], dtype=torch.float64)
    assert torch.allclose(at.log_snr[[0, -1]], ends)


@pytest.mark.parametrize(
    "betas, law",
    [
        ("linear", lambda i: Fraction(1, 10000) + (Fraction(2, 100) - Fraction(1, 10000)) * i / 999),
        ("const", lambda i: Fraction(2, 100)),
        ("jsd", lambda i: Fraction(1, 1000 - i)),
        ("quad", lambda i: (Fraction(1, 100) + (Fraction(2**0.5 / 10) - Fraction(1, 100)) * i / 999) ** 2),
        ("sigmoid", lambda i: Fraction(1e-4 + (0.02 - 1e-4) / (1 + math.exp(6 - 12 * i / 999)))),
    ],
)
def test_each_table_is_the_product_of_its_fractions(betas, law):
    """Four tables of Ho et al.'s code and Song et al.'s sigmoid: alpha_bar_i = prod (1 - beta_j), in rational
    numbers."""
    bar, bars = Fraction(1), []
    for i in range(1000):
        bar = (bar * (1 - law(i))).limit_denominator(10**40)
        bars.append(float(bar))
    # Clipped where only jsd ends, which has no signal there.
    options = {"clip": "powers", "min_signal": 1e-12, "max_signal": 1.0}
    table = Linear(**options) if betas == "linear" else BetaTable(**options, betas=betas)
    assert np.allclose(table.powers[:-1], bars[:-1], rtol=1e-11)


@pytest.mark.parametrize(
    "clip, shares",
    # dfalbel/denoising-diffusion, diffusion.R:28, recomputed: 38.0 and 6.7 % of the times on two levels.
    [("powers", [0.380, 0.067]), ("rates", [0.121, 0.097]), ("none", [])],
)
def test_the_clip_of_powers_has_the_plateaus_of_torch_luz(clip, shares):
    table = Linear(clip=clip, read="floor")
    assert [*plateaus(table).values()] == pytest.approx(shares, abs=1e-3)
    ends = torch.logit(table.powers[[-1, 0]]).tolist()
    assert [*plateaus(table)] == pytest.approx(ends if shares else [], abs=1e-6)


def test_log_snr_reading_meets_the_entries_and_is_straight_between_them():
    table = Linear(clip="none", read="log_snr")
    i = torch.tensor([0, 1, 7, 500, 999])
    assert torch.allclose(table((i + 1).double() / 1000).alpha ** 2, table.powers[i], rtol=1e-11)
    three = table(torch.tensor([0.200, 0.2005, 0.201], dtype=torch.float64)).log_snr
    assert three[1] == pytest.approx((three[0] + three[2]).item() / 2, rel=1e-12)
    clean = table(torch.tensor(0.0))
    assert (clean.alpha, clean.sigma) == (1, 0)


@pytest.mark.parametrize("clip", ["none", "rates", "powers"])
def test_the_inverse_of_a_floor_table_is_the_earliest_entry_that_is_noisy_enough(clip):
    table = Linear(9, 0.01, 0.7, clip, 0.1, 0.9, "floor")
    for wanted in torch.linspace(-9, 9, 163, dtype=torch.float64):
        noisy_enough = [i for i, level in enumerate(table.log_snr) if level <= wanted]
        index = min([*noisy_enough, 8])
        t = table.inverse(wanted)
        assert t.item() == pytest.approx(index / 8, abs=1e-12)
        assert table(t).alpha ** 2 == pytest.approx(table.powers[index].item(), rel=1e-12)


def test_equal_times_of_karras_sigma_are_equal_steps_of_its_root():
    """Karras et al. 2022, eq. 5, between 80 and 0.002: seven levels computed with NumPy."""
    at = KarrasSigma(0.002, 80.0)(torch.linspace(1, 0, 7, dtype=torch.float64))
    assert (at.alpha == 1).all()
    assert np.allclose(at.sigma, np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), 7) ** 7, rtol=1e-12)


@pytest.mark.parametrize("path", [LinearPath(), LinearPath(1e-6, 1.0), LinearPath(0.2, 0.9)], ids=str)
def test_the_linear_path_is_the_straight_line_from_image_to_noise(path):
    """Liu et al. 2023, eq. 1: X_t = t X_1 + (1 - t) X_0, between the two signal rates."""
    x0, eps, at = torch.tensor([2.0, -1.0]).double(), torch.tensor([0.5, 3.0]).double(), path(TIMES)
    part = (at.alpha[:, None] * x0 + at.sigma[:, None] * eps - x0) / (eps - x0)
    assert torch.allclose(part[:, 0], part[:, 1], rtol=0, atol=1e-15)
    ends = torch.tensor([1 - path.max_signal, 1 - path.min_signal], dtype=torch.float64)
    assert torch.allclose(part[[0, -1], 0], ends, atol=1e-11)
    even = path(torch.linspace(0, 1, 11, dtype=torch.float64)).sigma.diff()
    assert torch.allclose(even, even[:1].expand(10))


def test_the_cosine_table_is_that_of_improved_ddpm():
    """Nichol & Dhariwal 2021, eq. 17: alpha^2 = f(t) / f(0), except for the last betas, capped at 0.999."""
    f = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    powers = BetaTable(4000).powers.tolist()
    for i in (0, 999, 1999, 2999, 3998):
        assert powers[i] == pytest.approx(f((i + 1) / 4000) / f(0), rel=1e-6)
    assert powers[-1] / powers[-2] == pytest.approx(1 - 0.999, rel=1e-9)
    # Section 3.2: of 1000 steps the root of the first beta is a little less than a bin, 1 / 127.5.
    assert 0.6 / 127.5 < BetaTable(1000)(1e-3).sigma.item() < 1 / 127.5


def test_a_table_that_was_first_read_in_inference_mode_can_be_used_in_training():
    table = Linear(entries=11, first=0.01, last=0.5)
    with torch.inference_mode():
        table(0.5)
    scale = torch.ones((), requires_grad=True)
    (table(0.3).alpha * scale).backward()
    assert scale.grad > 0


@dataclass(frozen=True)
class Mine(Schedule):
    """A schedule that a user wrote."""

    alpha: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, t):
        """See `Schedule`."""
        alpha = self.alpha(as_double(t))
        return Level(alpha, (1 - alpha**2).clamp(0).sqrt())


@pytest.mark.parametrize(
    "alpha",
    [
        lambda t: 0.01 + 0.98 * t,
        lambda t: 0.01 + 0.98 * (2 * t - 1).abs(),
        lambda t: 0.5 + 0 * t,
        lambda t: t * torch.nan,
    ],
)
def test_the_log_snr_of_a_schedule_must_fall_from_image_to_noise(alpha):
    with pytest.raises(UserError, match="a log-SNR that falls"):
        Model(torch.nn.Identity(), Mine(alpha))
    with pytest.raises(UserError, match="must return a ddim.Level"):
        Model(torch.nn.Identity(), alpha)
    # Plateaus, no noise at all and no signal at all are allowed.
    assert Model(torch.nn.Identity(), Mine(lambda t: (1.5 - 1.5 * t).clamp(0, 1)))


@pytest.mark.parametrize("schedule", SCHEDULES[::6], ids=str)
@pytest.mark.parametrize("t", [-0.1, math.nan, [0.5, 2.0]])
def test_a_time_outside_the_unit_interval_is_refused(schedule, t):
    with pytest.raises(UserError, match="times must lie in"):
        schedule(torch.tensor(t))
