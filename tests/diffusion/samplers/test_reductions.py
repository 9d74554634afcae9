"""Samplers that are one another's special cases, and rules written out independently."""

import pytest
import torch

from ddim.diffusion.grids import Quadratic, Uniform
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.parameterisation import Prediction
from ddim.diffusion.samplers import DDIM, DDPM, EDM, AdamsBashforth, DPMSolver, UniPC, last_state
from ddim.diffusion.schedules import Cosine, KarrasSigma, Linear, LinearBeta, LinearPath
from ddim.errors import UserError
from mine import Euler
from oracles import Gaussian, normal

SEEDS = range(3)
LAWS = [
    Mixture(schedule, normal(4, 1, 3, 3, seed=1), 0.4)
    for schedule in (Cosine(0.014, 0.999), LinearBeta(), Linear(), LinearPath())
]
every_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law.schedule).__name__)
X = normal(3, 1, 3, 3, seed=2)


def states(sampler, law, times):
    return torch.stack([state.x for state in sampler(law, X, times, Noise(SEEDS))])


def close(a, b):
    return torch.allclose(a, b, rtol=1e-12, atol=1e-12)


@every_law
@pytest.mark.parametrize(
    "sampler", [AdamsBashforth(1), AdamsBashforth(1, steps="equal"), EDM(order=1), DPMSolver(1)], ids=str
)
def test_methods_of_order_one_are_ddim(sampler, law):
    times = Quadratic()(12, law.schedule)
    assert close(states(sampler, law, times), states(DDIM(), law, times))


@pytest.mark.parametrize(
    ("kind", "order"),
    [(AdamsBashforth, 6), (DPMSolver, 0), (DPMSolver, 4), (EDM, 3), (UniPC, 4), (UniPC, "2")],
)
def test_an_order_that_a_method_does_not_have_is_refused(kind, order):
    with pytest.raises(UserError, match=f"sampler.order must be one of 1, 2.* got {order!r}"):
        kind(order=order)


@every_law
def test_ancestral_methods_agree(law):
    times = Uniform()(12, law.schedule)
    ddpm = states(DDPM(), law, times)
    assert close(ddpm, states(DDIM(1.0), law, times))
    assert close(ddpm, states(DPMSolver(1, eta=1.0), law, times))
    assert not torch.allclose(ddpm, states(DDPM("large"), law, times), atol=1e-3)


class Slopes:
    """A denoiser whose predicted noise at its k-th call is slope k, on equal steps of sigma."""

    schedule = KarrasSigma(1.0, 6.0, 1.0)

    def __init__(self, slopes):
        self.slopes = iter(slopes)

    def __call__(self, x_t, t):
        slope = next(self.slopes)
        return Prediction(x_t - self.schedule(t).sigma * slope, slope)


@pytest.mark.parametrize("steps", ["equal", "unequal"])
@pytest.mark.parametrize(
    "weights",
    [
        (-1 / 2, 3 / 2),
        (5 / 12, -16 / 12, 23 / 12),
        (-9 / 24, 37 / 24, -59 / 24, 55 / 24),
        (251 / 720, -1274 / 720, 2616 / 720, -2774 / 720, 1901 / 720),
    ],
)
def test_slopes_on_equal_steps_have_the_textbook_weights(weights, steps):
    """Hairer, Norsett & Wanner 1993, table III.1.1."""
    order, slopes = len(weights), normal(7, 3, 1, 3, 3)
    times = torch.linspace(1, 0, order + 1, dtype=torch.float64)
    xs = states(AdamsBashforth(order, steps), Slopes(slopes), times)
    length = Slopes.schedule(times[-1]).sigma - Slopes.schedule(times[-2]).sigma
    wanted = sum(w * slope for w, slope in zip(weights, slopes[:order], strict=True))
    assert torch.allclose((xs[-1] - xs[-2]) / length, wanted, atol=1e-10)


class Constant:
    """In place of Noise: noise that is the same number everywhere."""

    def __init__(self, value):
        self.value = value

    def like(self, x):
        return torch.full_like(x, self.value)


SAMPLERS = [DDIM(0.7), DDPM("large"), EDM(alpha=0.5), DPMSolver(2, eta=1.0), DPMSolver(3), UniPC()]
SAMPLERS += [AdamsBashforth(4)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@pytest.mark.parametrize("clip", ["rates", "powers"])
def test_a_step_between_two_times_of_one_level_does_nothing(sampler, clip):
    """The tables have plateaus at one end or both, so that some of twenty times share a level."""
    table = Linear(clip=clip, read="floor")
    law, times = Mixture(table, normal(4, 1, 3, 3, seed=1), 0.4), Uniform()(20, table)
    once = times[torch.cat([torch.ones(1, dtype=torch.bool), table(times).log_snr.diff() != 0])]
    assert len(once) < len(times)
    # Noise is zero, since a level visited twice would draw twice.
    twice, single = (last_state(sampler(law, X, grid, Constant(0))).x for grid in (times, once))
    assert torch.isfinite(twice).all()
    assert torch.allclose(twice, single, atol=1e-9)


@pytest.mark.parametrize("sampler", [*SAMPLERS, Euler()], ids=str)
def test_states_are_at_the_times_of_the_grid_and_hold_the_prediction_from_their_images(sampler):
    law, times = LAWS[0], [0.9, 0.7, 0.4, 0.1]
    run = list(sampler(law, X, times, Noise(SEEDS)))
    assert [state.t for state in run] == times
    assert torch.equal(run[0].x, X)
    for state in run:
        assert torch.equal(state.x0, law(state.x, state.t).x0)
    if isinstance(sampler, Euler):
        assert close(run[-1].x, states(DDIM(), law, times)[-1])


def test_a_run_can_be_stopped_early_and_leaves_gradients_on():
    for state in DDIM()(LAWS[0], X.clone().requires_grad_(), [1.0, 0.9, 0.8], Noise(SEEDS)):
        assert torch.is_grad_enabled()
        if state.t < 1:
            break
    assert not state.x.requires_grad
    assert torch.is_grad_enabled()


def test_a_step_on_the_linear_path_is_a_step_of_eulers_method():
    """x_s = x_t + (s - t) dx/dt, where the flow in closed form is derived by autograd."""
    oracle, point = Gaussian(LinearPath()), normal(1, 1, 1, 1)
    for t, s in ((1.0, 0.9), (0.5, 0.25), (0.3, 0.05)):
        begin, end = torch.tensor([t, t], dtype=torch.float64).requires_grad_()
        (velocity,) = torch.autograd.grad(oracle.flow(point, begin, end), end)
        found = last_state(DDIM()(oracle, point, [t, s], Noise([0]))).x
        assert torch.allclose(found, point + (s - t) * velocity, rtol=1e-12)
