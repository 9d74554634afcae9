"""Bits per dimension against the exact likelihood of known distributions."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cases import mark_slow
from ddim.diffusion.grids import Uniform, UniformLogSNR
from ddim.diffusion.likelihood import bound_bits, bound_times, flow_bits
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Gaussian, Mixture
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Cosine, LinearBeta, LinearPath
from ddim.diffusion.times import UniformTimes
from ddim.recipe.named import find_recipe
from ddim.recipe.recipe import Fixed
from ddim.training.batches import earliest_time
from oracles import Asked, normal

PIXELS = {"fixed": Pixels.fixed(0.5, 0.5, 1), "measured": Pixels((0.45,), (0.12,))}
every_pixels = pytest.mark.parametrize("pixels", PIXELS.values(), ids=PIXELS)
CENTRES = torch.tensor([-0.6, 0.5], dtype=torch.float64).reshape(2, 1, 1, 1)


def rounded(x, pixels):
    """Images in model units, rounded to 8-bit values, none of them black or white."""
    values = pixels.values(x).round()
    assert 0 < values.min() <= values.max() < 255
    return pixels.enter(values / 255)


def law(kind, schedule):
    if kind == "gaussian":
        return Gaussian(schedule, mean=0.1, std=0.2)
    return Mixture(schedule, CENTRES.expand(2, 1, 1, 2), 0.1)


def drawn(kind, n, pixels):
    """8-bit images of a distribution, and the exact bits per dimension of each."""
    x = normal(n, 1, 1, 2, seed=5)
    if kind == "gaussian":
        x0 = rounded(0.1 + 0.2 * x, pixels)
        mass = _bin(x0, 0.1, 0.2, pixels).log().flatten(1).sum(1)
    else:
        which = (torch.arange(n) % 2).reshape(-1, 1, 1, 1)
        x0 = rounded(torch.where(which == 0, CENTRES[0], CENTRES[1]) + 0.1 * x, pixels)
        clouds = [_bin(x0, centre.item(), 0.1, pixels).flatten(1).prod(1) for centre in CENTRES.flatten()]
        mass = (sum(clouds) / 2).log()
    return x0, -mass / 2 / math.log(2)


def _bin(x0, mean, std, pixels):
    half = 1 / (2 * 255 * pixels.std[0])
    return torch.special.ndtr((x0 + half - mean) / std) - torch.special.ndtr((x0 - half - mean) / std)


def law_of_values(n, recipe, width):
    """8-bit images normal around 127.5, their exact bits, and their oracle and pixels under a recipe."""
    std = getattr(recipe.pixels, "std", 1.0)
    # Of measured pixels the deviation that flowers have, in so many units.
    pixels = Pixels.fixed(0.5, std if isinstance(recipe.pixels, Fixed) else 0.28 / std, 1)
    values = (127.5 + width * normal(n, 1, 1, 2, seed=1)).round()
    low, high = ((values - 127.5 + side) / width for side in (-0.5, 0.5))
    exact = -(torch.special.ndtr(high) - torch.special.ndtr(low)).log2().flatten(1).mean(1)
    denoise = Gaussian(recipe.schedule, 0.0, width / 255 / pixels.std[0])
    return pixels.enter(values / 255), exact, denoise, pixels


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


def within(found, exact, sigmas=3.0):
    """Whether the mean difference lies within `sigmas` standard errors of 0."""
    apart = found - exact
    error = apart.std() / len(apart) ** 0.5
    return abs(apart.mean()) <= sigmas * error


@every_pixels
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
@pytest.mark.parametrize("schedule", [Cosine(0.014, 0.99998), LinearBeta(), LinearPath()], ids=str)
def test_the_flow_gives_the_exact_bits_of_a_distribution(schedule, kind, pixels):
    n = 400
    x0, exact = drawn(kind, n, pixels)
    found = flow_bits(law(kind, schedule), x0, pixels, Noise(range(n)))
    assert found.shape == (n,)
    assert within(found, exact)
    # A distribution whose spread is wrong by a fifth is distinguished.
    wrong = flow_bits(Gaussian(schedule, 0.1, 0.24), x0, pixels, Noise(range(n)))
    assert wrong.mean() > exact.mean() + 0.01


@pytest.mark.parametrize(
    "name, most",
    # What the place within a bin costs is 0.015; the least noise of ddpm and edm-ve is wider than a bin.
    [
        *((name, 0.03) for name in ("fast", "flow", "smoke", "clear", "iddpm", "edm", "edm-vp", "edm-iddpm")),
        ("ddpm", 0.075),
        ("edm-ve", 0.41),
    ],
)
def test_the_flow_starts_early_enough_for_narrow_distributions_on_the_schedule_of_each_recipe(name, most):
    """On a distribution 1.8 values wide."""
    n, recipe = 2000, find_recipe(name)
    x0, exact, denoise, pixels = law_of_values(n, recipe, 1.8)
    # The divergence of numbers that do not depend on each other is exact with any signs.
    found = flow_bits(denoise, x0, pixels, OneStream(), earliest=earliest_time(recipe))
    assert -0.01 < (found - exact).mean() < most


@pytest.mark.parametrize(
    "name, most",
    # Tables and edm-ve are what they are: their least noise is wider than a bin, or they begin far out.
    mark_slow(
        [
            *(("fast", 0.08), ("clear", 0.09), ("ddpm", 0.33), ("iddpm", 0.18), ("edm", 0.16)),
            *(("edm-vp", 0.095), ("edm-ve", 0.52), ("edm-iddpm", 0.12)),
        ],
        lambda case: case[0] in ("fast", "ddpm", "edm"),
    ),
)
def test_the_bound_is_near_the_bits_of_narrow_distributions_on_the_schedule_of_each_recipe(name, most):
    """On a distribution 1.8 values wide, in 1000 steps."""
    recipe = find_recipe(name)
    x0, exact, denoise, pixels = law_of_values(1000, recipe, 1.8)
    times = bound_times(1000, recipe.schedule, pixels, earliest_time(recipe))
    assert 0 < (bound_bits(denoise, x0, pixels, times, Even()) - exact).mean() < most


def test_no_network_is_evaluated_at_times_that_training_does_not_draw():
    recipe = find_recipe("edm-vp")
    recipe = replace(recipe, objective=replace(recipe.objective, times=UniformTimes(1e-3)))
    x0, _, denoise, pixels = law_of_values(2, recipe, 1.8)
    asked = Asked(denoise)
    flow_bits(asked, x0, pixels, OneStream(), earliest=earliest_time(recipe))
    assert 1e-3 <= min(asked.times) < 1.02e-3
    assert bound_times(20, recipe.schedule, pixels, earliest_time(recipe))[-1].item() == pytest.approx(
        min(asked.times)
    )


@pytest.mark.parametrize(
    "kind, pixels, levels",
    # The cleanest level about as noisy as a bin is wide: below, bits go to what no value tells.
    mark_slow(
        [
            ("gaussian", "fixed", UniformLogSNR(9.2)),
            ("mixture", "fixed", UniformLogSNR(9.2)),
            ("gaussian", "measured", UniformLogSNR(6.6)),
        ],
        lambda case: case[1] == "measured",
    ),
    ids=str,
)
def test_the_bound_is_above_the_flow_and_its_gap_closes_with_the_steps(kind, pixels, levels):
    """With the small variance, whose gap is larger and so measured well."""
    n, schedule, pixels = 2000, LinearBeta(), PIXELS[pixels]
    x0, exact = drawn(kind, n, pixels)
    denoise = law(kind, schedule)
    level = flow_bits(denoise, x0, pixels, OneStream())
    gaps = []
    for steps in (250, 1000):
        found = bound_bits(denoise, x0, pixels, levels(steps, schedule), Even(), "small")
        apart = found - level
        assert apart.mean() >= -3 * apart.std() / n**0.5
        gaps.append((found - exact).mean())
    assert gaps[0] > 3 * gaps[1]


def test_a_start_that_is_not_noise_costs_bits():
    """The schedule ends with half of the signal left, for which the prior pays."""
    n, schedule = 2000, Cosine(0.5, 0.99995)
    x0, exact = drawn("gaussian", n, PIXELS["fixed"])
    found = bound_bits(
        law("gaussian", schedule), x0, PIXELS["fixed"], UniformLogSNR(8.5)(200, schedule), OneStream()
    )
    # KL(N(alpha x0, sigma^2) || N(0, 1)) of x0 with mean square 0.1^2 + 0.2^2, in bits, less what x_1 tells.
    spread = 0.75 + 0.25 * 0.04
    extra = (spread + 0.25 * 0.01 - 1 - math.log(spread)) / 2 / math.log(2)
    assert (found - exact).mean().item() == pytest.approx(extra, abs=0.02)
    assert extra > 0.015


def test_each_image_has_its_own_bits_by_its_own_seed():
    x0, _ = drawn("mixture", 6, PIXELS["fixed"])
    denoise, times = law("mixture", Cosine(0.014, 0.99998)), Uniform()(20, LinearBeta())
    for measure in (
        lambda x, seeds: bound_bits(denoise, x, PIXELS["fixed"], times, Noise(seeds)),
        lambda x, seeds: flow_bits(denoise, x, PIXELS["fixed"], Noise(seeds), 10),
    ):
        whole = measure(x0, range(6))
        assert torch.allclose(measure(x0[2:4], range(2, 4)), whole[2:4])
        assert not torch.allclose(measure(x0[2:4], range(2)), whole[2:4])


class NoFloat64(TorchDispatchMode):
    """Makes the meta device one without float64, whose values are 0 when they are copied to the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Call the operation."""
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("device") == torch.device("cpu"):
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype", args[0].dtype))
        found = func(*args, **kwargs)
        tensors = [x for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        assert not any(x.is_meta and x.dtype == torch.float64 for x in tensors)
        return found


@pytest.mark.parametrize("method", ["bound", "flow"])
def test_the_device_needs_no_float64(method):
    denoise, noise = law("gaussian", Cosine()), Noise(range(2))
    with NoFloat64():
        x0 = torch.zeros(2, 1, 1, 2, device="meta")
        if method == "bound":
            bits = bound_bits(denoise, x0, PIXELS["fixed"], Uniform()(5, denoise.schedule), noise)
        else:
            bits = flow_bits(denoise, x0, PIXELS["fixed"], noise, 5)
    assert (bits.device.type, bits.dtype) == ("cpu", torch.float64)


def test_the_flow_is_integrated_with_order_four():
    x0, _ = drawn("gaussian", 50, PIXELS["fixed"])
    denoise = law("gaussian", Cosine(0.014, 0.99998))
    level = lambda steps: flow_bits(denoise, x0, PIXELS["fixed"], Noise(range(50)), steps)
    truth = level(400)
    errors = [(level(steps) - truth).abs().mean().item() for steps in (40, 80)]
    assert math.log2(errors[0] / errors[1]) > 3.5
