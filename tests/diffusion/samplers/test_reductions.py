"""Samplers that are one another's special cases, and rules written out independently."""

import pytest
import torch

from ddim.diffusion.grids import Quadratic, Uniform
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.samplers import DDIM, DDPM, EDM, AdamsBashforth, DPMSolver, UniPC, last_state
from ddim.diffusion.schedules import Cosine, Linear, LinearBeta, LinearPath
from oracles import Gaussian, normal

SEEDS = range(3)
LAWS = [
    Mixture(schedule, normal(4, 1, 3, 3, seed=1), 0.4)
    for schedule in (Cosine(0.014, 0.999), LinearBeta(), Linear(clip="none", read="log_snr"), LinearPath())
]
every_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law.schedule).__name__)


def states(sampler, law, times, x=None):
    x = normal(3, 1, 3, 3, seed=2) if x is None else x
    return torch.stack([state.x for state in sampler(law, x, times, Noise(SEEDS))])


def close(a, b):
    return torch.allclose(a, b, rtol=1e-12, atol=1e-12)


@every_law
@pytest.mark.parametrize("grid", [Uniform(), Quadratic()], ids=str)
@pytest.mark.parametrize(
    "sampler", [AdamsBashforth(1), AdamsBashforth(1, steps="equal"), EDM(order=1), DPMSolver(1)], ids=str
)
def test_methods_of_order_one_are_ddim(sampler, grid, law):
    times = grid(12, law.schedule)
    assert close(states(sampler, law, times), states(DDIM(), law, times))


@every_law
def test_ancestral_methods_agree(law):
    times = Uniform()(12, law.schedule)
    ddpm = states(DDPM(), law, times)
    assert close(ddpm, states(DDIM(1.0), law, times))
    assert close(ddpm, states(DPMSolver(1, eta=1.0), law, times))
    assert not torch.allclose(ddpm, states(DDPM("large"), law, times), atol=1e-3)


def test_two_slopes_on_equal_steps_have_the_textbook_weights():
    """3/2 and -1/2, 23/12, -16/12 and 5/12, ... (Hairer, Norsett & Wanner 1993, table III.1.1)."""
    textbook = {
        2: (-1 / 2, 3 / 2),
        3: (5 / 12, -16 / 12, 23 / 12),
        4: (-9 / 24, 37 / 24, -59 / 24, 55 / 24),
        5: (251 / 720, -1274 / 720, 2616 / 720, -2774 / 720, 1901 / 720),
    }
    for order, weights in textbook.items():
        past = [(torch.tensor(5.0 - k).double(), normal(1, seed=k)) for k in range(order)]
        wanted = sum(w * slope for w, (_, slope) in zip(weights, past, strict=True))
        for steps in ("equal", "unequal"):
            sampler = AdamsBashforth(order, steps=steps)
            assert torch.allclose(sampler._mean_slope(past, past[-1][0] - 1), wanted, atol=1e-10)


@every_law
def test_a_second_order_step_of_dpm_solver_is_that_of_the_paper(law):
    """Lu et al. 2022b, algorithm 2, lines 6 to 9, in their letters."""
    times = Quadratic()(9, law.schedule)
    at = [law.schedule(t) for t in times]
    lam = [(level.alpha / level.sigma).log() for level in at]
    x = normal(3, 1, 3, 3, seed=2)
    q = []
    for i in range(1, len(times)):
        q.append(law(x, times[i - 1]).x0)
        h = lam[i] - lam[i - 1]
        d = q[-1]
        if i > 1:
            r = (lam[i - 1] - lam[i - 2]) / h
            d = (1 + 1 / (2 * r)) * q[-1] - 1 / (2 * r) * q[-2]
        x = at[i].sigma / at[i - 1].sigma * x - at[i].alpha * torch.expm1(-h) * d
    assert close(states(DPMSolver(2), law, times)[-1], x)


def _large(law, times):
    """Deviation sqrt(beta) of Ho et al. 2020, section 3.2."""
    bar = law.schedule(times).alpha ** 2
    return (1 - bar[0] / bar[1]).sqrt()


