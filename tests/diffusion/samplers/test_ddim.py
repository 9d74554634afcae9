import math
from functools import partial

import pytest
import torch

from convergence import lay_grid
from ddim.diffusion.grids import Quadratic, Uniform, UniformLogSNR
from ddim.diffusion.noise import Noise
from ddim.diffusion.samplers import DDIM, initial_noise, last_state
from ddim.diffusion.schedules import Cosine, Linear, LinearBeta, LinearPath
from oracles import Gaussian, normal

EIGHT = range(8)
SCHEDULES = [Cosine(0.014, 0.99995), LinearBeta(), LinearPath()]


GRIDS = {"uniform": Uniform(), "quadratic": Quadratic(), "log_snr": UniformLogSNR(2.0)}
GRIDS |= {name: partial(lay_grid, name, last=0.05) for name in ("warped 0", "warped 1", "warped 2")}


def run(sampler, denoise, x, times, seeds=EIGHT):
    return last_state(sampler(denoise, x, times, Noise(seeds)))


def pure(schedule, n=8, side=2):
    return initial_noise(schedule, Noise(range(n)), torch.zeros(n, 3, side, side, dtype=torch.float64), 1.0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_states_and_samples_converge_to_the_exact_flow_with_order_one_on_any_grid(grid, schedule):
    oracle, x = Gaussian(schedule), pure(schedule)

    def errors(steps):
        end = run(DDIM(), oracle, x, grid(steps, schedule))
        exact = oracle.flow(x, 1, end.t)
        pairs = (end.x, exact), (end.x0, oracle(exact, end.t).x0)
        return [(found - wanted).abs().max() for found, wanted in pairs]

    for coarse, fine in zip(errors(200), errors(400), strict=True):
        assert fine < 0.02
        assert math.log2(coarse / fine) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_any_eta_keeps_the_marginal(eta):
    schedule, n = Cosine(), 48
    oracle = Gaussian(schedule)
    begin = schedule(1.0)
    x = begin.alpha * oracle.mean + oracle.spread(begin) * normal(n, 3, 12, 12)
    end = run(DDIM(eta), oracle, x, Uniform()(200, schedule), range(n))
    at = schedule(end.t)
    assert end.x.std().item() == pytest.approx(oracle.spread(at).item(), abs=0.01)
    assert end.x.mean().item() == pytest.approx((at.alpha * oracle.mean).item(), abs=0.01)


@pytest.mark.parametrize("entries", [10, 100])
def test_eta_one_on_the_whole_table_is_ddpm(entries):
    """Against Ho et al. 2020, algorithm 2 with eq. 7, written with their betas."""
    table = Linear(entries, 1e-3, 0.2, clip="none", read="log_snr")
    oracle, x = Gaussian(table), pure(table)
    times = Uniform()(entries, table)
    states = [state.x for state in DDIM(1.0)(oracle, x, times, Noise(EIGHT))]

    betas = torch.linspace(1e-3, 0.2, entries, dtype=torch.float64)
    bars, noise = (1 - betas).cumprod(0), Noise(EIGHT)
    for i, state in zip(range(entries - 1, 0, -1), states[1:], strict=True):
        x0 = oracle(x, times[entries - 1 - i]).x0
        mean = bars[i - 1].sqrt() * betas[i] / (1 - bars[i]) * x0
        mean = mean + (1 - betas[i]).sqrt() * (1 - bars[i - 1]) / (1 - bars[i]) * x
        x = mean + ((1 - bars[i - 1]) / (1 - bars[i]) * betas[i]).sqrt() * noise.like(x)
        assert torch.allclose(state, x, atol=1e-9)


def test_a_run_can_be_stopped_early_and_leaves_gradients_on():
    for state in DDIM()(Gaussian(Cosine()), pure(Cosine()).requires_grad_(), [1.0, 0.9, 0.8], Noise(EIGHT)):
        assert torch.is_grad_enabled()
        if state.t < 1:
            break
    assert not state.x.requires_grad
    assert torch.is_grad_enabled()


def test_a_step_on_the_linear_path_is_a_step_of_eulers_method():
    """x_s = x_t + (s - t) dx/dt, where the flow in closed form is derived by autograd."""
    schedule = LinearPath()
    oracle, x = Gaussian(schedule), pure(schedule)
    for t, s in ((1.0, 0.9), (0.5, 0.25), (0.3, 0.05)):
        begin, end = torch.tensor([t, t], dtype=torch.float64).requires_grad_()
        point = x[0, 0, 0, 0]
        (velocity,) = torch.autograd.grad(oracle.flow(point, begin, end), end)
        found = run(DDIM(), oracle, point.reshape(1, 1, 1, 1), [t, s], [0]).x.item()
        assert found == pytest.approx((point + (s - t) * velocity).item(), rel=1e-12)
