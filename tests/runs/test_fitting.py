"""A recipe in a run folder asks for no more memory or time than its weights have."""

import json

import pytest
import torch

from ddim.errors import UserError
from ddim.nn.networks import UserNetwork
from ddim.recipe.recipe import build_model
from ddim.runs import checkpoint
from ddim.runs.checkpoint import Damaged
from ddim.runs.model import build_fitting_model, build_on_meta
from ddim.sampling.pipeline import load
from oracles import made
from untrained import recipe, run_of


def rewritten(run, change):
    """Change the recipe of a run, under a new manifest."""
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
        {"blocks": 10**8},
        {"multipliers": [1] * 10**5, "attention": [False] * 10**5},
        {"classes": 10**12},
        {"outputs": 10**12},
        {"kind": "dit", "depth": 10**9, "width": 64, "heads": 1},
        {"kind": "unet"},
    ],
)
def test_a_recipe_that_asks_for_more_than_its_weights_is_refused(net, tmp_path):
    def change(documents):
        old = documents["recipe"]["net"]
        documents["recipe"]["net"] = {**(old if "kind" not in net else {}), **net}

    with pytest.raises(UserError, match="larger than its weights|does not fit its recipe|net.attention"):
        load(rewritten(run_of(recipe(), tmp_path), change))


def test_channels_that_no_image_has_are_refused(tmp_path):
    reason = "larger than its weights|does not fit its recipe|is not the state of a run"
    for channels in (10**12, "x", None, -1):
        with pytest.raises(UserError, match=reason):
            load(rewritten(run_of(recipe(), tmp_path), lambda d, c=channels: d["state"].update(channels=c)))


def test_a_billion_threads_are_refused(tmp_path):
    """OpenMP ends the process if it cannot have the memory of so many."""
    with pytest.raises(Damaged, match="threads must be at least 1 and at most"):
        load(rewritten(run_of(recipe(), tmp_path), lambda d: d["state"]["runtime"].update(threads=10**9)))


def test_every_network_that_fits_is_built_on_meta():
    from small_recipes import make_small

    for name in ("fast", "dit", "luz", "clear", "iddpm", "edm"):
        chosen = make_small(name)
        real, meta = made(lambda chosen=chosen: build_model(chosen, 3)), None
        meta = build_on_meta(chosen, 3, len(real.state_dict()), "x")
        shapes = {key: value.shape for key, value in real.state_dict().items()}
        assert {key: value.shape for key, value in meta.state_dict().items()} == shapes
        assert {value.device.type for value in meta.state_dict().values()} == {"meta"}


def test_a_missing_weight_is_named(tmp_path):
    model = made(lambda: build_model(recipe(), 3))
    build_fitting_model(tmp_path, recipe(), 3, model.state_dict())
    weights = {name: value for name, value in model.state_dict().items() if "out_conv.bias" not in name}
    with pytest.raises(Damaged, match="out_conv.bias is missing"):
        build_fitting_model(tmp_path, recipe(), 3, weights)


def test_a_network_of_the_user_is_compared_when_it_is_built(tmp_path):
    from dataclasses import replace

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            # This needs a value, which a tensor on the device "meta" does not have.
            self.scale = torch.nn.Parameter(torch.ones(int(torch.tensor(3).item())))

        def forward(self, x, told, label=None):
            return x * self.scale[:, None, None]

    chosen = replace(recipe(), net=UserNetwork(Own))
    model = build_model(chosen, 3)
    assert (
        build_fitting_model(tmp_path, chosen, 3, model.state_dict()).state_dict().keys()
        == model.state_dict().keys()
    )
    with pytest.raises(Damaged, match="scale is missing or of another shape"):
        build_fitting_model(tmp_path, chosen, 3, {"net.scale": torch.ones(2)})
