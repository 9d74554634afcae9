"""Bits per dimension against the exact likelihood of known distributions, and the hybrid loss."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddim.diffusion import likelihood
from ddim.diffusion.denoiser import Model
from ddim.diffusion.grids import Uniform, UniformLogSNR
from ddim.diffusion.loss import Hybrid, Objective
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Gaussian, Mixture
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Cosine, Linear, LinearBeta, LinearPath
from ddim.diffusion.times import TableTimes
from ddim.errors import UserError
from ddim.evaluation.likelihood import check_reaches_images, earliest_time
from ddim.recipe.named import find_recipe
from ddim.recipe.recipe import Fixed
from oracles import TellsTime, normal

FIXED, MEASURED = Pixels.fixed(0.5, 0.5, 1), Pixels((0.45,), (0.12,))
CENTRES = torch.tensor([-0.6, 0.5], dtype=torch.float64).reshape(2, 1, 1, 1)
GRID = torch.linspace(-30, 30, 60_001, dtype=torch.float64)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


# --- normal distributions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [Cosine(0.05, 0.999), LinearBeta()], ids=str)
def test_a_posterior_follows_bayes_rule(schedule):
    """q(x_s | x_t, x0) is proportional to q(x_t | x_s) q(x_s | x0), on a grid of x_s."""
    now, then, x0, x_t = schedule(0.6), schedule(0.45), number(0.7), number(-0.4)
    ratio = now.alpha / then.alpha
    spread = (now.sigma**2 - (ratio * then.sigma) ** 2).sqrt()
    change, prior = ((x_t - ratio * GRID) / spread) ** 2, ((GRID - then.alpha * x0) / then.sigma) ** 2
    law = (-(change + prior) / 2).softmax(0)
    mean = (law * GRID).sum()
    q = likelihood.posterior(now, then)
    assert q.mean(x_t, x0).item() == pytest.approx(mean.item(), abs=1e-9)
    assert q.small.item() == pytest.approx((law * (GRID - mean) ** 2).sum().item(), rel=1e-9)
    assert q.large.item() == pytest.approx(spread.item() ** 2, rel=1e-9)


def test_the_learned_variance_goes_from_small_to_large_in_the_logarithm():
    q = likelihood.posterior(Cosine()(0.6), Cosine()(0.5))
    wanted = q.small.log().item(), (q.small * q.large).log().item() / 2, q.large.log().item()
    assert [q.log_variance("learned", mix).item() for mix in (0.0, 0.5, 1.0)] == pytest.approx(wanted)


@pytest.mark.parametrize("mean, std", [(128.3, 0.4), (3.0, 20.0), (250.0, 60.0), (-40.0, 10.0)])
def test_the_probabilities_of_all_values_add_up_to_one(mean, std):
    values = torch.arange(256, dtype=torch.float64)
    mass = likelihood.log_probability(values, number(mean), number(std)).exp()
    # What is under the least probability is lifted to it.
    assert mass.sum().item() == pytest.approx(1, abs=1e-9)
    edges = torch.special.ndtr((torch.arange(257, dtype=torch.float64) - 0.5 - mean) / std)
    assert torch.allclose(mass[1:-1], edges.diff()[1:-1], rtol=1e-4, atol=2e-12)


# --- the flow and the bound of known distributions ----------------------------------------------------------


def law(kind, schedule):
    if kind == "gaussian":
        return Gaussian(schedule, mean=0.1, std=0.2)
    return Mixture(schedule, CENTRES.expand(2, 1, 1, 2), 0.1)


def drawn(kind, n, pixels=FIXED):
    """8-bit images of a distribution, and the exact bits per dimension of each."""
    centres, std = (CENTRES, 0.1) if kind == "mixture" else (torch.full((1, 1, 1, 1), 0.1).double(), 0.2)
    x = centres[torch.arange(n) % len(centres)] + std * normal(n, 1, 1, 2, seed=5)
    x0, half = pixels.enter(pixels.values(x).round() / 255), 1 / (2 * 255 * pixels.std[0])
    low, high = ((x0[None] - centres[:, None] + side) / std for side in (-half, half))
    mass = (torch.special.ndtr(high) - torch.special.ndtr(low)).flatten(2).prod(2).mean(0)
    return x0, -mass.log2() / 2


def law_of_values(n, recipe, width=1.8):
    """8-bit images normal around 127.5, their exact bits, and their oracle and pixels under a recipe."""
    std = getattr(recipe.pixels, "std", 1.0)
    # Of measured pixels the deviation that flowers have, in so many units.
    pixels = Pixels.fixed(0.5, std if isinstance(recipe.pixels, Fixed) else 0.28 / std, 1)
    values = (127.5 + width * normal(n, 1, 1, 2, seed=1)).round()
    low, high = ((values - 127.5 + side) / width for side in (-0.5, 0.5))
    exact = -(torch.special.ndtr(high) - torch.special.ndtr(low)).log2().flatten(1).mean(1)
    return (
        pixels.enter(values / 255),
        exact,
        Gaussian(recipe.schedule, 0.0, width / 255 / pixels.std[0]),
        pixels,
    )


class OneStream:
    """In place of Noise, where single images do not matter: one stream for all."""

    def __init__(self):
        self.stream = torch.Generator().manual_seed(0)

    def like(self, x):
        return torch.randn(x.shape, generator=self.stream, dtype=x.dtype)


class Even(OneStream):
    """Noise of mean 0, variance 1 and no correlation with x over the images, so that few images suffice."""

    def like(self, x):
        noise, apart = super().like(x), x - x.mean(0)
        noise -= noise.mean(0)
        noise -= (noise * apart).sum(0) / apart.square().sum(0) * apart
        return noise / noise.square().mean(0).sqrt()


@pytest.mark.parametrize("pixels", [FIXED, MEASURED], ids=["fixed", "measured"])
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
@pytest.mark.parametrize("schedule", [Cosine(0.014, 0.99998), LinearBeta(), LinearPath()], ids=str)
def test_the_flow_gives_the_exact_bits_of_a_distribution(schedule, kind, pixels):
    x0, exact = drawn(kind, 400, pixels)
    apart = likelihood.flow_bits(law(kind, schedule), x0, pixels, OneStream()) - exact
    assert abs(apart.mean()) <= 3 * apart.std() / 400**0.5
    # A distribution whose spread is wrong by a fifth is distinguished.
    wrong = likelihood.flow_bits(Gaussian(schedule, 0.1, 0.24), x0, pixels, OneStream())
    assert wrong.mean() > exact.mean() + 0.01


MOST = {"fast": 0.03, "flow": 0.03, "clear": 0.03, "iddpm": 0.03, "edm": 0.03, "edm-vp": 0.03}


# What the place within a bin costs is 0.015; the least noise of ddpm and edm-ve is wider than a bin.
@pytest.mark.parametrize("name, most", [*MOST.items(), ("ddpm", 0.075), ("edm-ve", 0.41)])
def test_the_flow_starts_early_enough_for_narrow_distributions_on_the_schedule_of_each_recipe(name, most):
    """On a distribution 1.8 values wide, whose divergence is exact with any signs."""
    recipe = find_recipe(name)
    x0, exact, denoise, pixels = law_of_values(2000, recipe)
    bits = likelihood.flow_bits(denoise, x0, pixels, OneStream(), earliest=earliest_time(recipe))
    assert -0.01 < (bits - exact).mean() < most


# Tables are what they are: their least noise is wider than a bin, or they begin far out.
@pytest.mark.parametrize("name, most", [("fast", 0.08), ("ddpm", 0.33)])
def test_the_bound_is_near_the_bits_of_narrow_distributions_on_the_schedule_of_each_recipe(name, most):
    recipe = find_recipe(name)
    x0, exact, denoise, pixels = law_of_values(1000, recipe)
    times = likelihood.bound_times(1000, recipe.schedule, pixels, earliest_time(recipe))
    assert 0 < (likelihood.bound_bits(denoise, x0, pixels, times, Even()) - exact).mean() < most


def test_the_bound_is_above_the_flow_and_its_gap_closes_with_the_steps():
    """With the small variance, whose gap is larger and so measured well.

    The cleanest level is about as noisy as a bin is wide: below, bits go to what no value tells.
    """
    n, denoise = 2000, law("gaussian", LinearBeta())
    x0, exact = drawn("gaussian", n, MEASURED)
    level, gaps = likelihood.flow_bits(denoise, x0, MEASURED, OneStream()), []
    for steps in (250, 1000):
        bits = likelihood.bound_bits(
            denoise, x0, MEASURED, UniformLogSNR(6.6)(steps, denoise.schedule), Even(), "small"
        )
        assert (bits - level).mean() >= -3 * (bits - level).std() / n**0.5
        gaps.append((bits - exact).mean())
    assert gaps[0] > 3 * gaps[1]


def measure(method, denoise, x0, noise):
    if method == "flow":
        return likelihood.flow_bits(denoise, x0, FIXED, noise, 10)
    return likelihood.bound_bits(denoise, x0, FIXED, Uniform()(10, denoise.schedule), noise)


@pytest.mark.parametrize("method", ["bound", "flow"])
def test_each_image_has_its_own_bits_by_its_own_seed(method):
    x0, denoise = drawn("mixture", 6)[0], law("mixture", Cosine(0.014, 0.99998))
    whole = measure(method, denoise, x0, Noise(range(6)))
    assert torch.allclose(measure(method, denoise, x0[2:4], Noise([2, 3])), whole[2:4])
    assert not torch.allclose(measure(method, denoise, x0[2:4], Noise([0, 1])), whole[2:4])


class NoFloat64(TorchDispatchMode):
    """Makes the meta device one without float64, whose values are 0 when they are copied to the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Call the operation."""
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("device") == torch.device("cpu"):
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype", args[0].dtype))
        result = func(*args, **kwargs)
        tensors = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        assert not any(x.is_meta and x.dtype == torch.float64 for x in tensors)
        return result


@pytest.mark.parametrize("method", ["bound", "flow"])
def test_the_device_needs_no_float64(method):
    with NoFloat64():
        x0 = torch.zeros(2, 1, 1, 2, device="meta")
        bits = measure(method, law("gaussian", Cosine()), x0, Noise(range(2)))
    assert (bits.device.type, bits.dtype) == ("cpu", torch.float64)


def test_the_flow_is_integrated_with_order_four():
    x0, denoise = drawn("gaussian", 50)[0], law("gaussian", Cosine(0.014, 0.99998))
    few, more, truth = (
        likelihood.flow_bits(denoise, x0, FIXED, OneStream(), steps) for steps in (40, 80, 400)
    )
    assert math.log2((few - truth).abs().mean() / (more - truth).abs().mean()) > 3.5


def test_schedules_without_clean_images_or_with_plateaus_have_no_likelihood():
    for schedule in (Cosine(), LinearBeta(), Linear()):
        check_reaches_images(schedule)
    for schedule, earliest in ((Cosine(0.02, 0.95), 0.0), (LinearBeta(), 0.07)):
        with pytest.raises(UserError, match="least noise"):
            check_reaches_images(schedule, earliest)
    with pytest.raises(UserError, match="continuous schedule"):
        likelihood.flow_bits(
            law("gaussian", Linear(read="floor")), drawn("gaussian", 2)[0], FIXED, OneStream()
        )


# --- learned variance and the hybrid loss of Nichol & Dhariwal 2021 -----------------------------------------

RGB, EPS = Pixels.fixed(0.5, 0.5), normal(4, 3, 8, 8, seed=1)
T = torch.tensor([0.1, 0.2, 0.7, 1.0], dtype=torch.float64)
X0 = RGB.enter((0.5 + 0.1 * normal(4, 3, 8, 8)).clamp(0, 1).mul(255).round() / 255)


class Halves(torch.nn.Module):
    """A network of two numbers: one for the noise and one for the variance."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.spread = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x, condition):
        return torch.cat([self.mean * x, self.spread + 0 * x], dim=1)


