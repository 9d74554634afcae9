"""Stochastic samplers: the distribution of their states is computed exactly, as each is affine on a Gaussian.

One run is enough: pixel i of the image is pushed by draw i alone, the last but one starts at 1 without any
noise, the last starts at 0 without any. The final mean and variance follow from their final values.
"""

import pytest
import torch

from cases import mark_slow
from convergence import convergence_order
from ddim.diffusion.denoiser import Counted
from ddim.diffusion.grids import Karras
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Gaussian
from ddim.diffusion.samplers import DDIM, DDPM, EDM, DPMSolver, Multistep, initial_noise, last_state
from ddim.diffusion.schedules import Cosine, KarrasSigma, LinearBeta
from oracles import TrueConsistency

SCHEDULES = [Cosine(0.1, 0.999), LinearBeta(0.1, 8.0)]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


class OneHot:
    """In place of Noise: draw i moves pixel i alone."""

    def __init__(self):
        self.drawn = 0

    def like(self, x):
        push = torch.zeros_like(x)
        push[..., self.drawn] = 1
        self.drawn += 1
        return push


def law(sampler, oracle, times):
    """(mean, variance) of the last state of a run from the exact distribution at times[0]."""
    draws = 2 * len(times)
    x = torch.zeros(1, 1, 1, draws + 2, dtype=torch.float64)
    x[..., -2] = 1
    end = last_state(sampler(oracle, x, times, OneHot())).x.flatten()
    still = end[-1]
    first = oracle.schedule(times[0])
    gain = end[-2] - still
    mean = still + gain * first.alpha * oracle.mean
    variance = (gain * oracle.spread(first)) ** 2 + ((end[:-2] - still) ** 2).sum()
    return mean, variance


def bias(sampler, oracle, steps, end=0.1):
    """How far mean and variance are from those of x_t at the last time."""
    times = torch.linspace(1, end, steps, dtype=torch.float64)
    mean, variance = law(sampler, oracle, times)
    at = oracle.schedule(times[-1])
    return abs(mean - at.alpha * oracle.mean).item(), abs(variance - oracle.spread(at) ** 2).item()


@every_schedule
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("steps", [2, 20])
def test_around_one_image_every_step_leaves_exactly_the_noise_of_its_level(steps, eta, schedule):
    """Song et al. 2021, lemma 1: whatever eta is."""
    point = Gaussian(schedule, mean=0.7, std=0.0)
    for sampler in (DDIM(eta), DPMSolver(1, eta=eta), DPMSolver(2, eta=eta), DPMSolver(3, eta=2 * eta)):
        assert max(bias(sampler, point, steps)) < 1e-12


@every_schedule
@pytest.mark.parametrize("steps", [2, 20])
def test_the_small_variance_is_exact_for_one_image_and_the_large_one_for_unit_variance(steps, schedule):
    """Ho et al. 2020, section 3.2."""
    assert max(bias(DDPM("small"), Gaussian(schedule, 0.7, 0.0), steps)) < 1e-12
    assert max(bias(DDPM("large"), Gaussian(schedule, 0.0, 1.0), steps)) < 1e-12


@pytest.mark.parametrize(
    "schedule", mark_slow(SCHEDULES, lambda s: isinstance(s, LinearBeta)), ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize(
    "sampler, order",
    [
        (DDIM(0.5), 1),
        (DDIM(1.0), 1),
        (DDPM("small"), 1),
        (DDPM("large"), 1),
        (DPMSolver(1, eta=1.0), 1),
        (DPMSolver(2, eta=1.0), 2),
        (DPMSolver(2, eta=0.5), 2),
        (EDM(s_churn=20.0), 2),
        (EDM(order=1, s_churn=20.0), 1),
    ],
    ids=str,
)
def test_the_bias_falls_at_the_nominal_weak_order(sampler, order, schedule):
    oracle, levels = Gaussian(schedule, 0.7, 0.5), (101, 151, 226, 339)
    found = [bias(sampler, oracle, n) for n in levels]
    assert convergence_order(levels, [variance for _, variance in found]) > order - 0.2
    # The mean of x_t is on the path of every mean: nothing moves it away.
    assert max(mean for mean, _ in found) < 1e-12


def test_churn_renews_noise_between_s_min_and_s_max_and_never_past_the_start():
    schedule = Cosine(0.1, 0.999)
    oracle, times = Gaussian(schedule, 0.0, 0.5), torch.linspace(1, 0.1, 20, dtype=torch.float64)

    def draws(**churn):
        noise = OneHot()
        last_state(EDM(**churn)(oracle, torch.zeros(1, 1, 1, 60, dtype=torch.float64), times, noise))
        return noise.drawn

    ratios = schedule(times[:-1]).noise_to_signal
    inside = ((ratios >= 0.5) & (ratios <= 2)).sum().item()
    assert 0 < inside < 19
    assert (draws(), draws(s_churn=1.0)) == (0, 19)
    assert draws(s_churn=1.0, s_min=0.5, s_max=2.0) == inside
    assert max(bias(EDM(s_churn=1e6), oracle, 400)) < 1e-2


@pytest.mark.parametrize("schedule", [Cosine(0.001, 0.99995), KarrasSigma()], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_samples_of_a_consistency_function_are_data_after_any_number_of_steps(steps, schedule):
    """With the exact consistency function, each step starts from exact samples of its noise level."""
    times = Karras(2.5)(steps, schedule)
    denoise, noise = Counted(TrueConsistency(schedule, 0.3, 0.5)), Noise([7])
    x = initial_noise(schedule, noise, torch.zeros(1, 1, 400, 400, dtype=torch.float64), times[0])
    samples = last_state(Multistep()(denoise, x, times, noise)).x0
    assert denoise.evaluations == steps
    # Four standard errors of 160,000 pixels, and 0.3 % for what is left of the images at t = 1.
    assert abs(samples.mean() - 0.3) < 4 * 0.5 / 400 + 0.001
    assert abs(samples.std() - 0.5) < 4 * 0.5 / 400 / 2**0.5 + 0.001
