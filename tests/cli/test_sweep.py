"""`ddim sweep`: from words to a table of trials."""

import json

import pytest

import sweeping


def test_a_sweep_prints_its_trials_and_runs_lists_them(here, command, monkeypatch):
    monkeypatch.setattr("ddim.experiments.sweep.trial_commands", sweeping.count)
    words = ["sweep", "blossoms:100", "--optim.lr", "0.02,0.01", "--recipe", "smoke", "--repeats", "2"]
    said = command(*words, "--jobs", "2").out
    best = "the best is optim.lr 0.01, with image_mae 0.0100 ± 0.0000"
    names = ["1-0.02-seed0", "2-0.02-seed1", "3-0.01-seed0", "4-0.01-seed1"]
    assert " ".join(said.split()).startswith(f"4 of 4 trials are finished, 0 failed; {best}")
    joined = json.loads(command("sweep", "--out", "runs/blossoms-100-smoke-sweep-1", "--json").out)
    assert [(run["name"], run["state"]) for run in joined["trials"]] == [(name, "finished") for name in names]
    rows = [row.split("\t") for row in command("runs").out.splitlines()]
    assert [row[0].split("/")[-1] for row in rows[1:]] == names
    assert {row[rows[0].index("state")] for row in rows[1:]} == {"finished"}


@pytest.mark.slow
def test_a_sweep_trains_and_evaluates(here, command):
    words = ["sweep", "blossoms:300", "--objective.error", "l1,mse", "--recipe", "smoke", "--images", "160"]
    found = json.loads(command(*words, "--evaluate", "20", "--out", "s", "--json").out)
    assert all(run["metrics"]["kid"] > 0 for run in found["trials"])
