"""Callers that have turned gradients off: what needs gradients records them, and their mode comes back."""

import torch

import ddim
import ddim.experiments.plan
import tiny


def test_runs_are_trained_planned_and_measured_in_inference_mode(tmp_path, monkeypatch):
    monkeypatch.setattr(ddim.experiments.plan, "SECONDS", 0.1)
    recipe = tiny.recipe(images=16, schedule="linear_beta", data__size=8)
    with torch.inference_mode():
        ddim.plan(None, recipe, minutes=1, machine=tiny.MACHINE)
        run = tiny.train(recipe, tmp_path / "run")
        ddim.resume(run, images=24)
        ddim.distill(run, images=8, out=tmp_path / "student", machine=tiny.MACHINE)
        pipeline = ddim.load(run)
        ddim.diagnose(pipeline, n=2, levels=2)
        bits = ddim.likelihood(pipeline, method="ode", n=2, steps=1).bits
    assert torch.equal(ddim.likelihood(run, method="ode", n=2, steps=1).bits, bits)