def _small(law, times):
    """Deviation of q(x_s | x_t, x0), Ho et al. 2020, eq. 7."""
    bar = law.schedule(times).alpha ** 2
    return ((1 - bar[1]) / (1 - bar[0])).sqrt() * _large(law, times)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_deviation_of_a_step_of_ddpm_is_that_of_the_paper(variance):
    law, times = Gaussian(Cosine()), torch.tensor([0.6, 0.4], dtype=torch.float64)
    same = normal(1, 1, 3, 3).expand(4000, -1, -1, -1)
    after = last_state(DDPM(variance)(law, same, times, Noise(range(4000)))).x
    wanted = {"small": _small, "large": _large}[variance](law, times)
    assert after.std(0).mean().item() == pytest.approx(wanted.item(), rel=0.02)


@pytest.mark.parametrize(
    "sampler",
    [
        DDIM(0.7),
        DDIM(1.0),
        DDPM(),
        DDPM("large"),
        EDM(s_churn=8.0),
        DPMSolver(2, eta=1.0),
        UniPC(),
        AdamsBashforth(4),
    ],
    ids=str,
)
def test_an_image_depends_on_its_own_seed_only_and_a_run_leaves_no_trace(sampler):
    law, times = LAWS[0], Uniform()(7, LAWS[0].schedule)
    before, x = torch.get_rng_state(), normal(6, 1, 3, 3)
    kept = x.clone()
    run = lambda i, j: last_state(sampler(law, x[i:j], times, Noise(range(i, j)))).x
    whole = run(0, 6)
    assert torch.equal(whole, run(0, 6))
    assert torch.equal(whole, torch.cat([run(0, 1), run(1, 4), run(4, 6)]))
    backwards = last_state(sampler(law, x.flip(0), times, Noise(range(5, -1, -1)))).x
    assert torch.equal(whole, backwards.flip(0))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    "sampler", [DDIM(), DDPM(), EDM(), AdamsBashforth(3), DPMSolver(3), UniPC()], ids=str
)
def test_the_states_are_at_the_levels_of_the_grid_and_the_start_is_the_first(sampler):
    law, x = LAWS[0], normal(3, 1, 3, 3)
    times = Uniform()(5, law.schedule)
    found = list(sampler(law, x, times, Noise(SEEDS)))
    assert [state.t for state in found] == times.tolist()
    assert torch.equal(found[0].x, x)
    for state in found:
        assert torch.equal(state.x0, law(state.x, state.t).x0)
    assert not list(sampler(law, x, times[:0], Noise(SEEDS)))
    assert len(list(sampler(law, x, times[:1], Noise(SEEDS)))) == 1


@pytest.mark.parametrize(
    "sampler",
    [
        DDIM(1.0),
        DDPM("large"),
        EDM(alpha=0.5),
        AdamsBashforth(3),
        AdamsBashforth(4),
        DPMSolver(3),
        DPMSolver(2, eta=1.0),
        UniPC(3),
    ],
    ids=str,
)
@pytest.mark.parametrize("table", [Linear(clip=clip, read="floor") for clip in ("rates", "powers")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_step_between_two_times_of_one_level_does_nothing(sampler, table, dtype):
    """The tables have plateaus at one end or both, so that some of twenty times share a level."""
    law, times = Mixture(table, normal(4, 1, 3, 3, seed=1), 0.4), Uniform()(20, table)
    levels = table(times).log_snr
    once = times[torch.cat([torch.ones(1, dtype=torch.bool), levels.diff() != 0])]
    assert len(once) < len(times)
    x = normal(3, 1, 3, 3, seed=2).to(dtype)

    class Still:
        """Noise that is zero, since a level visited twice would draw twice."""

        def like(self, x):
            return torch.zeros_like(x)

    twice, single = (last_state(sampler(law, x, grid, Still())).x for grid in (times, once))
    assert torch.isfinite(twice).all()
    assert torch.allclose(twice, single, atol=1e-9 if dtype == torch.float64 else 1e-4)
