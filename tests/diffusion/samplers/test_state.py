from itertools import pairwise

import pytest
import torch

from ddim.diffusion.grids import Uniform
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import DDIM, Sampler, State, initial_noise, last_state
from ddim.diffusion.schedules import Cosine, Level, LinearBeta
from ddim.errors import UserError
from oracles import Gaussian, normal


class Exploding:
    """A schedule with alpha 1, as Karras et al. write theirs."""

    def __call__(self, t):
        return Level(torch.ones_like(t), 80 * t)


@pytest.mark.parametrize("schedule, scale", [(Cosine(), 1.0), (LinearBeta(), 1.0), (Exploding(), 6401**0.5)])
def test_initial_noise_has_the_deviation_of_its_level(schedule, scale):
    blank = torch.zeros(4, 3, 8, 8, dtype=torch.float64)
    x = initial_noise(schedule, Noise(range(4)), blank, torch.tensor(1.0, dtype=torch.float64))
    assert torch.allclose(x, scale * Noise(range(4)).like(blank))


@pytest.mark.parametrize("sampler", [DDIM(), DDIM(1.0)], ids=str)
def test_an_empty_grid_is_a_users_error(sampler):
    times = Uniform()(10, Cosine())
    with pytest.raises(UserError, match="at least one time"):
        last_state(sampler(Gaussian(Cosine()), normal(2, 3, 4, 4), times[times < 0.05], Noise(range(2))))


class Steps(Sampler):
    """The deterministic step of DDIM, and nothing else."""

    def walk(self, denoise, x, times, noise):
        for t, s in pairwise(times):
            p = denoise(x, t)
            yield State(x, t.item(), p.x0)
            x = denoise.schedule(s).noisy(p.x0, p.eps)
        return x


def test_a_sampler_of_the_user_needs_only_its_steps():
    """It gets the first state, float64 times and a call without gradients, and equals DDIM."""

    class Learns(Gaussian):
        def __call__(self, x_t, t):
            return super().__call__(x_t * torch.ones((), requires_grad=True), t)

    oracle, x, times = Learns(Cosine()), normal(2, 3, 4, 4), [0.9, 0.7, 0.4, 0.1]
    mine, library = ([*sampler(oracle, x, times, Noise(range(2)))] for sampler in (Steps(), DDIM()))
    assert [state.t for state in mine] == times
    assert torch.equal(mine[0].x, x)
    for one, other in zip(mine, library, strict=True):
        assert not one.x.requires_grad
        torch.testing.assert_close(one.x, other.x)
        torch.testing.assert_close(one.x0, other.x0)
    assert torch.is_grad_enabled()
    assert [*Steps()(oracle, x, [], Noise(range(2)))] == []
    assert [state.t for state in Steps()(oracle, x, [0.5], Noise(range(2)))] == [0.5]
