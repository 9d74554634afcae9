"""Recipes whose fields contradict each other begin nothing; all others do, and what is stored is read."""

import re

import pytest
import torch

from ddim.errors import UserError
from ddim.experiments.sweep.plan import SweepRequest, plan_trials
from ddim.recipe.checks import check_recipe, check_training
from ddim.recipe.codec import dump, load_recipe, override
from ddim.recipe.named import RECIPES, find_recipe
from options import options


def changed(name, **changes):
    """A recipe with fields by path, dots written as double underscores."""
    return override(find_recipe(name), {field.replace("__", "."): value for field, value in changes.items()})


def test_no_recipe_contradicts_itself():
    for name in RECIPES:
        check_training(find_recipe(name))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"augment": {"probability": 0.1}}, "^net.augment must be 9, .*, got 0$"),
        ({"augment": {"probability": 0.1}, "net": {"kind": "residual_unet"}}, "^net.augment must be 9"),
        (
            {"net": {"kind": "residual_unet", "widths": [8] * 12}},
            "^net needs fewer stages, or a smaller patch, for data.size 64x64: .* multiples of 4096",
        ),
        (
            {"net": {"kind": "dit", "patch": 129}},
            "^net needs fewer stages, or a smaller patch, for data.size 64x64: .* multiples of 129",
        ),
        ({"objective": "hybrid"}, "^objective hybrid needs a network that predicts a variance"),
        ({"sampler": {"kind": "ddpm", "variance": "learned"}}, "^sampler.variance learned needs a network"),
    ],
    ids=str,
)
def test_parts_of_a_recipe_that_do_not_fit_together_are_refused(changes, said):
    with pytest.raises(UserError, match=said) as error:
        check_recipe(load_recipe(changes))
    assert "\n" not in str(error.value)


DEVIATION = "pixels.std, predicts.sigma_data and objective.weight.sigma_data"
TABLE = "schedule.entries, conditioning.entries, objective.times.entries and grid.entries"
ONE = "must be one number, .*, got"


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("iddpm", "schedule.entries=1000", f"{TABLE} {ONE} 1000, 4000, 4000 and 4000"),
        ("iddpm", "objective.times.entries=1000", f"{TABLE} .* got 4000, 4000, 1000 and 4000"),
        ("iddpm", "objective.times=loss_aware objective.times.entries=400", f"{TABLE} must be"),
        ("ddpm", "conditioning.entries=100", f"{TABLE} {ONE} 1000, 100, 1000 and"),
        ("ddpm", "grid.entries=500", f"{TABLE} must be one number"),
        ("ddpm", "grid=sections grid.entries=500", f"{TABLE} must be one number"),
        (
            "edm-ve",
            "objective.finish=0.3",
            "^objective.finish 0.3 .* noise of schedule karras_sigma: set --obj",
        ),
        # What a recipe does not have is not asked for.
        ("fast", "schedule=linear grid=spaced grid.entries=9", "^schedule.entries and grid.ent"),
        ("ddpm", "sampled_on=linear sampled_on.entries=500", "^sampled_on.entries and grid.entries"),
        ("edm", "pixels.std=1", f"{DEVIATION} {ONE} 1.0, 0.5 and 0.5: set them tog"),
        ("edm", "predicts.sigma_data=1", f"{DEVIATION} {ONE} 0.5, 1.0 and 0.5"),
        ("edm", "objective.weight.sigma_data=1", f"{DEVIATION} must be one number"),
        ("edm", "objective.weight=unweighted pixels.std=1", "^pixels.std and predicts.sigma_data"),
        (
            "edm",
            "pixels=fixed predicts.sigma_data=1",
            "^predicts.sigma_data and objective.weight.sigma_data must be one number",
        ),
        ("ddpm", "net.outputs=3", "^net.outputs must be 1, or 2 to predict a variance too, got 3"),
        ("ddpm", "net.outputs=2", "^net.outputs 2 predicts a variance, and only the loss hybrid"),
        (
            "iddpm",
            "objective=objective",
            "set --net.outputs 2 --objective hybrid to train it, or --net.outputs 1 ",
        ),
        (
            "ddpm",
            "net.classes=10",
            "^net.classes is 10, but with data.labels no the network is never trained on a class",
        ),
        ("edm-vp", "predicts=edm", "^pixels.std and predicts.sigma_data .*, got 0.5 and 1.0: "),
    ],
)
def test_fields_that_contradict_each_other_are_named_before_anything_begins(name, changes, said):
    recipe = override(find_recipe(name), options(changes))
    with pytest.raises(UserError, match=said) as error:
        check_training(recipe)
    assert "\n" not in str(error.value)
    # A run that was made so is read as it was made.
    assert load_recipe(dump(recipe)) == recipe