def halves():
    return Model(Halves(), LinearBeta(), "noise", TellsTime(), (3, 8, 8))


def test_the_hybrid_loss_is_the_simple_loss_plus_the_terms_of_the_bound_that_train_the_variance_alone():
    model, plain, entries = halves(), halves(), 10
    assert torch.allclose(model(X0, T).variance_mix, torch.full_like(X0, 0.75))
    hybrid = Hybrid(vlb=0.5, times=TableTimes(entries))(model, X0, T, EPS, RGB)
    simple = Objective("noise", "mse")(plain, X0, T, EPS)
    for i, t in enumerate(T):
        x0, schedule = X0[i : i + 1], model.schedule
        x_t = schedule(t).noisy(x0, EPS[i : i + 1])
        if i == 0:
            q = likelihood.bound_posterior(
                schedule, t, 0 * t, likelihood.posterior(schedule(2 * t), schedule(t)).small
            )
            term = likelihood.image_bits(model(x_t, t), x0, q, "learned", RGB)
        else:
            q = likelihood.posterior(schedule(t), schedule(t - 0.1))
            term = likelihood.step_bits(model(x_t, t), x_t, x0, q, "learned")
        assert hybrid[i].item() == pytest.approx((simple[i] + 0.5 * entries * term).item(), rel=1e-6)
    hybrid.mean().backward()
    simple.mean().backward()
    assert torch.equal(model.net.mean.grad, plain.net.mean.grad)
    assert model.net.spread.grad != 0
