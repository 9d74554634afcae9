"""A training that recomputes activations is the same training."""

import json
from dataclasses import replace

import pytest
import torch

import tiny
from ddim.data import split_images
from ddim.machine.runtime import Runtime
from ddim.recipe.codec import override
from ddim.runs import checkpoint
from ddim.runs.state import Plan
from ddim.sampling.pipeline import load_state
from ddim.training import resume
from ddim.training.start import measure_pixels
from ddim.training.trainer import Trainer
from quick_net import QuickNet

RECIPES = {
    "batch norm": tiny.recipe("batch norm"),
    "dropout": override(tiny.recipe("group norm", optim__accumulate=2), {"net.dropout": 0.3}),
    "layer norm": tiny.recipe("layer norm"),
}


def train(recipe, runtime, updates=4):
    """Return the losses and all tensors of a training after some updates."""
    parts = split_images(tiny.images(), recipe.data.validation, recipe.seed)
    run = Trainer(recipe, parts, measure_pixels(recipe, parts), runtime, Plan(recipe.images))
    losses = [run.advance()["loss"] for _ in range(updates)]
    return losses, tiny.bits(run)


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_that_recomputes_is_the_same_bits(name):
    recipe = RECIPES[name]
    (losses, plain), (others, again) = (train(recipe, Runtime(recompute=choice)) for choice in (False, True))
    assert losses == others
    assert tiny.different(plain, again) == []


def test_a_run_records_that_it_recomputes_and_keeps_it_when_it_is_resumed(whole, tmp_path):
    machine = replace(tiny.MACHINE, recompute=True)
    stop = tiny.At(4, lambda training: training.stop())
    run = tiny.train(tiny.recipe(), tmp_path / "run", machine=machine, callbacks=[stop])
    assert json.loads((run / "run.json").read_text())["runtime"]["recompute"] is True
    resume(run)
    assert load_state(checkpoint.find_newest(run / "checkpoints")).runtime.recompute
    tiny.check_same_run(run, whole)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is")  # of the compiler itself
def test_a_compiled_training_that_recomputes_uses_the_same_masks_in_both_passes():
    (losses, plain), (others, again) = (
        train(replace(tiny.BASE, net=QuickNet), Runtime(compile=True, recompute=choice))
        for choice in (False, True)
    )
    assert others == pytest.approx(losses, rel=1e-5)
    for key, value in plain.items():
        torch.testing.assert_close(again[key], value, rtol=1e-4, atol=1e-5)
