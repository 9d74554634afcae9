"""`ddim sweep`: from words to a table of trials."""

import json

import pytest

import sweeping
from ddim.experiments.sweep import trial_commands


@pytest.fixture
def counting(monkeypatch):
    """Count in place of training."""
    monkeypatch.setattr("ddim.experiments.sweep.trial_commands", sweeping.count)


@pytest.mark.usefixtures("counting")
def test_a_sweep_prints_its_trials_and_runs_lists_them(here, command):
    words = ["sweep", "blossoms:100", "--optim.lr", "0.02,0.01", "--recipe", "smoke", "--repeats", "2"]
    said = command(*words, "--jobs", "2").out.splitlines()
    assert said[0] == (
        "4 of 4 trials are finished; the best is optim.lr=0.01, with a validation error of 0.01, "
        "the mean of 2 seeds"
    )
    assert said[1].startswith("runs/blossoms-100-smoke-sweep-1 ")
    names = ["1-0.02-seed0", "2-0.02-seed1", "3-0.01-seed0", "4-0.01-seed1"]
    assert [line.split()[0] for line in said[3:]] == names
    # A worker that joins when all trials have ended says so.
    found = json.loads(command("sweep", "--out", "runs/blossoms-100-smoke-sweep-1", "--json").out)
    assert {name: outcome["exit_code"] for name, outcome in found["trials"].items()} == dict.fromkeys(
        names, 0
    )
    assert "may be chance" in command("sweep", "--out", found["folder"], "--details").out
    rows = [row.split("\t") for row in command("runs").out.splitlines()]
    assert [row[0].split("/")[-1] for row in rows[1:]] == names
    assert {row[rows[0].index("state")] for row in rows[1:]} == {"finished"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--objective.eror", "l1,mse"], "perhaps you meant objective.error"),
        (["--optim.lr", "1e-3", "--images", "many"], "--images must be a whole number, got 'many'"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_no_folder(here, words, said, refused):
    assert said in refused("sweep", *words)
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_a_sweep_trains_and_evaluates_and_tensorboard_shows_its_runs(here, command):
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    words = ["sweep", "blossoms:300", "--objective.error", "l1,mse", "--recipe", "smoke", "--images", "160"]
    found = json.loads(command(*words, "--evaluate", "20", "--out", "s", "--json").out)
    assert all(outcome["value"] > 0 for outcome in found["trials"].values())
    seen = EventMultiplexer()
    seen.AddRunsFromDirectory(str(here / "s"))
    seen.Reload()
    assert {"trials/1-l1-seed0", "trials/2-mse-seed0"} <= set(seen.Runs())


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_search_goes_on_after_it_proposed_impossible_values(monkeypatch, command):
    """The number of groups, from 1 to 8, must divide the 32 channels, as both ends do."""

    def commands(sweep, trial, *machine):
        fits = 32 % int(trial.fields["net.groups"]) == 0
        return (sweeping.count if fits else trial_commands)(sweep, trial, *machine)

    monkeypatch.setattr("ddim.experiments.sweep.trial_commands", commands)
    words = ["sweep", "--net.groups", "1..8", "--net.width", "32", "--recipe", "ddpm", "--search", "9"]
    found = json.loads(command(*words, "--json", code=1).out)
    codes = {outcome["fields"]["net.groups"]: outcome["exit_code"] for outcome in found["trials"].values()}
    assert codes == {groups: 2 if 32 % int(groups) else 0 for groups in codes}
    assert set(codes.values()) == {0, 2}
