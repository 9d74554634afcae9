"""The four preconditionings of Karras et al. 2022, table 1, as recipes."""

import pytest
import torch

from ddim.diffusion.denoiser import Shape
from ddim.diffusion.oracles import Gaussian
from ddim.recipe.named import find_recipe
from ddim.recipe.recipe import Model
from oracles import Answers, TellsTime, normal

NAMES = ["edm", "edm-vp", "edm-ve", "edm-iddpm"]
every_recipe = pytest.mark.parametrize("name", NAMES)
UNIFORM = (torch.arange(512, dtype=torch.float64) + 0.5) / 512


def table_1(name, sigma):
    """c_skip, c_out, c_in and lambda at a noise level, from the paper's table."""
    one = torch.ones_like(sigma)
    if name == "edm":
        c_out = sigma * 0.5 / (0.25 + sigma**2).sqrt()
        weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        return 0.25 / (sigma**2 + 0.25), c_out, 1 / (sigma**2 + 0.25).sqrt(), weight
    if name == "edm-ve":
        return one, sigma, one, 1 / sigma**2
    return one, -sigma, 1 / (sigma**2 + 1).sqrt(), 1 / sigma**2


def levels(recipe):
    """Times of training, and sigma in the paper's sense: the noise on a clean image of weight one."""
    t = recipe.objective.times(UNIFORM, recipe.schedule)
    at = recipe.schedule(t)
    return t, at, at.sigma / at.alpha


@every_recipe
def test_a_recipe_has_the_values_of_its_column_in_table_1(name):
    recipe = find_recipe(name)
    _, at, sigma = levels(recipe)
    found = recipe.predicts(at)
    skip, out, inp, _ = table_1(name, sigma)
    for ours, theirs in ((found.skip * at.alpha, skip), (found.out, out), (found.inp * at.alpha, inp)):
        assert torch.allclose(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize(
    "name, condition",
    [("edm", lambda s: s.log() / 4), ("edm-ve", lambda s: (s / 2).log())],
    ids=["edm", "ve"],
)
def test_the_network_gets_c_noise(name, condition):
    recipe = find_recipe(name)
    t, at, sigma = levels(recipe)
    assert torch.allclose(recipe.conditioning(t, at), condition(sigma))


@every_recipe
def test_the_objective_is_the_weighted_denoising_error(name):
    """lambda |D - x0|^2, which is |F - its target|^2 in all four: lambda c_out^2 = 1 (appendix B.6)."""
    recipe = find_recipe(name)
    t, at, sigma = levels(recipe)
    x0, eps = 0.5 * normal(512, 3, 4, 4), normal(512, 3, 4, 4, seed=1)
    wrong = Gaussian(recipe.schedule, mean=0.2, std=0.6)
    net = Answers(wrong, recipe.predicts)
    model = Model(net, recipe.schedule, recipe.predicts, TellsTime(), Shape(3, 4, 4))
    cost = recipe.objective(model, x0, t, eps)

    over = at.over(x0)
    x_t = over.alpha * x0 + over.sigma * eps
    weight = table_1(name, sigma)[3]
    error = (wrong(x_t, t).x0 - x0).square().flatten(1).mean(1)
    assert torch.allclose(cost, weight * error, rtol=1e-6)

    c = recipe.predicts(over)
    target = (x0 - c.skip * x_t) / c.out
    output = net(c.inp * x_t, t)
    assert torch.allclose(cost, (output - target).square().flatten(1).mean(1), rtol=1e-6)
