from dataclasses import replace

import pytest
import torch

from ddim.diffusion.conditioning import NoiseVariance, Timestep
from ddim.diffusion.loss import Objective
from ddim.diffusion.parameterisation import PredictsNoise
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Cosine
from ddim.diffusion.time_sampling import TableTimes
from ddim.errors import UserError
from ddim.runs.codec import dump, load_recipe, override, write_recipe
from ddim.runs.named_recipes import RECIPES, ddpm, fast, find_recipe, keras, luz, smoke
from ddim.runs.recipe import Fixed, build_model
from ddim.runs.recipe_checks import check_steps
from oracles import made, normal, uniform

every_recipe = pytest.mark.parametrize("name", sorted(RECIPES))


@every_recipe
def test_a_recipe_has_its_name_and_survives_data(name):
    recipe = find_recipe(name)
    assert recipe.name == name
    assert recipe == find_recipe(name)
    assert load_recipe(dump(recipe)) == recipe


@every_recipe
def test_a_recipe_makes_a_model_that_learns(name):
    recipe = find_recipe(name)
    model = made(lambda: build_model(recipe, 3))
    x0, eps = normal(2, 3, 32, 32, dtype=torch.float32), normal(2, 3, 32, 32, seed=1, dtype=torch.float32)
    t = recipe.objective.times(uniform(2), recipe.schedule)
    with torch.random.fork_rng(devices=[]):
        loss = recipe.objective(model, x0, t, eps, Pixels.fixed(0.5, 0.5))
    assert loss.shape == (2,)
    loss.mean().backward()
    # Labels of augmentation are not told here.
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@every_recipe
def test_its_batches_need_no_other_size_than_its_own(name):
    recipe = find_recipe(name)
    assert recipe.optim.batch % recipe.optim.accumulate == 0


@every_recipe
@pytest.mark.parametrize("schedule", ["cosine", "linear", "linear_beta", "karras_sigma"])
def test_every_recipe_can_be_tried_on_other_schedules_and_losses(name, schedule):
    """As a sweep does, of which the arm that names what the recipe has is the recipe."""
    recipe = find_recipe(name)
    asked = {"schedule": schedule, "objective.error": "l1", "predicts": "image"}
    other = override(recipe, asked)
    check_steps(replace(other, sampled_on=None), other.report.steps)
    named = dump(recipe)["schedule"]["kind"]
    assert override(recipe, {"schedule": named}) == recipe


def test_the_originals_keep_their_hyper_parameters():
    """Of both: signal rates 0.02 and 0.95, L1 on noise, AdamW 1e-3 and 1e-4, batch 64, EMA 0.999."""
    for recipe in (luz(), keras()):
        assert recipe.schedule == Cosine(0.02, 0.95)
        assert recipe.objective == Objective("noise", "l1")
        assert recipe.predicts == PredictsNoise()
        assert recipe.conditioning == NoiseVariance()
        assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.optim.batch) == (1e-3, 1e-4, 64)
        assert (recipe.optim.clip, recipe.optim.warmup, recipe.optim.decay) == (0, 0, "constant")
        assert recipe.ema.decay == 0.999
        assert not recipe.data.flip
    assert luz().net.widths == (32, 64, 96, 128)
    assert keras().net.widths == (32, 64, 96)


def test_ddpm_keeps_its_hyper_parameters():
    """Of Song et al.'s configuration for CIFAR-10."""
    recipe = ddpm()
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.optim.betas) == (2e-4, 0.0, (0.9, 0.999))
    assert (recipe.optim.batch, recipe.optim.clip, recipe.optim.decay) == (128, 1.0, "constant")
    assert recipe.ema.decay == 0.9999
    assert recipe.pixels == Fixed(0.5, 0.5)
    assert recipe.data.flip
    assert not recipe.data.dequantise
    assert recipe.objective == Objective("noise", "mse", TableTimes(1000))
    assert recipe.conditioning == Timestep(1000)
    assert recipe.net.dropout == 0.1
    # Ho et al. 2020, section 4: beta from 1e-4 to 0.02 in 1000 steps; the well-known last entry.
    assert recipe.schedule(torch.ones(())).alpha.item() ** 2 == pytest.approx(4.036e-5, rel=1e-3)


def test_iddpm_keeps_its_hyper_parameters():
    """Nichol & Dhariwal 2021, appendix A, and their code for CIFAR-10: no image is mirrored."""
    recipe = find_recipe("iddpm")
    assert (recipe.optim.lr, recipe.optim.batch, recipe.optim.weight_decay) == (1e-4, 128, 0)
    assert recipe.ema.decay == 0.9999
    assert recipe.net.dropout == 0.3
    assert (recipe.schedule.entries, recipe.schedule.betas) == (4000, "cosine")
    assert recipe.objective.vlb == 0.001
    assert not recipe.data.flip


