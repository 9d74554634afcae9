"""`ddim sweep`: from words to a table of trials."""

import json

import pytest

import sweeping


@pytest.fixture
def counting(monkeypatch):
    """Count in place of training."""
    monkeypatch.setattr("ddim.experiments.sweep.trial_commands", sweeping.count)


@pytest.mark.usefixtures("counting")
def test_a_sweep_prints_its_trials_and_runs_lists_them(here, command):
    words = ["sweep", "blossoms:100", "--optim.lr", "0.02,0.01", "--recipe", "smoke", "--repeats", "2"]
    said = command(*words, "--jobs", "2").out.splitlines()
    assert said[0] == (
        "4 of 4 trials are finished; the lowest image_mae has optim.lr=0.01 (0.01, mean of 2 seeds)"
    )
    assert said[1] == "runs/blossoms-100-smoke-sweep-1"
    names = ["1-0.02-seed0", "2-0.02-seed1", "3-0.01-seed0", "4-0.01-seed1"]
    assert [line.split()[0] for line in said[3:]] == names
    # A worker that joins when all trials have ended says so.
    found = json.loads(command("sweep", "--out", "runs/blossoms-100-smoke-sweep-1", "--json").out)
    assert {name: outcome["exit_code"] for name, outcome in found["trials"].items()} == dict.fromkeys(
        names, 0
    )
    assert "next: ddim report" in command("sweep", "--out", found["folder"], "--details").out
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
def test_a_sweep_trains_and_evaluates_and_a_search_goes_on_after_impossible_values(here, command):
    """The number of groups, from 3 to 4, must divide the 32 channels; TensorBoard shows all runs."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    words = ["sweep", "blossoms:300", "--objective.error", "l1,mse", "--recipe", "smoke", "--images", "160"]
    found = json.loads(command(*words, "--evaluate", "20", "--out", "s", "--json").out)
    assert all(outcome["value"] > 0 for outcome in found["trials"].values())
    seen = EventMultiplexer()
    seen.AddRunsFromDirectory(str(here / "s"))
    seen.Reload()
    assert sorted(seen.Runs()) == ["trials/1-l1-seed0", "trials/2-mse-seed0"]
    words = ["sweep", "blossoms:100", "--recipe", "smoke", "--images", "32", "--net.norm_groups", "3..4"]
    found = json.loads(command(*words, "--search", "4", "--out", "t", "--json", code=1).out)
    assert {outcome["exit_code"] for outcome in found["trials"].values()} == {0, 2}
