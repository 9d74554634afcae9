"""Averages of the weights after training: which are reconstructed, stored, measured and kept."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import ddim
import tiny
from damage import damage_file, flip_bit
from ddim.errors import UserError
from ddim.evaluation.averages import LARGEST_ERROR, Averages
from ddim.files import lock_folder
from ddim.metrics.kid import kid
from ddim.nn.ema import Exponential
from ddim.nn.power_averages import GAMMAS, relative_width
from ddim.runs import checkpoint, names
from ddim.runs.averages import list_stored, read_stored
from ddim.sampling.generate import generate
from ddim.sampling.pipeline import load
from ddim.sampling.record import sample_conditions, sampling_record
from ddim.sampling.sampling_setup import SamplingSetup
from ddim.training import resume
from ddim.training.run import open_split
from stubs import stub


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 80 updates with snapshots of steps 21, 26, 32, 41, 51 and 64, which tracks more averages."""
    fields = {"data__source": "blossoms:60", "data__size": 16, "data__validation": "0.5"}
    recipe = tiny.recipe(**fields, images=640, report__snapshots=6, ema__more="16.97,13.6342,4")
    recipe = replace(recipe, report=replace(recipe.report, validation_images=30))
    return tiny.train_with_snapshots(recipe, tmp_path_factory.mktemp("trained") / "run", first=8)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run."""
    return shutil.copytree(trained, tmp_path / "run")


def tracked(run, name):
    return checkpoint.read_tensors(names.find_checkpoint(run), f"ema/{name}")


def distance(one, other):
    """The relative distance of two averages."""
    total = sum((one[name] - other[name]).double().square().sum() for name in other)
    return (total / sum(value.double().square().sum() for value in other.values())).sqrt().item()


def tensors(found):
    return checkpoint.read_tensors(found.folder, "average")


def test_the_average_of_a_tracked_width_is_the_tracked_one(run):
    """Also of the third and the fourth power that this run tracks."""
    for gamma, name in ((6.94, "default"), (16.97, "16.97"), (13.6342, "13.6342"), (4.0, "4")):
        found = ddim.ema(run, relative_width(gamma))
        assert read_stored(found.folder).error < 1e-6
        assert distance(tensors(found), tracked(run, name)) < 1e-6


def test_another_width_is_near_to_the_average_that_was_tracked(trained):
    """Without the fourth average, the snapshots of two powers and the default must do."""
    few = Averages(trained)
    few.names = {gamma: name for gamma, name in few.names.items() if gamma in GAMMAS}
    apart = distance(tracked(trained, "16.97"), tracked(trained, "default"))
    for gamma, name in ((13.6342, "13.6342"), (4.0, "4")):
        average = few.reconstruct(relative_width(gamma)).compute()
        assert distance(average, tracked(trained, name)) < 0.05 * apart


def test_a_stored_average_is_loaded_by_its_name_and_named_in_records(run):
    found = ddim.ema(run, 0.08)
    assert found.folder == run / "averages" / "width-0.08"
    assert read_stored(found.folder).snapshots == (21, 26, 32, 41, 51, 64)
    loaded = load(found.options["model"])
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in tensors(found).items())
    sha256 = checkpoint.hash_checkpoint(found.folder)
    assert (loaded.describe()["weights"], loaded.describe()["average"]) == ("width-0.08", {"sha256": sha256})
    known = "ema, raw, 16.97, 13.6342, 4, guide, width-0.08"
    with pytest.raises(UserError, match=f"{known}, or a step \\(40, 80\\)"):
        load(run, "picked")
    # A later average of the same name replaces it, and conditions of samples tell them apart.
    condition = lambda: sample_conditions(sampling_record(SamplingSetup(load(run, "picked"), 2), [0]))
    averages = []
    for width in (0.05, 0.06):
        assert read_stored(ddim.ema(run, width, pick="validation").folder).width == width
        averages.append(condition()["average"])
    assert averages[0] != averages[1]


def test_damaged_snapshots_and_averages_are_named_and_not_used(run):
    folder = ddim.ema(run, 0.08).folder
    whole = read_stored(folder)
    damage_file(run / "averages" / "snapshots" / "step-000000051" / "6.94.safetensors", flip_bit)
    with pytest.warns(UserWarning, match=r"step-000000051 is damaged: 6\.94.*not used"):
        average = read_stored(ddim.ema(run, 0.08).folder)
    assert average.snapshots == (21, 26, 32, 41, 64)
    assert average.error > whole.error
    damage_file(folder / "average.safetensors", flip_bit)
    with pytest.raises(checkpoint.Damaged, match=r"average\.safetensors: its bytes have changed"):
        load(run, "width-0.08")
    damage_file(folder / "average.json", flip_bit)
    with pytest.raises(checkpoint.Damaged, match="width-0.08 is damaged"):
        load(run, "width-0.08")
    with pytest.warns(UserWarning, match="width-0.08 is damaged.*it is not used"):
        assert list_stored(run) == {}


def test_an_average_belongs_to_the_checkpoint_it_was_made_from(run):
    older = sorted((run / "checkpoints").glob("step-*"))[0]
    assert list(Averages(older).snapshots) == [21, 26, 32]
    ddim.ema(run, 0.08)
    old = names.find_checkpoint(run)
    resume(run, images=720)
    with pytest.raises(UserError, match="belongs to its checkpoint of step 80"):
        load(run, "width-0.08")
    assert load(old, "width-0.08").checkpoint.state.step == 80


def test_no_average_is_stored_while_the_run_is_training(run):
    with lock_folder(run), pytest.raises(UserError, match="is still training"):
        ddim.ema(run, pick="validation")
    assert list_stored(run) == {}


def test_the_list_has_all_widths_with_their_errors(run):
    ddim.ema(run, 0.09)
    found = ddim.ema(run)
    errors = {round(row["width"], 3): row["reconstruction_error"] for row in found.rows}
    assert errors[0.05] < 1e-6 > errors[0.1]
    assert errors[0.02] > errors[0.03] > errors[0.04]
    assert (found.rows[-1]["stored"], found.rows[-1]["width"]) == ("width-0.09", 0.09)


def test_the_best_average_is_kept_and_never_worse_than_the_default(run):
    found = ddim.ema(run, pick="validation")
    default, *others = found.rows
    logged = [line["image_mae"] for line in tiny.metrics(run) if "image_mae" in line]
    assert default["validation_error"] == pytest.approx(logged[-1], rel=1e-6)
    assert len({row["width"] for row in found.rows}) == len(found.rows) > 4
    assert all(row["reconstruction_error"] <= LARGEST_ERROR for row in others)
    values = [row["validation_error"] for row in found.rows]
    for row, value in zip(found.rows, values, strict=True):
        assert row["difference"] == pytest.approx(value - values[0], abs=1e-7)
        assert row["low"] <= row["difference"] <= row["high"]
        # The errors of single images differ far more than their differences between two averages.
        assert row["high"] - row["low"] < 0.2 * values[0]
    # In a run that has just begun, the newest weights are the best: a narrow average beats the wide default.
    assert min(values) < values[0]
    average = read_stored(found.folder)
    assert values.index(min(values)) == [row["width"] for row in found.rows].index(average.width)
    assert average.choice == tuple(found.rows)
    # Measured again, the kept average has the value in the table.
    kept = tensors(found)
    again = ddim.ema(f"{run}@picked", average.width, pick="validation")
    assert again.rows[1]["validation_error"] == pytest.approx(min(values), rel=1e-6)
    assert tiny.different(tensors(again), kept) == []


def test_the_default_is_kept_if_nothing_is_better(run):
    """Averages over the whole run hold its first weights, which are bad."""
    found = ddim.ema(run, [0.28, 0.2], pick="validation")
    assert found.verdict.startswith("the default average is the best")
    assert tiny.different(tensors(found), tracked(run, "default")) == []


def test_kid_of_samples_decides_if_it_is_asked_for(run, monkeypatch):
    monkeypatch.setattr("ddim.evaluation.search.load_extractor", stub)
    found = ddim.ema(run, [0.05, 0.2], pick="kid", n=24)
    parts = open_split(load(run).recipe)
    real = torch.from_numpy(np.array(parts.images.pixels[parts.validation])).permute(0, 3, 1, 2)
    images, _ = generate(SamplingSetup(load(run), 2), range(2**31, 2**31 + 24))
    wanted = kid(stub()((images * 255).round().byte()).numpy(), stub()(real).numpy()).value
    values = [row["kid"] for row in found.rows]
    assert values[0] == pytest.approx(wanted, abs=1e-9)
    assert read_stored(found.folder).width == found.rows[values.index(min(values))]["width"]
    assert [row["difference"] for row in found.rows] == pytest.approx(np.subtract(values, values[0]))


def test_a_default_of_another_kind_is_a_candidate_without_a_width(tmp_path):
    recipe = replace(tiny.recipe(data__size=16, report__snapshots=4), ema=Exponential(0.9))
    found = ddim.ema(tiny.train_with_snapshots(recipe, tmp_path / "run", first=2), pick="validation")
    assert found.rows[0]["width"] is None
    assert {round(row["width"], 3) for row in found.rows[1:]} >= {0.05, 0.1}
