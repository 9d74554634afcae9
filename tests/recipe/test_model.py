"""A recipe in a run folder asks for no more memory or time than its weights have."""

import json
from dataclasses import replace

import pytest
import torch

from ddim.errors import UserError
from ddim.nn.networks import UserNetwork
from ddim.recipe.model import build_fitting_model
from ddim.recipe.recipe import build_model
from ddim.runs import checkpoint
from ddim.sampling.pipeline import load
from oracles import made
from untrained import recipe, run_of


def rewrite(run, change):
    """Change the documents of a run, under a new manifest."""
    path = run / "checkpoints" / "step-000000003"
    documents = {name: json.loads((path / f"{name}.json").read_text()) for name in ("recipe", "state")}
    tensors = {name: checkpoint.read_tensors(path, name) for name in ("model", "ema/default")}
    change(documents)
    checkpoint.save(run / "checkpoints", 3, tensors, documents)
    return run


@pytest.mark.parametrize(
    "net",
    [
        {"width": 2**22},
        {"blocks": 10**6},
        {"multipliers": [1] * 10**5, "attention": [False] * 10**5},
        {"classes": 10**12},
        {"kind": "dit", "depth": 10**9, "width": 64, "heads": 1},
        {"kind": "unet"},
    ],
)
def test_a_recipe_that_asks_for_more_than_its_weights_is_refused(net, tmp_path):
    def change(documents):
        old = documents["recipe"]["net"]
        documents["recipe"]["net"] = {**(old if "kind" not in net else {}), **net}

    with pytest.raises(UserError, match="larger than its weights|does not fit its recipe|net.attention"):
        load(rewrite(run_of(recipe(), tmp_path), change))


def test_channels_that_no_image_has_are_refused(tmp_path):
    for channels in (10**12, "x", -1):
        with pytest.raises(UserError):
            load(rewrite(run_of(recipe(), tmp_path), lambda d, n=channels: d["state"].update(channels=n)))


def test_a_missing_weight_is_named(tmp_path):
    model = made(lambda: build_model(recipe(), 3))
    state = torch.random.get_rng_state()
    built = build_fitting_model(tmp_path, recipe(), 3, model.state_dict())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, built.state_dict()[name]) for name, value in model.state_dict().items())
    weights = {name: value for name, value in model.state_dict().items() if "out_conv.bias" not in name}
    with pytest.raises(UserError, match="out_conv.bias is missing"):
        build_fitting_model(tmp_path, recipe(), 3, weights)


class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        # This needs a value, which a tensor on the device "meta" does not have.
        self.scale = torch.nn.Parameter(torch.ones(int(torch.tensor(3).item())))

    def forward(self, x, noise_level, label=None):
        return x * self.scale[:, None, None]


def test_a_network_of_the_user_is_compared_when_it_is_built(tmp_path):
    mine = replace(recipe(), net=UserNetwork(Scale))
    state = build_model(mine, 3).state_dict()
    assert build_fitting_model(tmp_path, mine, 3, state).state_dict().keys() == state.keys()
    with pytest.raises(UserError, match="scale is missing or of another shape"):
        build_fitting_model(tmp_path, mine, 3, {"net.scale": torch.ones(2)})
