"""The ablation of samplers, on models whose flows have closed forms."""

import math

import pytest
import torch

from ddim.diffusion.denoiser import Counted
from ddim.diffusion.grids import UniformLogSNR
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Gaussian, Mixture
from ddim.diffusion.samplers import DDIM, EDM, last_state
from ddim.diffusion.schedules import Cosine, KarrasSigma, LinearBeta
from ddim.evaluation.discretisation_error import TimeRange
from ddim.evaluation.sampler_ablation import (
    DISCRETISATIONS,
    FLOWS,
    ORIGINS,
    Flow,
    ablate_churn,
    ablate_flows,
    discretise,
    trace_improvements,
)
from oracles import normal

END = 0.2
every_flow = pytest.mark.parametrize("clock, scaling", FLOWS)
every_schedule = pytest.mark.parametrize(
    "schedule", [Cosine(0.05, 0.999), KarrasSigma(0.02, 20.0)], ids=["cosine", "karras sigma"]
)


def run(sampler, denoise, x, times):
    return last_state(sampler(denoise, x, times, Noise(range(len(x))))).x


@every_schedule
@every_flow
@pytest.mark.parametrize("order", [1, 2])
def test_every_choice_converges_to_the_one_flow_at_the_order_of_its_rule(order, clock, scaling, schedule):
    law = Gaussian(schedule, 0.3, 0.5)
    at = schedule(torch.tensor(1.0))
    x = (at.alpha**2 + at.sigma**2).sqrt() * normal(4, 1, 2, 2)
    truth = law.flow(x, 1.0, END)

    def error(steps):
        times = discretise("edm", steps + 1, TimeRange(schedule, END))
        return (run(Flow(order, clock, scaling), law, x, times) - truth).abs().max().item()

    errors = [error(steps) for steps in (100, 200)]
    assert errors[1] < errors[0] < 0.5
    assert math.log2(errors[0] / errors[1]) > order - 0.2


@every_schedule
def test_sigma_equal_to_t_without_scaling_gives_ddim_and_heun(schedule):
    law, x = Mixture(schedule, normal(3, 1, 2, 2, seed=1), 0.5), 3 * normal(4, 1, 2, 2)
    times = discretise("edm", 7, TimeRange(schedule, END))
    assert torch.allclose(run(Flow(1), law, x, times), run(DDIM(), law, x, times))
    assert torch.allclose(run(Flow(2), law, x, times), run(EDM(), law, x, times))


@pytest.mark.parametrize("steps", [2, 5, 10])
def test_n_levels_cost_n_or_two_n_minus_one_evaluations(steps):
    schedule = Cosine(0.05, 0.999)
    for order, nfe in ((1, steps), (2, 2 * steps - 1)):
        denoise = Counted(Gaussian(schedule))
        times = discretise("ve", steps, TimeRange(schedule, END))
        states = Flow(order)(denoise, normal(1, 1, 2, 2), times, Noise([0]))
        last_state(states)
        assert denoise.evaluations == nfe


@every_schedule
@pytest.mark.parametrize("name", DISCRETISATIONS)
def test_discretisations_share_their_ends(name, schedule):
    times = discretise(name, 9, TimeRange(schedule, END))
    assert times.shape == (9,)
    assert (times[0], times[-1]) == (1, END)
    assert (times.diff() < 0).all()
    later = discretise(name, 9, TimeRange(schedule, END, 0.9))
    assert (later[0], later[-1]) == (0.9, END)
    assert (later.diff() < 0).all()


def test_discretisations_are_those_of_the_schedules_that_they_are_named_after():
    """They are equal steps of time of the VP SDE, the VE SDE and the cosine schedule, and EDM's grid."""
    vp, ve, cosine = LinearBeta(), KarrasSigma(0.02, 100.0, None), Cosine(0.01, 0.999)
    for name, schedule in (("vp", vp), ("ve", ve), ("iddpm", cosine)):
        times = discretise(name, 9, TimeRange(schedule, END))
        assert torch.allclose(times, torch.linspace(1, END, 9).double()), name
    assert torch.allclose(
        discretise("edm", 9, TimeRange(cosine, END)), TimeRange(cosine, END).space("karras", 9)
    )
    log_snr = cosine(torch.tensor(END)).log_snr.item()
    assert torch.allclose(discretise("ve", 9, TimeRange(cosine, END)), UniformLogSNR(log_snr)(9, cosine))


def cells(nfe=9):
    """Return the errors of the flows and of churn on a mixture of Gaussians."""
    schedule = KarrasSigma(0.02, 20.0)
    law, x = Mixture(schedule, normal(3, 1, 2, 2, seed=1), 0.3), 20 * normal(8, 1, 2, 2)
    made = lambda sampler, times: last_state(sampler(law, x, times, Noise(range(8)))).x0
    ends = TimeRange(schedule, END)
    truth = made(EDM(), discretise("edm", 200, ends))
    error = lambda sampler, times: (made(sampler, times) - truth).square().mean().item()
    return list(ablate_flows(error, ends, nfe)), list(ablate_churn(error, ends, nfe))


def test_an_ablation_has_every_combination_once_at_the_same_cost():
    table, churned = cells()
    assert len({(c.discretisation, c.solver, c.schedule, c.scaling) for c in table}) == len(table) == 48
    assert {c.nfe for c in table} == {9}
    assert all(math.isfinite(c.error) for c in table)
    assert [gamma for gamma, _ in churned] == [0.05, 0.2, math.sqrt(2) - 1]
    least = min(c.error for c in table)
    # Fresh noise leads to other samples.
    assert all(error > 10 * least for _, error in churned)


def test_improvements_start_as_published_and_end_at_edm():
    table, _ = cells()
    for origin, first in ORIGINS.items():
        errors = trace_improvements(table, origin)
        (begin,) = (
            c.error for c in table if (c.discretisation, c.schedule, c.scaling, c.solver) == (*first, "euler")
        )
        assert errors[0] == begin
    # Of the published samplers, that of the VE SDE, Euler's rule in sigma^2, has the largest gain.
    assert trace_improvements(table, "VE")[0] > 10 * trace_improvements(table, "VE")[-1]
    assert len({trace_improvements(table, origin)[-1] for origin in ORIGINS}) == 1
