"""Against diffusers: the same network, noise and timesteps, on the table that it is written for.

Its runs end at sigma = 0, which is our final sample. It makes the last two steps of methods of order 3 with a
lower order (`lower_order_final`), so that those are compared before these steps.
"""

import diffusers
import pytest
import torch

from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.samplers import DDIM, DDPM, EDM, DPMSolver, UniPC
from ddim.diffusion.schedules import Linear
from oracles import normal

TABLE = Linear(1000, 1e-4, 0.02, clip="none", read="log_snr")
LAW = Mixture(TABLE, normal(4, 3, 4, 4, seed=1), 0.5)
X = normal(1, 3, 4, 4)
BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
# Its tables are made of tensors where numpy asks for arrays.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
steps = pytest.mark.parametrize("count", [5, 20, 50])


def times_of(timesteps):
    """Index i of a table of 1000 lies at t = (i + 1) / 1000."""
    return (timesteps.double() + 1) / 1000


def theirs(scheduler, count, x, **options):
    """The states of a diffusers run, its final sample last, and the timesteps of its evaluations."""
    scheduler.set_timesteps(count)
    x, states, timesteps = x * scheduler.init_noise_sigma, [], []
    for t in scheduler.timesteps:
        eps = LAW(scheduler.scale_model_input(x, t), times_of(t)).eps
        x = scheduler.step(eps, t, x, **options).prev_sample
        states.append(x)
        timesteps.append(t)
    return states, torch.stack(timesteps)


def ours(sampler, x, timesteps, seeds=(0,)):
    states = list(sampler(LAW, x, times_of(timesteps), Noise(seeds)))
    return [state.x for state in states[1:]], states[-1].x0


def scheduler_of(name, **options):
    """A scheduler of diffusers on the table."""
    return getattr(diffusers, name)(**BETAS, **{"timestep_spacing": "trailing", **options})


def close(found, wanted):
    return torch.allclose(found, wanted, rtol=0, atol=1e-4)


@steps
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim(count, spacing):
    options = {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": spacing}
    states, timesteps = theirs(scheduler_of("DDIMScheduler", **options), count, X)
    _, found = ours(DDIM(), X, timesteps)
    assert close(found, states[-1])


@steps
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(count, variance):
    scheduler = scheduler_of("DDPMScheduler", clip_sample=False, variance_type=f"fixed_{variance}")
    states, timesteps = theirs(scheduler, count, X, generator=torch.Generator().manual_seed(0))
    between, found = ours(DDPM(variance), X, timesteps)
    assert close(torch.stack(between), torch.stack(states[:-1]))
    if variance == "small":
        # Its large variance is added to the final sample too, since its last timestep is not 0.
        assert close(found, states[-1])


@steps
def test_heun(count):
    """Its states are x / alpha."""
    scheduler = scheduler_of("HeunDiscreteScheduler")
    states, timesteps = theirs(scheduler, count, X)
    begin = X * scheduler.init_noise_sigma * TABLE(times_of(timesteps[0])).alpha
    _, found = ours(EDM(), begin, timesteps.unique().flip(0))
    assert close(found, states[-1])


@steps
def test_dpm_solver_2m(count):
    scheduler = scheduler_of("DPMSolverMultistepScheduler", solver_order=2, algorithm_type="dpmsolver++")
    states, timesteps = theirs(scheduler, count, X)
    _, found = ours(DPMSolver(2), X, timesteps)
    assert close(found, states[-1])


def unipc(order, variant):
    return scheduler_of("UniPCMultistepScheduler", solver_order=order, solver_type=variant)


@steps
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2])
def test_unipc(count, order, variant):
    states, timesteps = theirs(unipc(order, variant), count, X)
    between, found = ours(UniPC(order, variant), X, timesteps)
    assert close(between[-1], states[-2])
    if variant == "bh2":  # Under bh1 theirs ends in NaN at sigma 0, where B(h) = h is infinite.
        assert close(found, states[-1])


@steps
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc_of_order_three_until_its_last_steps(count, variant):
    states, timesteps = theirs(unipc(3, variant), count, X)
    between, _ = ours(UniPC(3, variant), X, timesteps[: count - 2])
    assert close(between[-1], states[count - 4])
