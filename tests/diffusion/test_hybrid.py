"""Learned variance and the hybrid loss of Nichol & Dhariwal 2021."""

import pytest
import torch

from ddim.diffusion.denoiser import Model, Shape
from ddim.diffusion.likelihood import bound_posterior, image_bits, posterior, step_bits
from ddim.diffusion.loss import Hybrid, Objective
from ddim.diffusion.parameterisation import PredictsNoise
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import LinearBeta
from ddim.diffusion.times import TableTimes
from ddim.nn.ddpm_unet import DDPMUNetSpec
from oracles import TellsTime, normal, uniform

PIXELS = Pixels.fixed(0.5, 0.5)
NET = DDPMUNetSpec(8, (1, 2), 1, (False, True), groups=4, dropout=0.0, outputs=2)
T = torch.tensor([0.1, 0.2, 0.7, 1.0], dtype=torch.float64)
X0 = PIXELS.enter((0.5 + 0.1 * normal(4, 3, 8, 8)).clamp(0, 1).mul(255).round() / 255)
EPS = normal(4, 3, 8, 8, seed=1)


class Halves(torch.nn.Module):
    """A network of two numbers: one for the noise and one for the variance."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.spread = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, condition, label=None):
        return torch.cat([self.mean * x, self.spread + 0 * x], dim=1)


def model(schedule=LinearBeta()):
    return Model(Halves(), schedule, PredictsNoise(), TellsTime(), Shape(3, 8, 8))


def test_the_first_half_of_the_channels_is_the_noise_and_the_second_the_variance():
    net = model()
    with torch.no_grad():
        net.net.spread += 0.5
    p = net(X0, T)
    assert torch.allclose(p.variance_mix, torch.full_like(X0, 0.75))
    assert torch.allclose(p.eps, 0.5 * X0)


def test_the_bound_gives_the_predicted_mean_no_gradient():
    with_bound, without = model(), model()
    Hybrid(vlb=1.0, times=TableTimes(10))(with_bound, X0, T, EPS, PIXELS).mean().backward()
    Objective("noise", "mse")(without, X0, T, EPS).mean().backward()
    assert torch.equal(with_bound.net.mean.grad, without.net.mean.grad)
    assert with_bound.net.mean.grad != 0
    assert with_bound.net.spread.grad != 0
    assert without.net.spread.grad is None or without.net.spread.grad == 0


def test_the_hybrid_loss_is_the_simple_loss_plus_the_terms_of_the_bound():
    net, entries = model(), 10
    hybrid = Hybrid(vlb=0.5, times=TableTimes(entries))(net, X0, T, EPS, PIXELS)
    simple = Objective("noise", "mse")(net, X0, T, EPS)
    schedule = net.schedule
    for i, t in enumerate(T):
        x0, at = X0[i : i + 1], schedule(t)
        x_t = at.alpha * x0 + at.sigma * EPS[i : i + 1]
        p, s = net(x_t, t), t - 0.1
        if i == 0:
            least = posterior(schedule(2 * t), schedule(t)).small
            term = image_bits(p, x0, bound_posterior(schedule, t, 0 * t, least), "learned", PIXELS)
        else:
            term = step_bits(p, x_t, x0, posterior(schedule(t), schedule(s)), "learned")
        assert hybrid[i].item() == pytest.approx((simple[i] + 0.5 * entries * term).item(), rel=1e-6)


def test_the_last_term_uses_the_8_bit_values_of_dequantised_images():
    """-log of the probability of [v / 256, (v + 1) / 256), whatever the dequantisation noise."""
    net, t = model(), torch.full((4,), 0.1, dtype=torch.float64)
    values = (256 * (0.5 + 0.1 * normal(4, 3, 8, 8))).floor()
    assert 0 < values.min() <= values.max() < 255
    x0 = PIXELS.enter((values + uniform(4, 3, 8, 8)) / 256)
    at = net.schedule(t).over(x0)
    p = net(at.alpha * x0 + at.sigma * EPS, t)
    q = bound_posterior(net.schedule, t, 0 * t, posterior(net.schedule(2 * t), net.schedule(t)).small)
    deviation = 0.5 * (q.log_variance("learned", p.variance_mix[:, 0, 0, 0]) / 2).exp().reshape(-1, 1, 1, 1)
    middle = 0.5 + 0.5 * p.x0
    low, high = (torch.special.ndtr(((values + k) / 256 - middle) / deviation) for k in (0, 1))
    wanted = -(high - low).clamp(min=1e-12).log2().flatten(1).mean(1)
    assert torch.allclose(image_bits(p, x0, q, "learned", PIXELS.dequantised), wanted)
