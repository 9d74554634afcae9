import math

import pytest
import torch

import convergence as c
from ddim.diffusion.editing import (
    Inpaint,
    find_latents,
    interpolate_latents,
    renoise,
    restore,
    sample_from_image,
    slerp,
)
from ddim.diffusion.grids import Uniform, UniformLogSNR
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Mixture
from ddim.diffusion.parameterisation import Prediction
from ddim.diffusion.samplers import DDIM, last_state
from ddim.diffusion.schedules import Cosine, LinearBeta, LinearPath
from ddim.errors import UserError
from oracles import Gaussian, normal

WIDE = Cosine(0.014, 0.99995)
LAW = Mixture(WIDE, normal(3, 1, 2, 2, seed=1), 0.5)


def times(steps):
    return Uniform()(steps, WIDE)


# --- inverting ----------------------------------------------------------------------------------------------


def test_an_inversion_tends_to_the_flow_with_order_one():
    x0 = normal(2, 1, 2, 2, seed=3)

    def error(steps):
        grid = torch.linspace(1, 0.05, steps, dtype=torch.float64)
        begin = WIDE(grid[-1]).alpha * x0
        return (find_latents(LAW, x0, grid)[0] - c.exact_flow(LAW, begin, 0.05, 1.0)).abs().max()

    assert error(400) < 0.1
    assert math.log2(error(200) / error(400)) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("grid", [UniformLogSNR(6.0), Uniform()], ids=str)
def test_a_round_trip_is_of_order_two(grid):
    """With the slope at the start of each step it would be of order 1."""
    x0 = LAW.centres[:2] + 0.5 * normal(2, 1, 2, 2, seed=3)

    def error(steps):
        levels = grid(steps, WIDE)
        return (restore(LAW, find_latents(LAW, x0, levels)[0], levels) - x0).square().mean().sqrt()

    assert math.log2(error(200) / error(400)) > 1.8


@pytest.mark.parametrize("steps", [2, 20])
def test_an_exact_inversion_is_undone_by_ddim(steps):
    x0 = normal(2, 1, 2, 2, seed=3) * 0.5
    law = Gaussian(Cosine(0.3, 0.999), std=1.5)
    latent, residual = find_latents(law, x0, times(steps), exact=True, tolerance=1e-13)
    assert residual == 0
    assert torch.allclose(restore(law, latent, times(steps)), x0, atol=1e-11)
    assert not torch.allclose(find_latents(law, x0, times(steps))[0], latent, atol=1e-6)


def test_an_inversion_that_does_not_converge_says_so():
    """Around one point eps = (x - alpha x0) / sigma, and the iteration's factor 1 - bar_s / bar_t is below 1;
    with eps three times as large it is above."""

    class Tripled:
        schedule = WIDE

        def __call__(self, x, t):
            p = Gaussian(WIDE, 0.0, 0.0)(x, t)
            return Prediction(p.x0, 3 * p.eps)

    for rounds, x0 in ((20, normal(1, 1, 2, 2)), (500, normal(1, 1, 2, 2).float())):  # the second overflows
        assert find_latents(Tripled(), x0, times(3), exact=True, rounds=rounds)[1] > 1


# --- interpolating ------------------------------------------------------------------------------------------


def test_slerp_keeps_the_distribution_of_noise_and_goes_evenly_along_the_circle():
    a, b = normal(4, 3, 16, 16, seed=1), normal(4, 3, 16, 16, seed=2)
    assert slerp(a, b, 0.5).std().item() == pytest.approx(1, abs=0.02)
    assert torch.allclose(slerp(a, b, 0.3), slerp(b, a, 0.7))
    assert torch.allclose(slerp(a, a, 0.4), a)
    frames = interpolate_latents(a[0], b[0], [0, 0.25, 0.5, 0.75, 1])
    assert torch.allclose(frames[[0, -1]], torch.stack([a[0], b[0]]))
    norms = frames.flatten(1).norm(dim=1)
    unit = frames.flatten(1) / norms[:, None]
    angles = (unit[1:] * unit[:-1]).sum(1).acos()
    assert torch.allclose(angles, angles[0].expand(4))
    assert torch.allclose(norms.diff(), norms.diff()[0].expand(4), atol=1e-12)


# --- inpainting ---------------------------------------------------------------------------------------------


HALF = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64).expand(1, 1, 4, 4)


def inpaint(law, known, n, resample, steps):
    noise = Noise(range(n))
    x = noise.like(torch.zeros(n, 1, 4, 4, dtype=torch.float64))
    return last_state(Inpaint(known, HALF, resample)(law, x, times(steps), noise)).x0


def test_the_known_part_of_an_inpainted_sample_is_the_image():
    known = normal(1, 1, 4, 4, seed=5)
    x0, known = inpaint(Gaussian(WIDE, 0.0, 1.0), known, 3, 3, 8), known.expand(3, -1, -1, -1)
    assert torch.equal(x0[..., :2], known[..., :2])
    assert not torch.allclose(x0[..., 2:], known[..., 2:], atol=0.1)


def test_the_painted_part_follows_from_the_known_one():
    """The data are two images that share no pixel, so that half of one determines the rest."""
    white = torch.ones(1, 4, 4, dtype=torch.float64)
    x0 = inpaint(Mixture(WIDE, torch.stack([white, -white]), 0.05), white[None], 16, 5, 20)
    assert torch.allclose(x0[..., 2:], white[..., 2:], atol=0.3)


@pytest.mark.parametrize("schedule", [WIDE, LinearBeta(), LinearPath()], ids=str)
def test_renoising_keeps_the_marginal_distribution(schedule):
    law, n = Gaussian(schedule, 0.3, 0.5), 40_000
    now, then = schedule(0.3), schedule(0.5)
    x = now.alpha * law.mean + law.spread(now) * normal(1, 1, 1, n)
    up = renoise(x, now, then, Noise([3]))
    assert up.std().item() == pytest.approx(law.spread(then).item(), rel=0.02)
    assert up.mean().item() == pytest.approx((then.alpha * law.mean).item(), abs=0.02)


# --- varying ------------------------------------------------------------------------------------------------


def test_a_stronger_variation_is_farther_from_its_image():
    x0 = normal(1, 1, 8, 8, seed=4).expand(8, -1, -1, -1) * 0.5
    law = Gaussian(WIDE, 0.0, 0.5)

    def away(strength):
        end = last_state(sample_from_image(law, x0, strength, times(50), DDIM(), Noise(range(8))))
        return (end.x0 - x0).square().mean().item()

    distances = [away(strength) for strength in (0.05, 0.3, 0.6, 1.0)]
    assert distances == sorted(distances)
    assert distances[0] < 0.02
    assert distances[-1] == pytest.approx(0.25 + x0.square().mean().item(), rel=0.2)


def test_a_variation_visits_the_levels_below_its_strength():
    states = list(sample_from_image(LAW, normal(1, 1, 2, 2), 0.5, times(10), DDIM(), Noise([0])))
    assert [state.t for state in states] == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1])
    with pytest.raises(UserError, match="strength"):
        sample_from_image(LAW, normal(1, 1, 2, 2), 1.1, times(10), DDIM(), Noise([0]))
