"""`ddim likelihood`: its output, its record, mistakes."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from ddim.diffusion.loss import Hybrid
from ddim.diffusion.oracles import Gaussian
from ddim.diffusion.pixels import Pixels
from ddim.diffusion.schedules import Linear, LinearBeta
from ddim.diffusion.times import TableTimes, UniformTimes
from ddim.evaluation.likelihood import bits_per_dim, measure_bits, write_likelihood
from ddim.files import read_sealed
from ddim.machine.runtime import Runtime
from ddim.runs import checkpoint
from ddim.sampling.pipeline import Pipeline, load
from oracles import Asked, normal


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a network that learns its variance."""
    recipe = replace(
        tiny.BASE, net=tiny.VARIANCE, objective=Hybrid(times=TableTimes(100)), schedule=LinearBeta()
    )
    return tiny.train(recipe, tmp_path_factory.mktemp("run") / "one")


def kept(said):
    """The record that the last line names."""
    return json.loads(Path(said.rstrip().rpartition(": ")[2]).read_text())


@pytest.mark.parametrize(("method", "steps", "nfe"), [("vlb", 8, 8), ("ode", 3, 12)])
def test_the_record_has_the_bits_of_each_image_and_the_settings(method, steps, nfe, run, command):
    words = ["likelihood", run, "--method", method, "-n", 3, "--steps", steps]
    said = command(*words).out.splitlines()[-1]
    record = kept(said)
    each = record["bits"]["each"]
    mean = sum(each) / 3
    assert record["bits"]["value"] == pytest.approx(mean)
    spread = math.sqrt(sum((one - mean) ** 2 for one in each) / 2)
    assert record["bits"]["error"] == pytest.approx(spread / math.sqrt(3))
    assert (record["kind"], record["method"], record["nfe"]) == ("likelihood", method, nfe)
    assert record["variance"] == ("learned" if method == "vlb" else None)
    assert record["reference"]["part"] == "valid"
    assert len(set(record["reference"]["images"])) == 3
    assert record["checkpoint"]["sha256"] == checkpoint.hash_checkpoint(
        checkpoint.find_newest(run / "checkpoints")
    )
    assert said.startswith(f"{mean:.4f} ± ")
    # In other results, ± is half of a 95 % interval.
    assert " bits per dimension (± standard error) of " in said
    # A second measurement gives the same bits, in a new folder.
    again = command(*words).out.splitlines()[-1]
    assert again != said
    assert kept(again)["bits"] == record["bits"]


def test_numbers_of_numpy_are_written_as_plain_numbers(run, tmp_path):
    found = bits_per_dim(run, n=2, steps=np.int64(3), seed=np.int64(1))
    record = read_sealed(write_likelihood(found, load(run), tmp_path / "out") / "record.json")
    assert (record["steps"], record["seeds"]) == (3, [1, 2])


def test_fewer_images_are_the_first_of_more(run, command):
    found = []
    for n in (2, 4):
        found.append(kept(command("likelihood", run, "-n", n, "--steps", 5).out)["bits"]["each"])
    assert found[1][:2] == pytest.approx(found[0], rel=1e-4)


def test_a_mistake_is_one_sentence(run, tmp_path, refused):
    seed = tiny.train(tiny.recipe(schedule__max_signal=0.95, images=8), tmp_path / "seed")
    np.save(tmp_path / "deep.npy", np.arange(4 * 16 * 16 * 3, dtype=np.uint16).reshape(4, 16, 16, 3))
    for words, sentence in [
        ([seed], "likelihood needs a least noise sigma / alpha in training of at most 0.05"),
        ([run, "--data", tmp_path / "deep.npy"], "for 8-bit images, but"),
    ]:
        assert sentence in refused("likelihood", *words)


def test_the_steps_on_a_tabulated_schedule_are_at_most_its_entries(tmp_path, command, refused):
    table = Linear(30, 1e-4, 0.5, clip="none", read="log_snr")
    run = tiny.train(replace(tiny.BASE, schedule=table, images=8), tmp_path / "run")
    assert kept(command("likelihood", run, "-n", "1").out)["steps"] == 30
    assert "to 30 steps" in refused("likelihood", run, "-n", "1", "--steps", "31")
    assert len(list((run / "likelihoods").iterdir())) == 1


def test_a_learned_variance_is_used_only_if_a_loss_trained_it(run, tmp_path, command):
    """If no loss trained the predicted variance, the fixed one is used."""
    old, found = tmp_path / "run", {}
    shutil.copytree(run, old)
    newest = checkpoint.find_newest(old / "checkpoints")
    recipe = checkpoint.read_document(newest, "recipe")
    changed = recipe | {"objective": {"kind": "objective"}}
    tensors = {name: checkpoint.read_tensors(newest, name) for name in ("model", "ema/default")}
    state = checkpoint.read_document(newest, "state")
    checkpoint.save(old / "checkpoints", state["step"] + 1, tensors, {"state": state, "recipe": changed})
    for folder in (run, old):
        record = kept(command("likelihood", folder, "-n", "1", "--steps", "5").out)
        found[record["variance"]] = record["bits"]["value"]
    assert found.keys() == {"learned", "large"}
    assert found["learned"] != pytest.approx(found["large"], rel=1e-3)


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


@pytest.mark.parametrize(("method", "noise"), [("vlb", 0.7), ("ode", 0.25)])
def test_bits_begin_at_the_noise_of_a_bin_or_at_the_earliest_training_time(method, noise):
    schedule, values = LinearBeta(), torch.full((2, 1, 4, 4), 128, dtype=torch.uint8)
    of_a_value = schedule.inverse(2 * torch.tensor(127.5 / noise).log()).item()
    for low, least in ((0.0, of_a_value), (0.002, 0.002)):
        objective = replace(tiny.BASE.objective, times=UniformTimes(low))
        trained = Pipeline(
            Gaussian(schedule),
            Pixels.fixed(0.5, 0.5, 1),
            replace(tiny.BASE, schedule=schedule, objective=objective),
            Runtime(),
        )
        law = Asked(Gaussian(schedule))
        measure_bits(trained, law, values, method, 5, range(2))
        assert min(law.times) == pytest.approx(least, rel=0.01)


def test_all_of_foreign_images_are_measured_unless_a_part_is_named(run, tmp_path, command):
    for k in range(6):
        pixels = np.random.default_rng(k).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
    words = ["likelihood", run, "--data", tmp_path, "--steps", 3]
    said = command(*words).out
    assert kept(said)["reference"]["part"] == "all"
    assert len(kept(said)["bits"]["each"]) == 6
    assert f"of 6 images of {tmp_path}: " in said
    said = command(*words, "--part", "valid").out
    assert (kept(said)["reference"]["part"], len(kept(said)["bits"]["each"])) == ("valid", 2)
    assert "of 2 held-out images of" in said
