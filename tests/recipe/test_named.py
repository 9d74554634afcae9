import itertools
import math
from dataclasses import replace

import pytest
import torch

import ddim
import tiny
from cases import mark_slow
from ddim.diffusion.grids import Uniform
from ddim.recipe.checks import check_steps, check_training
from ddim.recipe.codec import dump, load_recipe, override, write_recipe
from ddim.recipe.named import FOR_SIZE, RECIPES, ddpm, fast, find_recipe, flow, smoke
from ddim.recipe.recipe import FAMILIES, build_model
from oracles import uniform

every_recipe = pytest.mark.parametrize("name", sorted(RECIPES))


@every_recipe
def test_a_recipe_has_its_name_contradicts_nothing_and_survives_json(name):
    recipe = find_recipe(name)
    assert recipe.name == name
    check_training(recipe)
    assert load_recipe(dump(recipe)) == recipe


@every_recipe
@pytest.mark.parametrize("schedule", ["cosine", "linear", "linear_beta", "karras_sigma"])
def test_every_recipe_can_be_tried_on_other_schedules_and_losses(name, schedule):
    """As a sweep does, of which the arm that names what the recipe has is the recipe."""
    recipe = find_recipe(name)
    asked = {"schedule": schedule, "objective.error": "l1", "predicts": "image"}
    other = override(recipe, asked)
    check_steps(replace(other, sampled_on=None), other.steps)
    named = dump(recipe)["schedule"]["kind"]
    assert override(recipe, {"schedule": named}) == recipe


def test_edm_ve_samples_only_noise_levels_of_training():
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


def test_ddpm_is_trained_and_sampled_only_at_entries_of_its_table():
    recipe = ddpm()
    # Ho et al. 2020, section 4: beta from 1e-4 to 0.02 in 1000 steps; the well-known last entry.
    assert recipe.schedule(torch.ones(())).alpha.item() ** 2 == pytest.approx(4.036e-5, rel=1e-3)
    trained = recipe.objective.times(uniform(500), recipe.schedule)
    asked = torch.cat([recipe.grid(steps, recipe.schedule) for steps in (2, 7, 20, 50, 1000)])
    for t in (trained, asked):
        index = recipe.conditioning(t, recipe.schedule(t))
        assert torch.allclose(index, index.round(), rtol=0, atol=1e-9)
        powers = recipe.schedule.powers[index.round().long()]
        assert torch.allclose(recipe.schedule(t).alpha ** 2, powers, rtol=1e-9)


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (100, 100), (128, 128), (256, 256), (192, 600)])
def test_the_lowest_stage_of_fast_has_8_to_15_pixels(size):
    recipe = find_recipe("fast", size)
    assert recipe.data.size == size
    lowest = min(size) / 2 ** (len(recipe.net.widths) - 1)
    assert 8 <= lowest < 16
    assert [at for at, attends in enumerate(recipe.net.attention) if attends] == [len(recipe.net.widths) - 1]


@pytest.mark.parametrize("name", FOR_SIZE)
@pytest.mark.parametrize("factor", [2, 4, 5.5])
def test_the_mean_of_neighbours_in_a_larger_image_is_as_noisy_as_a_pixel_of_64(factor, name):
    usual, large = find_recipe(name), find_recipe(name, (int(64 * factor),) * 2)
    # The mean of factor^2 pixels has 1 / factor of their noise.
    gained = 2 * math.log(factor)
    if name != "flow":
        noisiest = [recipe.schedule(torch.tensor(1.0)).log_snr.item() for recipe in (usual, large)]
        assert noisiest[1] + gained == pytest.approx(noisiest[0], abs=1e-3)
    middle = torch.tensor([0.5])
    drawn = [r.schedule(r.objective.times(middle, r.schedule)).log_snr.item() for r in (usual, large)]
    assert drawn[1] + gained == pytest.approx(drawn[0])


@pytest.mark.parametrize("factor", [2, 4])
def test_a_shifted_time_of_a_larger_flow_has_the_noise_of_a_mean_of_neighbours(factor):
    """But for the ends of the path, where alpha or sigma is almost 0."""
    path = flow((64 * factor,) * 2).schedule
    usual, large = (path(Uniform(shift)(8, path)) for shift in (1.0, factor))
    gained = usual.log_snr - large.log_snr
    assert torch.allclose(gained[1:], torch.full((7,), 2 * math.log(factor)).double(), atol=0.05)


@pytest.mark.parametrize(("size", "patch"), [((64, 64), 4), ((128, 128), 8), ((256, 256), 16), ((96, 96), 6)])
def test_larger_images_have_as_many_tokens(size, patch):
    assert find_recipe("dit", size).net.patch == patch
    assert math.prod(side / patch for side in size) == 256


NARROW = {
    "fast": {"net.widths": (8, 8, 8, 8), "net.embedding": 16},
    "flow": {"net.widths": (8, 8, 8, 8), "net.embedding": 16},
    "dit": {"net.width": 16, "net.depth": 1, "net.heads": 2},
}


SIZES = [(96, 64), (256, 256)]


@pytest.mark.parametrize(
    "name, size",
    mark_slow(itertools.product(FOR_SIZE, SIZES), lambda case: case[0] == "dit" or case[1] == (96, 64)),
)
def test_odd_and_large_sizes_train_and_sample(name, size, tmp_path):
    recipe = find_recipe(name, size)
    narrow = dict(NARROW[name])
    if "net.widths" in narrow:
        narrow["net.widths"] = (8,) * len(recipe.net.widths)
    fields = {"images": 4, "optim.batch": 2, "steps": 1}
    fields |= {"report.events": 1, "report.grid": 1, "report.validation_images": 1}
    data = torch.rand(6, 3, *size, generator=torch.Generator().manual_seed(0))
    run = tiny.train(override(recipe, fields | narrow), tmp_path / "run", data)
    images = ddim.sample(run, n=1, steps=2)
    assert images.shape == (1, 3, *size)
    assert images.isfinite().all()


@pytest.mark.parametrize("name", FOR_SIZE)
def test_images_of_64_pixels_or_less_have_the_usual_recipe(name):
    for size in ((64, 64), (32, 32), (32, 128)):
        recipe = find_recipe(name, size)
        assert replace(recipe, data=find_recipe(name).data) == find_recipe(name)
    assert find_recipe("keras", 128) == find_recipe("keras", fields={"data.size": (128, 128)})


def test_a_recipe_can_be_a_file(tmp_path):
    for suffix in (".yaml", ".yml", ".json"):
        path = tmp_path / f"mine{suffix}"
        path.write_text(write_recipe(smoke()))
        assert find_recipe(str(path)) == smoke()


def test_fields_are_texts_values_or_parts():
    parts = ddim.parts
    fields = {"optim": parts.Optim(batch=8), "optim.lr": "2e-3", "sampler": parts.DDIM(0.5), "minutes": 3}
    recipe = ddim.find_recipe("smoke", size="32x48", fields=fields)
    assert (recipe.optim.batch, recipe.optim.lr, recipe.data.size) == (8, 2e-3, (32, 48))
    assert (recipe.sampler, recipe.minutes, recipe.images) == (parts.DDIM(0.5), 3.0, None)
    assert (
        ddim.find_recipe("fast", 128)
        == ddim.find_recipe("fast", fields={"data.size": 128})
        == fast((128, 128))
    )


def test_every_kind_of_every_part_stands_in_one_place():
    for family in FAMILIES.values():
        assert all(getattr(ddim.parts, kind.__name__) is kind for kind in family.values())