@pytest.mark.parametrize("name", ["ddpm", "iddpm"])
def test_the_advice_about_entries_gives_a_valid_recipe(name):
    with pytest.raises(UserError) as error:
        check_training(changed(name, schedule__entries=500))
    options = re.findall(r"--(\S+) N", str(error.value))
    check_training(override(find_recipe(name), dict.fromkeys(options, "500")))


def test_edm_targets_have_unit_variance_and_weight_by_default():
    """Karras et al. 2022, appendix B.6: weight * c_out^2 = 1, with images of the deviation 1 of `fast`."""
    words = {"predicts": "edm", "objective__weight": "edm_weight", "objective__on": "image"}
    recipe = changed("fast", **words, objective__error="mse")
    check_training(recipe)
    level = recipe.schedule(torch.linspace(0.01, 1, 50))
    weighted = recipe.objective.weight(level, "image") * recipe.predicts(level).out ** 2
    assert torch.allclose(weighted, torch.ones(50).double())


@pytest.mark.parametrize("name", ["edm", "edm-ve"])
def test_a_network_must_be_told_the_noise_level(name):
    said = "signal_variance is the same number at all noise levels of schedule .*: set --conditioning log_snr"
    with pytest.raises(UserError, match=said):
        check_training(changed(name, conditioning="signal_variance"))
    check_training(changed(name, conditioning="log_snr"))


def test_any_deviation_is_allowed_without_the_edm_parameterisation():
    check_training(changed("edm", predicts="noise", pixels__std=1))
    check_training(changed("edm", pixels="fixed", pixels__std=0.25))
    check_training(changed("edm", pixels__std=1, predicts__sigma_data=1, objective__weight__sigma_data=1))


def test_the_advice_about_the_variance_gives_a_valid_recipe():
    with pytest.raises(UserError, match="hybrid trains it") as error:
        check_training(changed("iddpm", objective="objective"))
    for words in re.search("set (.+), or (.+)", str(error.value)).groups():
        options = dict(re.findall(r"--(\S+) (\S+)", words))
        check_training(override(changed("iddpm", objective="objective"), options))


def test_classes_of_a_network_are_counted_given_or_those_of_the_weights_to_start_from():
    check_training(changed("ddpm", data__labels="yes"))
    check_training(changed("ddpm", data__labels="yes", net__classes=10))
    check_training(changed("ddpm", net__classes=10), changed("ddpm", data__labels="yes", net__classes=10))


def test_a_run_from_weights_keeps_the_numbers_of_their_training():
    old = changed("edm", pixels__std=1)
    check_training(old, old)
    check_training(override(old, {"optim.lr": "1e-4"}), old)
    with pytest.raises(UserError, match="must be one number, .*, got 1.0, 0.25 and 0.5"):
        check_training(override(old, {"predicts.sigma_data": "0.25"}), old)


def test_entries_need_not_agree_on_a_continuous_schedule():
    check_training(
        changed("iddpm", schedule="linear_beta", objective__times__entries=100, conditioning__entries=50)
    )
    check_training(changed("ddpm", grid__entries=50, sampled_on="linear", sampled_on__entries=50))
    check_training(changed("ddpm", grid__entries=50, sampled_on="linear_beta"))


def test_a_sweep_of_contradictions_is_refused_like_one_run():
    fields = {"schedule.entries": "[1000,500]"}
    with pytest.raises(
        UserError,
        match="^schedule.entries=500: schedule.entries, .* got 500, 1000, 1000 and 1000: set them together",
    ):
        plan_trials(SweepRequest(recipe="ddpm", fields=fields))
