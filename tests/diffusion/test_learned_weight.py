import math

import pytest
import torch

from ddim.diffusion.loss import LearnedLosses, LearnedWeight, Objective, make_memory
from ddim.diffusion.oracles import Gaussian
from ddim.diffusion.schedules import LinearBeta, LinearIn
from ddim.diffusion.times import LossAware, NormalLogSNR, UniformTimes
from ddim.errors import UserError
from oracles import normal, uniform

SCHEDULE = LinearIn("log_snr", 8.0, -8.0)
LEVELS = torch.linspace(-7, 7, 29, dtype=torch.float64)


def learn(losses, updates, times=UniformTimes(), schedule=SCHEDULE, **options):
    """Train u on losses(times, update)."""
    memory = LearnedLosses(LearnedWeight(**options), times, schedule)
    for k in range(updates):
        drawn, _ = memory.draw((torch.arange(64) + uniform(64, seed=k)) / 64)
        memory.update(drawn, losses(drawn, k))
    return memory


def test_the_optimum_of_u_is_the_logarithm_of_the_expected_loss():
    """Of normal data, the expected squared error of the noise has a closed form: SNR / (SNR + 1 / std^2)."""
    std = 0.5

    def losses(t, k):
        x0, eps = std * normal(64, 1, 3, 3, seed=2 * k), normal(64, 1, 3, 3, seed=2 * k + 1)
        return Objective("noise", "mse")(Gaussian(SCHEDULE, 0.0, std), x0, t, eps)

    learned = learn(losses, 1500).log_losses(LEVELS)
    snr = LEVELS.exp()
    assert (learned - (snr / (snr + 1 / std**2)).log()).abs().max() < 0.15


@pytest.mark.parametrize("scale", [0.05, 20.0])
def test_weighted_losses_have_mean_one_at_every_noise_level(scale):
    """Karras et al. 2024, section 2.3: all noise levels then contribute equally, at any scale of the loss."""
    expected = lambda t: scale * (2 + (SCHEDULE(t).log_snr / 2).sin())
    memory = learn(lambda t, k: expected(t) * 2 * uniform(64, seed=9000 + k), 1000)
    times, weights = memory.draw((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000)
    assert ((weights * expected(times)) - 1).abs().max() < 0.15


def test_a_step_descends_the_loss_of_the_paper():
    """Against torch's Adam on the gradient that autograd derives of loss / exp(u) + u."""
    memory = LearnedLosses(LearnedWeight(5.0, rate=0.03), UniformTimes(), SCHEDULE)
    weights = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=0.03, betas=(0.9, 0.99))
    for k in range(20):
        t, losses = 0.05 + 0.9 * uniform(16, seed=k), 3 * uniform(16, seed=100 + k)
        u = memory._features(SCHEDULE(t).log_snr) @ weights
        (losses / u.exp() + u).mean().backward()
        adam.step()
        adam.zero_grad()
        memory.update(t, losses)
    assert torch.allclose(memory.slots["values"], weights.detach(), rtol=1e-6, atol=1e-9)


def test_times_are_those_of_the_loss_and_weights_start_at_one():
    objective = Objective(times=NormalLogSNR(-1.0, 2.5), weight=LearnedWeight())
    memory = make_memory(objective, SCHEDULE)
    numbers = uniform(50)
    times, weights = memory.draw(numbers)
    assert torch.equal(times, objective.times(numbers, SCHEDULE))
    assert torch.equal(weights, torch.ones(50, dtype=torch.float64))
    assert make_memory(Objective(), SCHEDULE) is None


def test_losses_that_are_not_finite_change_nothing():
    memory = learn(lambda t, k: 1 + t, 5)
    before = {name: value.clone() for name, value in memory.state().items()}
    memory.update(uniform(4), torch.tensor([1.0, math.nan, 1.0, math.inf]), torch.tensor(False))
    assert all(torch.equal(value, before[name]) for name, value in memory.state().items())


def test_a_restored_memory_goes_on_as_the_first_would():
    first = learn(lambda t, k: 1 + t, 5)
    second = LearnedLosses(first.weight, first.times, SCHEDULE)
    second.restore({name: value.clone() for name, value in first.state().items()})
    for memory in (first, second):
        memory.update(uniform(8), 1 + uniform(8, seed=1))
    assert all(torch.equal(value, second.state()[name]) for name, value in first.state().items())


def test_the_weight_of_a_clean_image_is_finite():
    memory = learn(lambda t, k: 1 + t, 5, schedule=LinearBeta())
    assert memory.log_losses(torch.tensor([math.inf, -math.inf])).isfinite().all()


def test_two_ways_to_weigh_by_past_losses_are_refused_together():
    with pytest.raises(UserError, match="choose one of them"):
        Objective(times=LossAware(10), weight=LearnedWeight())
    with pytest.raises(UserError, match=r"objective\.weight\.rate must be above 0, got 0"):
        LearnedWeight(rate=0)
