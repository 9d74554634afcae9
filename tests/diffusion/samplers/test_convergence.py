"""The order of every deterministic sampler, measured on every kind of grid."""

import itertools
from functools import cache

import pytest
import torch

import convergence as c
from cases import mark_slow
from ddim.diffusion.denoiser import Counted
from ddim.diffusion.editing import Inpaint
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.samplers import DDIM, DDPM, EDM, SAMPLERS, AdamsBashforth, DPMSolver, UniPC, last_state
from ddim.diffusion.schedules import Cosine, LinearBeta, LinearPath
from oracles import Gaussian, normal

# The nominal orders, from the papers; of ramps, that of a run which begins with a step of Euler's.
ORDERS = {
    DDIM(): 1,
    EDM(order=1): 1,
    EDM(): 2,
    EDM(alpha=0.5): 2,
    EDM(alpha=2 / 3): 2,
    AdamsBashforth(1): 1,
    AdamsBashforth(2): 2,
    AdamsBashforth(3): 2,
    AdamsBashforth(2, steps="equal"): 2,
    AdamsBashforth(3, steps="equal"): 2,
    DPMSolver(1): 1,
    DPMSolver(2): 2,
    DPMSolver(3): 2,
    UniPC(1): 2,
    UniPC(2): 3,
    UniPC(3): 3,
    UniPC(1, "bh1"): 2,
    UniPC(2, "bh1"): 3,
}
GRIDS = ("uniform", "quadratic", "karras", "warped 0", "warped 1")
END = 0.2
# By order: enough levels for the leading term of the error to lead; of those, the last four above rounding.
LEVELS = {2: (55, 82, 123, 184), 3: (73, 109, 163, 244)}
MANY = (73, 109, 163, 244, 366, 549, 824)


LAWS = {
    "cosine": Cosine(0.3, 0.999),
    "linear_beta": LinearBeta(0.1, 3.0),
    "linear_path": LinearPath(0.3, 0.999),
}


@cache
def make_law(schedule):
    """A nonlinear oracle, the start of its run, and the end of the exact flow."""
    oracle = Mixture(schedule, normal(3, 1, 2, 2, seed=1), 0.5)
    x = normal(2, 1, 2, 2, seed=2)
    return oracle, x, c.exact_flow(oracle, x, 1.0, END)


def test_every_deterministic_sampler_is_in_the_table_of_orders():
    assert {type(each) for each in ORDERS} == {kind for kind in SAMPLERS.values() if not kind().stochastic}


# Without `-m slow` each sampler is tested on one grid and one schedule.
QUICK = [*zip(itertools.cycle(LAWS), ORDERS, itertools.cycle(GRIDS), strict=False)]
CASES = itertools.product(LAWS, ORDERS, GRIDS)


@pytest.mark.parametrize("schedule, sampler, grid", mark_slow(CASES, QUICK.__contains__), ids=str)
def test_every_sampler_has_its_order_on_every_grid(schedule, sampler, grid):
    oracle, x, truth = make_law(LAWS[schedule])
    order = ORDERS[sampler]
    levels = LEVELS.get(max(2, order), MANY)
    times = [c.lay_grid(grid, n, oracle.schedule, END) for n in levels]
    found = [c.run_errors(sampler, oracle, x, t, truth) for t in times]
    for errors in ([e.state for e in found], [e.sample for e in found]):
        counted = [(n, e) for n, e in zip(levels, errors, strict=True) if e > c.FLOOR][-4:]
        assert len(counted) == 4
        assert c.convergence_order(*zip(*counted, strict=True)) > order - 0.2
    assert found[-1].state < 10 ** -(order + 1)


STOCHASTIC = (DDIM(0.5), DDPM(), EDM(s_churn=5.0), EDM(order=1, s_churn=5.0), DPMSolver(3, 1.0))


@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize(
    "sampler", [*ORDERS, *STOCHASTIC, Inpaint(*2 * (torch.ones(1, 1, 2, 2),), 3)], ids=str
)
def test_a_sampler_states_its_evaluations_and_whether_it_is_stochastic(sampler, levels):
    counted, noise = Counted(Gaussian(Cosine())), Noise([0])
    before = noise.streams[0].get_state()
    times = torch.linspace(1, 0.1, levels, dtype=torch.float64)
    last_state(sampler(counted, normal(1, 1, 2, 2), times, noise))
    assert counted.evaluations == sampler.evaluations(levels)
    drawn = not torch.equal(before, noise.streams[0].get_state())
    assert drawn == (sampler.stochastic and (levels > 1 or isinstance(sampler, Inpaint)))
