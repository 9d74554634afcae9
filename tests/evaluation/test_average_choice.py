"""Choosing the average of the weights: what is measured, what is kept, and that it is never worse."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import ddim
import tiny
from ddim.errors import UserError
from ddim.evaluation.average_choice import COLUMNS, LARGEST_ERROR, open_averages, pick_average
from ddim.metrics.kid import kid
from ddim.nn.ema import Exponential
from ddim.runs import checkpoint
from ddim.runs.averages import read_stored
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import load
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training.run import open_split
from stubs import stub


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 40 updates with four snapshots, whose default average is wide."""
    recipe = tiny.recipe(data__source="blossoms:60", data__size=16, data__validation="0.5", images=160)
    recipe = replace(recipe, report=replace(recipe.report, snapshots=4, validation_images=30))
    return tiny.train_with_snapshots(recipe, tmp_path_factory.mktemp("trained") / "run", first=4)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_the_default_is_measured_as_in_the_log_of_the_run(run):
    choice = pick_average(run)
    logged = [line["image_mae"] for line in tiny.metrics(run) if "image_mae" in line]
    default, *others = choice.rows
    assert default["validation_error"] == pytest.approx(logged[-1], rel=1e-6)
    assert default["width"] == pytest.approx(0.1, rel=1e-3)
    assert (default["difference"], default["low"], default["high"]) == (0, 0, 0)
    assert len({row["width"] for row in choice.rows}) == len(choice.rows) > 4
    assert all(row["reconstruction_error"] <= LARGEST_ERROR for row in others)
    assert all(open_averages(run).combine(width).error > LARGEST_ERROR for width in choice.left_out)
    assert {0.02, 0.25} & set(choice.left_out)


def test_the_best_average_is_kept_and_never_worse_than_the_default(run):
    choice = pick_average(run)
    values = [row["validation_error"] for row in choice.rows]
    # In a run that has just begun, the newest weights are the best: a narrow average beats the wide default.
    assert min(values) < values[0]
    assert choice.best["width"] < 0.1
    assert read_stored(choice.average.folder) == choice.average.facts
    assert choice.average.facts.width == choice.best["width"]
    assert choice.average.facts.choice == choice.rows
    # Measured again, the kept average has the value in the table.
    again = pick_average(load(run, "picked"), widths=[choice.best["width"]], name="again")
    assert again.rows[1]["validation_error"] == pytest.approx(min(values), rel=1e-6)
    for name, value in load(run, "picked").model.state_dict().items():
        assert torch.equal(value, load(run, "again").model.state_dict()[name])


def test_the_default_is_kept_if_nothing_is_better(run):
    """Averages over the whole run hold its first weights, which are bad."""
    choice = pick_average(run, widths=[0.28, 0.2])
    assert choice.best is choice.rows[0]
    assert "the default average is the best" in repr(choice)
    own = checkpoint.read_tensors(checkpoint.find_newest(run / "checkpoints"), "ema/default")
    kept = checkpoint.read_tensors(choice.average.folder, "average")
    assert tiny.different(kept, own) == []


def test_differences_are_those_of_the_values_and_paired(run):
    choice = pick_average(run, widths=[0.05, 0.2])
    values = [row["validation_error"] for row in choice.rows]
    for row, value in zip(choice.rows, values, strict=True):
        assert row["difference"] == pytest.approx(value - values[0], abs=1e-12)
        assert row["low"] <= row["difference"] <= row["high"]
    # The errors of single images differ far more than their differences between two averages.
    assert choice.rows[1]["high"] - choice.rows[1]["low"] < 0.2 * values[0]


def test_kid_of_samples_decides_if_by_is_kid(run, monkeypatch):
    monkeypatch.setattr("ddim.evaluation.average_choice.load_extractor", stub)
    choice = pick_average(run, "kid", widths=[0.05, 0.2], n=24)
    parts = open_split(load(run).recipe)
    real = torch.from_numpy(np.array(parts.images.pixels[parts.validation])).permute(0, 3, 1, 2)
    images, _ = generate(SamplingSetup(load(run), 2), range(2**31, 2**31 + 24))
    wanted = kid(stub()((images * 255).round().byte()).numpy(), stub()(real).numpy()).value
    assert choice.rows[0]["kid"] == pytest.approx(wanted, abs=1e-9)
    assert choice.average.facts.width == choice.best["width"]
    values = [row["kid"] for row in choice.rows]
    assert [row["difference"] for row in choice.rows] == pytest.approx(np.subtract(values, values[0]))
    assert COLUMNS[choice.by] == "kid"


def test_a_loaded_run_keeps_its_weights(run):
    loaded = load(run)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    pick_average(loaded, widths=[0.05])
    assert tiny.different(loaded.model.state_dict(), before) == []


def test_a_default_of_another_kind_is_a_candidate_without_a_width(tmp_path, monkeypatch):
    monkeypatch.setattr("ddim.nn.power_averages.FIRST", 2)
    recipe = replace(tiny.recipe(data__size=16, report__snapshots=4), ema=Exponential(0.9))
    choice = pick_average(tiny.train(recipe, tmp_path / "run"))
    assert choice.rows[0]["width"] is None
    assert {round(row["width"], 3) for row in choice.rows[1:]} >= {0.05, 0.1}
    assert "width" in repr(choice)


def test_impossible_choices_are_refused(run):
    with pytest.raises(UserError, match="by must be validation or kid, got 'fid'"):
        pick_average(run, "fid")
    with pytest.raises(UserError, match="width must be above 0 and at most 0.289"):
        pick_average(run, widths=[0.1, 0.5])
    with pytest.raises(UserError, match="name of an average must be a plain word"):
        pick_average(run, name="ema")
    assert not (run / "averages" / "picked").exists()


def test_samples_of_the_picked_average_are_named_in_their_record(run):
    choice = pick_average(run, widths=[0.05])
    record = ddim.sampling.record.sampling_record(SamplingSetup(load(run, "picked"), 2), [0])
    assert record["weights"] == "picked"
    found = ddim.sampling.record.sample_conditions(record)
    assert found["average"] == {"sha256": checkpoint.hash_checkpoint(choice.average.folder)}
    pick_average(run, widths=[0.06])
    again = ddim.sampling.record.sampling_record(SamplingSetup(load(run, "picked"), 2), [0])
    assert ddim.sampling.record.sample_conditions(again)["average"] != found["average"]


def test_a_compiled_run_is_refused_because_its_program_holds_the_weights(run):
    """Otherwise, every width would have the value of the weights that were compiled first."""
    loaded = load(run)
    with pytest.raises(UserError, match="loaded with torch.compile.*: load the run without compiling"):
        pick_average(replace(loaded, runtime=replace(loaded.runtime, compile=True)))
    assert not (run / "averages" / "picked").exists()
