"""Forecasts of the images that a run sees, and proposals of faster recipes."""

import pytest

import ddim.training.alternatives
import tiny
from ddim.nn.unet import UNetSpec
from ddim.recipe.codec import override
from ddim.recipe.named import fast, find_recipe, smoke
from ddim.training.alternatives import (
    ENOUGH,
    advise,
    change_size,
    describe_outlook,
    format_epochs,
    format_passes,
    format_speed,
    list_alternatives,
)


@pytest.fixture
def costs(monkeypatch):
    """Let an image cost its pixels times the width of the network."""

    def cost(recipe, channels, precision):
        return recipe.data.size[0] * recipe.data.size[1] * max(recipe.net.widths)

    monkeypatch.setattr(ddim.training.alternatives, "time_image", cost)


def test_a_recipe_of_another_size_is_the_named_recipe_of_that_size():
    assert change_size(fast((128, 128)), (64, 64)) == fast((64, 64))
    assert change_size(fast((64, 64)), (256, 128)) == fast((256, 128))


def test_fields_of_the_user_survive_another_size():
    changed = change_size(override(fast((128, 128)), {"optim.lr": 0.5, "net.embedding": 8}), (64, 64))
    assert changed == override(fast((64, 64)), {"optim.lr": 0.5, "net.embedding": 8})
    edm = override(find_recipe("edm"), {"data.size": 64})
    assert change_size(edm, (32, 32)) == find_recipe("edm")


def test_a_size_that_does_not_fit_the_stages_of_the_user_is_not_wiser(costs):
    # At 64 pixels `fast` has four stages, so that five widths are refused.
    chosen = override(fast((128, 128)), {"net.widths": "8,8,8,8,8"})
    assert list_alternatives(chosen, 1000, 3) == []


def test_the_alternatives_of_few_images_are_cheaper_by_their_measured_factor(costs):
    found = list_alternatives(fast(), 1000, 3)
    assert [(each.option, each.factor) for each in found] == [
        ("--net.widths 12,24,48,96", 2.0),
        ("--size 32", 4.0),
    ]
    assert found[0].recipe.net.widths == (12, 24, 48, 96)
    assert found[1].recipe.data.size == (32, 32)


def test_a_size_above_64_pixels_is_lowered_first_and_keeps_its_shape(costs):
    found = list_alternatives(fast((128, 192)), 1000, 3)
    assert found[0].option == "--size 64x96"
    assert found[0].recipe == fast((64, 96))
    assert found[0].factor == pytest.approx(4)


def test_nothing_is_wiser_for_enough_images_small_networks_or_small_gains(costs, monkeypatch):
    assert list_alternatives(fast(), ENOUGH, 3) == []
    assert list_alternatives(smoke(), 10, 3) == []
    monkeypatch.setattr(ddim.training.alternatives, "time_image", lambda recipe, channels, precision: 1.0)
    assert list_alternatives(fast(), 1000, 3) == []


def test_other_networks_are_not_narrowed():
    luz = override(find_recipe("luz"), {"data.size": 32})
    assert list_alternatives(luz, 1000, 3) == []


def test_the_outlook_is_one_sentence():
    assert describe_outlook(10.8, 25_920, "40 minutes", 6_480) == (
        "about 11 images/s: 25,920 images in 40 minutes, 4 passes over 6,480"
    )
    assert [format_speed(speed) for speed in (0.3123, 99.4, 99.7, 1210.4)] == ["0.31", "99", "100", "1,210"]
    assert format_passes(100, 100) == "1 pass over 100"
    assert format_passes(150, 100) == "1.5 passes over 100"
    assert format_passes(123_400, 100) == "1,234 passes over 100"


@pytest.mark.parametrize(
    ("images", "shown"),
    [(64, "0.001"), (320, "0.006"), (4_999, "0.1"), (10, "less than 0.001")],
)
def test_a_run_that_sees_few_of_its_images_is_not_said_to_make_0_passes(images, shown):
    assert format_passes(images, 50_000) == f"{shown} passes over 50,000"
    assert format_epochs(images / 50_000) == shown


@pytest.mark.parametrize(
    ("budget", "length"), [({"minutes": 30}, "30 minutes"), ({"images": 320}, "about 0:32")]
)
def test_a_slow_training_is_advised_in_one_sentence(budget, length, costs):
    run = tiny.training(tiny.recipe(images="none"))
    run.recipe = override(fast((32, 32)), budget)
    run.fix_total(320)
    text = f"about 10 images/s: 320 images in {length}, 10 passes over 32; "
    assert advise(run, 10.0) == f"{text}about 2 times as many with --net.widths 12,24,48,96"
    run.fix_total(ENOUGH)
    assert advise(run, 10.0) == ""


def test_a_training_from_another_run_keeps_its_network_and_is_not_advised(costs):
    run = tiny.training(tiny.recipe(images="none"))
    run.start_from(run.model.state_dict())
    run.recipe = fast((32, 32))
    run.fix_total(320)
    assert advise(run, 10.0) == ""


def test_a_training_whose_network_is_small_is_not_advised():
    assert max(tiny.BASE.net.widths) < max(UNetSpec().widths)
    assert advise(tiny.training(), 1.0) == ""
