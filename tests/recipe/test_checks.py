"""Recipes whose fields contradict each other begin nothing; all others do, and what is stored is read."""

import pytest
import torch

from ddim.errors import UserError
from ddim.recipe.checks import check_training, find_other_meaning
from ddim.recipe.codec import dump, load_recipe, override
from ddim.recipe.named import find_recipe
from options import options


def changed(name, words=""):
    """A named recipe with other fields, as options."""
    return override(find_recipe(name), options(words))


@pytest.mark.parametrize(
    ("name", "words", "word"),
    [
        ("fast", "augment.probability=0.1", "^net.augment must be 9 .*, got 0$"),
        ("luz", "data.labels=yes", "takes classes.* got net residual_unet"),
        ("luz", "data.vectors=a.csv", "takes vectors.* got net residual_unet"),
        ("fast", "sampler=ddpm sampler.variance=learned", "sampler.variance learned need"),
        ("edm-ve", "objective.finish=0.3", "set --objective.finish 0"),
        ("ddpm", "conditioning.entries=100", "^conditioning.entries must be 1000, .*, got 100"),
        ("ddpm", "sampled_on=linear sampled_on.entries=500 grid.entries=1000", "^grid.entries must be 500"),
        ("edm", "objective.weight.sigma_data=1", "^objective.weight.sigma_data must be 0.5"),
        ("edm", "conditioning=signal_variance", "same number at all noise levels"),
        ("iddpm", "net.outputs=1", "need --net ddpm_unet --net.outputs 2"),
        ("ddpm", "objective=consistency", "needs a continuous schedule"),
        ("fast", "objective=consistency objective.guidance=2", "ddim distill"),
        ("fast", "report.guide=0", "set --objective.guidance 1"),
        ("fast", "objective.finish=0", "set --objective.guidance 1"),
    ],
)
def test_fields_that_contradict_each_other_are_named_before_anything_begins(name, words, word):
    recipe = changed(name, words)
    with pytest.raises(UserError, match=word):
        check_training(recipe)
    # A run that was made so is read as it was made.
    assert load_recipe(dump(recipe)) == recipe


def test_edm_targets_have_unit_variance_and_weight_by_default():
    """Karras et al. 2022, appendix B.6: weight * c_out^2 = 1, with images of the deviation 1 of `fast`."""
    recipe = changed(
        "fast", "predicts=edm objective.weight=edm_weight objective.on=image objective.error=mse"
    )
    level = recipe.schedule(torch.linspace(0.01, 1, 50))
    weighted = recipe.objective.weight(level, "image") * recipe.predicts(level).out ** 2
    assert torch.allclose(weighted, torch.ones(50).double())


def test_a_run_from_weights_keeps_their_pixels():
    with pytest.raises(UserError, match="pixels must be the same"):
        check_training(changed("edm", "pixels.std=1"), find_recipe("edm"))


def test_recipes_that_give_weights_another_meaning_differ_in_a_field():
    one = find_recipe("ddpm")
    assert find_other_meaning(one, changed("ddpm", "net.dropout=0.3 optim.lr=1")) is None
    assert find_other_meaning(one, changed("ddpm", "schedule.entries=500")) == "schedule"
    assert find_other_meaning(one, find_recipe("fast")) == "net"
