"""The four preconditionings of Karras et al. 2022, table 1, as recipes."""

import math

import pytest
import torch

import tiny
from cases import mark_slow
from ddim.diffusion.denoiser import Counted, Shape
from ddim.diffusion.noise import Noise
from ddim.diffusion.oracles import Gaussian
from ddim.diffusion.samplers import EDM, initial_noise, last_state
from ddim.recipe.codec import override
from ddim.recipe.named import find_recipe
from ddim.recipe.recipe import Model
from options import options
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


def test_vp_counts_its_own_time():
    """sigma(t)^2 = exp(19.9 t^2 / 2 + 0.1 t) - 1, and c_noise is t up to the network's scale."""
    recipe = find_recipe("edm-vp")
    t, at, sigma = levels(recipe)
    condition = recipe.conditioning(t, at) / 999
    assert torch.allclose(sigma**2, torch.expm1(19.9 * condition**2 / 2 + 0.1 * condition))


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


@pytest.mark.parametrize(
    "name, std, inp, out",
    [
        ("edm", 0.5, 1, 1),
        ("edm-vp", 1.0, 1, 1),
        ("edm-vp", 0.5, None, 1),
        ("edm-iddpm", 1.0, 1, 1),
        ("edm-iddpm", 0.5, None, 1),
        ("edm-ve", 0.5, None, 1),
    ],
)
def test_input_and_target_have_unit_variance(name, std, inp, out):
    """For data of deviation `std`, at every training level; not at all of them where std is None."""
    recipe = find_recipe(name)
    t, at, _ = levels(recipe)
    at = at.over(torch.empty(512, 1, 1, 1, dtype=torch.float64))
    x0, eps = std * normal(512, 3, 40, 40), normal(512, 3, 40, 40, seed=1)
    x_t, c = at.alpha * x0 + at.sigma * eps, recipe.predicts(at)
    near = 5 / math.sqrt(2 * x0[0].numel())
    seen = (c.inp * x_t).flatten(1).std(1)
    wanted = ((x0 - c.skip * x_t) / c.out).flatten(1).std(1)
    assert (wanted - out).abs().max() < near
    assert ((seen - (inp or 1)).abs().max() < near) == (inp is not None)


@every_recipe
@pytest.mark.parametrize("steps", [2, 5, 18])
def test_n_levels_cost_two_n_minus_one_evaluations_down_to_the_papers_end(name, steps):
    recipe = find_recipe(name)
    times = recipe.grid(steps, recipe.schedule)
    denoise = Counted(Gaussian(recipe.schedule, 0.0, 0.5))
    noise, blank = Noise([0, 1]), torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    x = initial_noise(recipe.schedule, noise, blank, times[0])
    last_state(recipe.sampler(denoise, x, times, noise))
    assert recipe.sampler == EDM()
    assert denoise.evaluations == 2 * steps - 1
    at = recipe.schedule(times)
    ends = {"edm-ve": (80, 0.02), "edm-iddpm": (80, 0.0064)}.get(name, (80, 0.002))
    assert (at.sigma / at.alpha)[[0, -1]].tolist() == pytest.approx(ends, rel=1e-6)


def test_ve_draws_log_sigma_uniformly_between_its_bounds():
    _, _, sigma = levels(find_recipe("edm-ve"))
    part = (sigma.log() - math.log(0.02)) / math.log(100 / 0.02)
    assert torch.allclose(part.sort().values, UNIFORM, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", mark_slow(NAMES, lambda name: name == "edm"))
def test_a_short_training_lowers_the_loss(name):
    """On fixed images, times and noise; a network whose output is zero has loss 1."""
    small = "net.width=16 net.groups=8 net.blocks=1 net.multipliers=1,1 net.attention=no,no net.dropout=0"
    short = "data.source=blossoms:40 optim.batch=16 optim.warmup=160 optim.lr=2e-3 images=800"
    recipe = override(find_recipe(name), options(f"{small} {short}"))
    run = tiny.training(recipe)
    times = recipe.objective.times((torch.arange(32, dtype=torch.float64) + 0.5) / 32, recipe.schedule)
    images = torch.from_numpy(run.split.images.pixels[:32]).permute(0, 3, 1, 2).float() / 255
    x0, eps = run.pixels.enter(images), normal(32, 3, 32, 32, dtype=torch.float32)

    def loss():
        with torch.no_grad():
            return recipe.objective(run.model, x0, times, eps).mean().item()

    assert x0.std().item() == pytest.approx(0.5, rel=0.05)
    before = loss()
    assert before == pytest.approx(1, rel=0.05)
    while not run.finished:
        run.advance()
    assert loss() < 0.85 * before


def test_augmentation_labels_are_zero_in_sampling():
    """Samples are made without augmentation labels, which is the same as with zeros."""
    run = tiny.training(tiny.AUGMENTED, updates=3)
    x, t = normal(2, 3, 32, 32, dtype=torch.float32), torch.tensor(0.7)
    with torch.no_grad():
        plain = run.model(x, t).x0
        assert torch.equal(run.model.with_labels(augment=torch.zeros(2, 9))(x, t).x0, plain)
        assert not torch.equal(run.model.with_labels(augment=torch.ones(2, 9))(x, t).x0, plain)
