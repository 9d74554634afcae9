"""Stored averages of a run: what is written, found, refused and skipped."""

import shutil
from dataclasses import replace

import pytest
import torch

import tiny
from damage import damage_file, flip_bit
from ddim.errors import UserError
from ddim.evaluation.average_choice import list_averages, open_averages, reconstruct_average
from ddim.nn.power_averages import GAMMAS, relative_width
from ddim.runs import checkpoint
from ddim.runs.averages import list_stored, read_stored
from ddim.sampling.pipeline import load
from ddim.training import resume


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 80 updates with snapshots of steps 21, 26, 32, 41, 51 and 64, which tracks more averages."""
    recipe = tiny.recipe(images=640, report__snapshots=6, ema__more="16.97,13.6342,4")
    return tiny.train_with_snapshots(recipe, tmp_path_factory.mktemp("trained") / "run", first=8)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def tracked(run, name):
    return checkpoint.read_tensors(checkpoint.find_newest(run / "checkpoints"), f"ema/{name}")


def distance(one, other):
    """The relative distance of two averages."""
    total = sum((one[name] - other[name]).double().square().sum() for name in other)
    return (total / sum(value.double().square().sum() for value in other.values())).sqrt().item()


def tensors(average):
    return checkpoint.read_tensors(average.folder, "average")


def test_the_average_of_a_tracked_width_is_the_tracked_one(run):
    """Also of the third and the fourth power that this run tracks."""
    for gamma, name in ((6.94, "default"), (16.97, "16.97"), (13.6342, "13.6342"), (4.0, "4")):
        average = reconstruct_average(run, relative_width(gamma), name="own")
        assert average.facts.error < 1e-6
        assert distance(tensors(average), tracked(run, name)) < 1e-6


def test_another_width_is_near_to_the_average_that_was_tracked(trained):
    """Without the fourth average, the snapshots of two powers and the default must do."""
    whole = open_averages(trained)
    few = replace(whole, names={gamma: name for gamma, name in whole.names.items() if gamma in GAMMAS})
    apart = distance(tracked(trained, "16.97"), tracked(trained, "default"))
    for gamma, name in ((13.6342, "13.6342"), (4.0, "4")):
        tensors, _ = few.reconstruct(relative_width(gamma))
        assert distance(tensors, tracked(trained, name)) < 0.05 * apart


def test_a_stored_average_is_loaded_by_its_name_and_named_in_records(run):
    average = reconstruct_average(run, 0.08)
    assert (average.name, average.folder) == ("width-0.08", run / "averages" / "width-0.08")
    assert average.facts.snapshots == (21, 26, 32, 41, 51, 64)
    assert read_stored(average.folder) == average.facts
    loaded = load(run, "width-0.08")
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in tensors(average).items())
    assert loaded.describe()["weights"] == "width-0.08"
    assert loaded.describe()["average"] == {"sha256": checkpoint.hash_checkpoint(average.folder)}
    with pytest.raises(UserError, match="ema, raw, 16.97, 13.6342, 4, width-0.08, or a step \\(40, 80\\)"):
        load(run, "picked")


def test_a_later_average_of_the_same_name_replaces_the_earlier_one(run):
    for width in (0.08, 0.12):
        reconstruct_average(run, width, name="mine")
        assert {name: facts.width for name, facts in list_stored(run).items()} == {"mine": width}


def test_a_damaged_snapshot_is_named_and_not_used(run):
    whole = reconstruct_average(run, 0.08).facts
    damage_file(run / "averages" / "snapshots" / "step-000000051" / "6.94.safetensors", flip_bit)
    with pytest.warns(UserWarning, match=r"step-000000051 is damaged: 6\.94.*not used"):
        facts = reconstruct_average(run, 0.08).facts
    assert facts.snapshots == (21, 26, 32, 41, 64)
    assert facts.error > whole.error


def test_a_damaged_average_is_not_loaded(run):
    average = reconstruct_average(run, 0.08)
    damage_file(average.folder / "average.safetensors", flip_bit)
    with pytest.raises(checkpoint.Damaged, match=r"average\.safetensors: its bytes have changed"):
        load(run, "width-0.08")
    damage_file(average.folder / "average.json", flip_bit)
    with pytest.raises(checkpoint.Damaged, match="width-0.08 is damaged"):
        load(run, "width-0.08")
    with pytest.warns(UserWarning, match="width-0.08 is damaged.*it is not used"):
        assert list_stored(run) == {}
    assert len(checkpoint.list_steps(run / "checkpoints")) == 2


def test_an_average_belongs_to_the_checkpoint_it_was_made_from(run):
    reconstruct_average(run, 0.08)
    old = checkpoint.find_newest(run / "checkpoints")
    resume(run, images=720)
    with pytest.raises(UserError, match="belongs to its checkpoint of step 80"):
        load(run, "width-0.08")
    assert load(old, "width-0.08").checkpoint.state.step == 80


def test_earlier_checkpoints_use_earlier_snapshots_only(run):
    older = sorted((run / "checkpoints").glob("step-*"))[0]
    assert [one.step for one in open_averages(older).snapshots] == [21, 26, 32]
    with pytest.raises(UserError, match="no snapshots"):
        open_averages(older.rename(run.parent / "alone"))


@pytest.mark.parametrize("name", ["ema", "snapshots", "best", "a/b", "..", "", "0.99", "power-3"])
def test_a_name_with_another_meaning_is_refused(name, trained):
    with pytest.raises(UserError, match="the name of an average must be a plain word"):
        reconstruct_average(trained, 0.08, name=name)


def test_the_list_has_all_widths_with_their_errors(run):
    reconstruct_average(run, 0.08)
    rows = list_averages(run)
    errors = {round(row["width"], 3): row["reconstruction_error"] for row in rows.to_records()}
    assert errors[0.05] < 1e-6 > errors[0.1]
    assert errors[0.02] > errors[0.03] > errors[0.04]
    assert rows.size == sum(path.stat().st_size for path in run.rglob("snapshots/*/*"))
    assert "stored averages: width-0.08" in repr(rows)