def test_edm_ve_knows_no_level_that_it_is_not_trained_at():
    """Karras et al. 2022, table 1: sigma from 0.02."""
    recipe = find_recipe("edm-ve")
    ends = recipe.objective.times(torch.tensor([0.0, 1 - 1e-9], dtype=torch.float64), recipe.schedule)
    assert recipe.schedule(ends).sigma.min().item() == pytest.approx(0.02, rel=1e-6)
    assert recipe.schedule(torch.tensor(0.0)).sigma > 0.0199


@pytest.mark.parametrize("name, wide", [("edm", 128), ("ddpm", 512), ("iddpm", 512)])
def test_classes_enter_where_the_papers_have_them(name, wide):
    """Beside the level in Song et al. 2021b's network, and behind the layers after it in the others."""
    with torch.device("meta"):
        plain, told = (build_model(override(find_recipe(name), {"net.classes": k}), 3) for k in (0, 10))
    more = sum(p.numel() for p in told.parameters()) - sum(p.numel() for p in plain.parameters())
    assert more == 10 * wide


def test_ddpm_is_made_small_by_the_options_that_it_names():
    small = override(ddpm(), {"net.width": "32", "net.groups": "8"})
    count = sum(p.numel() for p in made(lambda: build_model(small, 3)).parameters())
    assert 2_200_000 < count < 2_300_000


def test_ddpm_is_asked_and_trained_at_the_entries_of_its_table_alone():
    recipe = ddpm()
    trained = recipe.objective.times(uniform(500), recipe.schedule)
    asked = torch.cat([recipe.grid(steps, recipe.schedule) for steps in (1, 7, 20, 50, 1000)])
    for t in (trained, asked):
        index = recipe.conditioning(t, recipe.schedule(t))
        assert torch.allclose(index, index.round(), rtol=0, atol=1e-9)
        powers = recipe.schedule.powers[index.round().long()]
        assert torch.allclose(recipe.schedule(t).alpha ** 2, powers, rtol=1e-9)


@pytest.mark.parametrize("recipe", [fast(), smoke()], ids=["fast", "smoke"])
def test_our_own_schedules_run_from_clean_images_to_noise(recipe):
    log_snr = recipe.schedule(torch.tensor([0.0, 1.0])).log_snr
    assert log_snr[0] >= 9
    assert log_snr[1] <= -8.5


def test_a_recipe_can_be_a_file(tmp_path):
    for suffix in (".yaml", ".yml", ".json"):
        path = tmp_path / f"mine{suffix}"
        path.write_text(write_recipe(smoke()))
        assert find_recipe(str(path)) == smoke()


@pytest.mark.parametrize("name, near", [("fsat", "fast"), ("Keras", "keras"), ("smok", "smoke")])
def test_a_typo_is_told_the_near_name(name, near):
    with pytest.raises(UserError, match=f"recipe must be one of .*perhaps you meant {near}"):
        find_recipe(name)


FAST = """
name: fast
data:
  source: blossoms
  size: [64, 64]
  channels: null
  flip: true
  validation: 0.1
pixels: {kind: measured}
net:
  kind: unet
  widths: [32, 64, 128, 256]
  down: [0, 1, 1, 2]
  up: [1, 1, 2, 2]
  attention: [false, false, false, true]
  embedding: 256
schedule: {kind: cosine, min_signal: 0.014, max_signal: 0.99995}
predicts: {kind: velocity}
conditioning: {kind: log_snr, scale: 10.0}
objective:
  'on': noise
  error: l1
  times: {kind: normal_log_snr, mean: -1.0, std: 2.5}
optim:
  lr: 0.003
  weight_decay: 0.01
  betas: [0.9, 0.99]
  batch: 16
  accumulate: 1
  clip: 1.0
  warmup: 3200
  decay: cosine
ema: {kind: power, gamma: 16.97}
grid: {kind: uniform_log_snr, end: 3.0}
sampler: {kind: dpm_solver, order: 2, eta: 0.0, start: ramp}
report: {events: 10, validation_images: 256, grid: 16, steps: 20, log: 20, checkpoint: 120.0}
minutes: 40.0
images: null
seed: 0
"""
"""What version 0.1.0 wrote."""


def test_a_recipe_that_an_older_version_wrote_is_read_as_what_it_was(tmp_path):
    (tmp_path / "recipe.yaml").write_text(FAST)
    assert find_recipe(str(tmp_path / "recipe.yaml")) == fast()
    whole = "times: {kind: normal_log_snr, mean: -1.0, std: 2.5}"
    (tmp_path / "recipe.yaml").write_text(FAST.replace(whole, "times: {kind: uniform_times}"))
    assert find_recipe(str(tmp_path / "recipe.yaml")).objective == Objective("noise", "l1")
