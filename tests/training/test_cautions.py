"""What a user should know about the images before a run begins."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddim.data import open_images
from ddim.recipe.codec import override
from ddim.recipe.named import RECIPES, find_recipe
from ddim.recipe.recipe import Optim, build_model
from ddim.training.cautions import (
    MEASURED,
    describe_conditioning,
    describe_few,
    describe_warm_up,
    list_cautions,
)
from small_recipes import make_small
from tiny import images, write_grays

RUN = Path("runs/one")


def test_few_training_images_may_be_repeated():
    (caution,) = list_cautions(images(), 36, RUN)
    assert caution.startswith("few training images (36): the network may repeat them")
    assert caution.endswith("check this with `ddim memorisation runs/one`")
    assert list_cautions(images(), 3, RUN)[0].endswith("will repeat them instead of making new ones")
    assert list_cautions(images(), 500, RUN) == []


def test_files_that_are_left_out_are_counted_with_the_commonest_reason(tmp_path):
    write_grays(tmp_path / "photos", [0, 255])
    (tmp_path / "photos" / "a.png").write_bytes((tmp_path / "photos" / "0.png").read_bytes()[:-20])
    for name in ("b.svg", "c.svg"):
        (tmp_path / "photos" / name).write_text("<svg/>")
    found = open_images(tmp_path / "photos", (8, 8))
    assert list_cautions(found, 500, RUN)[0].startswith("3 files were left out, such as 'b.svg': contains no")


def begun(recipe):
    net = make_small(recipe.name).net if recipe.name in RECIPES else recipe.net
    with torch.random.fork_rng():
        return SimpleNamespace(recipe=recipe, model=build_model(replace(recipe, net=net), 3))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_tells_its_network_the_noise_level(name):
    assert describe_conditioning(begun(find_recipe(name))) == ""


@pytest.mark.parametrize("net", ["unet", "dit", "residual_unet"])
def test_noise_levels_that_a_network_cannot_tell_apart_are_named(net):
    recipe = override(find_recipe("ddpm"), {"net": net, "name": "own"})
    said = describe_conditioning(begun(recipe))
    assert said.startswith(f"conditioning timestep gives the network numbers up to 999, which net {net} can")
    assert said.endswith("--conditioning log_snr suits it")
    log_snr = override(recipe, {"conditioning": "log_snr"})
    assert describe_conditioning(begun(log_snr)) == ""
    narrow = override(log_snr, {"conditioning.scale": 0.5})
    assert describe_conditioning(begun(narrow)).endswith("--conditioning.scale 10 suits it")


def test_the_measured_runs_of_the_rule_are_those_of_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "results" / "memorisation.md").read_text()
    row = r"\| ([\d,]+) images, (\d+) times \| \**([\d.]+) %"
    (few, often, copied), (many, seldom, none) = re.findall(row, page)
    assert f"{copied} % of the samples were copies after {few} images were seen {often} times" in MEASURED
    assert f"none of 200 after {many} images were seen {seldom} times" in MEASURED
    assert float(none) == 0
    assert describe_few(int(few))
    assert not describe_few(int(many.replace(",", "")))


def test_a_warm_up_that_outlasts_the_training_is_named():
    assert describe_warm_up(Optim(warmup=10_000_000), 100_000) == (
        "the learning rate rises for 10,000,000 images (optim.warmup), and this run sees only 100,000: it "
        "ends at 0.01 times optim.lr; --optim.warmup 2000 is shorter"
    )
    assert describe_warm_up(Optim(warmup=101), 100)
    assert describe_warm_up(Optim(warmup=100), 100) == describe_warm_up(Optim(), 100) == ""
