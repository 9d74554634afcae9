"""Multistep consistency sampling with the exact consistency function of normal data."""

import pytest
import torch

from ddim.diffusion.denoiser import Counted
from ddim.diffusion.grids import Karras
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import Multistep, initial_noise, last_state
from ddim.diffusion.schedules import Cosine, KarrasSigma
from oracles import TrueConsistency


@pytest.mark.parametrize("schedule", [Cosine(0.001, 0.99995), KarrasSigma()], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_samples_have_the_mean_and_the_deviation_of_the_data_in_any_number_of_steps(steps, schedule):
    """Each step starts from exact samples of its noise level, and each evaluation is one step."""
    times = Karras(2.5)(steps, schedule)
    denoise, noise = Counted(TrueConsistency(schedule, 0.3, 0.5)), Noise([7])
    x = initial_noise(schedule, noise, torch.zeros(1, 1, 400, 400, dtype=torch.float64), times[0])
    states = list(Multistep()(denoise, x, times, noise))
    samples = states[-1].x0
    assert [state.t for state in states] == times.tolist()
    assert denoise.evaluations == steps == Multistep().evaluations(steps)
    # Four standard errors of 160,000 pixels, and 0.3 % for what is left of the images at t = 1.
    assert abs(samples.mean() - 0.3) < 4 * 0.5 / 400 + 0.001
    assert abs(samples.std() - 0.5) < 4 * 0.5 / 400 / 2**0.5 + 0.001


def test_a_step_adds_fresh_noise_to_the_predicted_image():
    """The noise of the first step is used up: what follows depends on the predicted image alone."""

    class Constant(TrueConsistency):
        def __call__(self, x_t, t):
            return super().__call__(torch.zeros_like(x_t), t)

    schedule, times = Cosine(), [1.0, 0.4]
    states = [
        last_state(Multistep()(Constant(schedule), x, times, Noise([3])))
        for x in (torch.zeros(1, 1, 300, 300), torch.ones(1, 1, 300, 300))
    ]
    assert torch.equal(states[0].x, states[1].x)
    assert abs(states[0].x.std() - schedule(0.4).sigma) < 0.01
