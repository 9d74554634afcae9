"""Bits per dimension: the record of a measurement, its bins, and the noise levels at which it begins."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import ddim
import tiny
from ddim.diffusion.loss import Hybrid
from ddim.diffusion.oracles import Gaussian
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Linear, LinearBeta
from ddim.diffusion.times import TableTimes, UniformTimes
from ddim.errors import UserError
from ddim.evaluation.likelihood import likelihood, measure_bits
from ddim.files import read_sealed
from ddim.machine.runtime import Runtime
from ddim.runs import checkpoint, names
from ddim.sampling.pipeline import Pipeline
from oracles import Asked, normal


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a network that learns its variance."""
    recipe = replace(
        tiny.BASE, net=tiny.VARIANCE, objective=Hybrid(times=TableTimes(100)), schedule=LinearBeta()
    )
    return tiny.train(recipe, tmp_path_factory.mktemp("run") / "one")


@pytest.mark.parametrize(("method", "steps", "nfe"), [("vlb", 8, 8), ("ode", 3, 12)])
def test_the_record_has_the_bits_of_each_image_and_the_settings(method, steps, nfe, run):
    # Numbers of NumPy are written as plain numbers.
    found = likelihood(run, method=method, n=3, steps=np.int64(steps), seed=np.int64(1))
    record = read_sealed(found.folder / "record.json")
    assert json.loads(json.dumps(found.record)) == record
    each = record["bits"]["each"]
    mean = sum(each) / 3
    assert record["bits"]["value"] == pytest.approx(mean)
    spread = math.sqrt(sum((one - mean) ** 2 for one in each) / 2)
    assert record["bits"]["error"] == pytest.approx(spread / math.sqrt(3))
    assert (record["kind"], record["method"], record["nfe"]) == ("likelihood", method, nfe)
    assert (record["steps"], record["seeds"]) == (steps, [1, 3])
    assert record["variance"] == ("learned" if method == "vlb" else None)
    assert record["reference"]["part"] == "valid"
    assert len(set(record["reference"]["images"])) == 3
    newest = names.find_checkpoint(run)
    assert record["checkpoint"]["sha256"] == checkpoint.hash_checkpoint(newest)
    # A second measurement gives the same bits, in a new folder. Fewer images are the first of more.
    again = likelihood(run, method=method, n=2, steps=steps, seed=1)
    assert again.folder != found.folder
    assert again.bits.tolist() == pytest.approx(each[:2], rel=1e-4)


def test_the_steps_on_a_tabulated_schedule_are_at_most_its_entries(tmp_path):
    table = Linear(30, 1e-4, 0.5, clip="none", read="log_snr")
    run = tiny.train(replace(tiny.BASE, schedule=table, images=8), tmp_path / "run")
    assert likelihood(run, n=1).record["steps"] == 30


def test_a_learned_variance_is_used_only_if_a_loss_trained_it(run, tmp_path):
    """If no loss trained the predicted variance, the fixed one is used."""
    old = shutil.copytree(run, tmp_path / "run")
    newest = names.find_checkpoint(old)
    recipe = checkpoint.read_document(newest, "recipe") | {"objective": {"kind": "objective"}}
    tensors = {name: checkpoint.read_tensors(newest, name) for name in ("model", "ema/default")}
    state = checkpoint.read_document(newest, "state")
    checkpoint.save(old / "checkpoints", state["step"] + 1, tensors, {"state": state, "recipe": recipe})
    learned, fixed = (likelihood(folder, n=1, steps=5).record for folder in (run, old))
    assert (learned["variance"], fixed["variance"]) == ("learned", "large")
    assert learned["bits"]["value"] != pytest.approx(fixed["bits"]["value"], rel=1e-3)


@pytest.mark.parametrize("dequantise", [False, True])
def test_the_bits_use_the_bins_that_the_run_was_trained_with(dequantise):
    """The pixels are dark, with a spread hardly wider than a bin.

    The bin of value v is centred at v / 255, or goes from v / 256 to (v + 1) / 256 with dequantisation. The
    bound exceeds the exact bits by the information on the place within a bin.
    """
    n, mean, std = 1000, 0.03, 1.2 / 256
    x = mean + std * normal(n, 1, 1, 2)
    values = (256 * x).floor() if dequantise else (255 * x).round()
    edges = [(values + k) / 256 if dequantise else (values + k - 0.5) / 255 for k in (0, 1)]
    low, high = (torch.special.ndtr((edge - mean) / std) for edge in edges)
    exact = -(high - low).log2().flatten(1).mean(1)
    recipe = replace(tiny.BASE, data=replace(tiny.BASE.data, dequantise=dequantise))
    law = Gaussian(LinearBeta(), (mean - 0.04) / 0.01, std / 0.01)
    trained = Pipeline(law, Pixels.fixed(0.04, 0.01, 1), recipe, Runtime())
    apart = measure_bits(trained, law, values.byte(), "ode", 30, range(n)) - exact
    assert 0 < apart.mean() < 0.08


@pytest.mark.parametrize("method", ["vlb", "ode"])
def test_bits_begin_at_the_earliest_training_time(method):
    objective = replace(tiny.BASE.objective, times=UniformTimes(0.002))
    recipe = replace(tiny.BASE, schedule=LinearBeta(), objective=objective)
    law, values = Asked(Gaussian(LinearBeta())), torch.full((2, 1, 4, 4), 128, dtype=torch.uint8)
    measure_bits(
        Pipeline(law, Pixels.fixed(0.5, 0.5, 1), recipe, Runtime()), law, values, method, 5, range(2)
    )
    assert min(law.times) == pytest.approx(0.002, rel=0.01)


def test_images_from_elsewhere_are_measured_and_unknown_words_are_refused(run):
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), np.uint8)
    found = likelihood(run, torch.from_numpy(images), steps=3)
    assert (found.record["reference"]["part"], len(found.bits)) == ("all", 6)
    with pytest.raises(UserError, match="method must be one of vlb, ode, got 'ODE'; perhaps you meant ode"):
        likelihood(run, method="ODE")


@pytest.mark.parametrize("ask", [likelihood, ddim.memorisation, ddim.search])
def test_a_count_below_one_is_refused(run, ask):
    for n in (0, -3):
        with pytest.raises(UserError, match=f"n must be at least 1 and at most 1,000,000, got {n}"):
            ask(run, n=n)
