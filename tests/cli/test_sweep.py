"""`ddim sweep` and `ddim runs`: from words to a table."""

import json
import os
import signal
import subprocess
import sys

import pytest

import sweeping
from ddim.experiments.sweep.folder import read_sweep
from ddim.experiments.sweep.trial_queue import TrialQueue
from ddim.experiments.sweep.worker import run_trials
from ddim.machine.signals import Stopped


@pytest.fixture
def counting(monkeypatch):
    """Replace the training of trials by counting."""
    monkeypatch.setattr(
        "ddim.experiments.sweep.worker.trial_commands",
        lambda sweep, trial, *rest: sweeping.counting(sweep)(trial),
    )


@pytest.mark.usefixtures("counting")
def test_a_sweep_runs_and_prints_the_next_step(here, command):
    words = ["sweep", "blossoms:100", "objective.error=[l1,mse]", "--recipe", "smoke", "--repeats", "2"]
    out, said = command(*words, "--jobs", "2")
    assert "4 trials in runs/blossoms-100-smoke-sweep-1" in said
    assert out == "4 of 4 trials are finished\n"
    assert "next: ddim report runs/blossoms-100-smoke-sweep-1" in said
    names = sorted(path.name for path in (here / "runs/blossoms-100-smoke-sweep-1/trials").iterdir())
    assert names == ["1-l1-seed0", "2-l1-seed1", "3-mse-seed0", "4-mse-seed1"]
    # A worker that joins when all trials have ended says so.
    command("sweep", "--out", "runs/blossoms-100-smoke-sweep-1")


@pytest.mark.parametrize(
    "words, said",
    [
        (["objective.eror=[l1,mse]"], "perhaps you meant objective.error"),
        (["seed=[0,1]", "seed=[2,3]"], "seed is given twice"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_no_folder(here, words, said, refused):
    assert said in refused("sweep", *words)
    assert list(here.iterdir()) == []


@pytest.mark.usefixtures("here")
def test_the_command_that_resumes_a_stopped_sweep_is_quoted(monkeypatch, command):
    def stop(*args, **options):
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr("ddim.experiments.sweep.worker.run_trials", stop)
    words = ["sweep", "seed=[3]", "--recipe", "smoke", "--out", "two words"]
    said = command(*words, code=128 + signal.SIGTERM).err
    assert "stopped; `ddim sweep --out 'two words'` resumes it" in said


@pytest.mark.usefixtures("here")
def test_a_failed_trial_is_named_with_the_last_line_it_printed(monkeypatch, command):
    fail = [sys.executable, "-c", "import sys; sys.exit('the loss is not finite')"]
    monkeypatch.setattr("ddim.experiments.sweep.worker.trial_commands", lambda sweep, trial, *rest: [fail])
    said = command("sweep", "seed=[3]", "--recipe", "smoke", code=1).out
    assert said == "0 of 1 trials are finished, these failed:\n  1-3: the loss is not finite\n"
    assert "the loss is not finite" in command("runs", "--where", "state=failed").out


@pytest.fixture
def erring(monkeypatch):
    """Replace training by trials whose validation error is their learning rate."""
    stub = """
import json, sys
from pathlib import Path
run = Path(sys.argv[1]); run.mkdir(parents=True)
recipe = json.loads(Path(sys.argv[2]).read_text())
(run / "run.json").write_text(json.dumps({"recipe": recipe}))
line = {"step": 60, "images": 960, "image_mae": recipe["optim"]["lr"]}
(run / "metrics.jsonl").write_text(json.dumps(line) + "\\n")
"""

    def command(sweep, trial, *rest):
        return [[sys.executable, "-c", stub, str(sweep.run_folder(trial)), str(sweep.recipe_file(trial))]]

    monkeypatch.setattr("ddim.experiments.sweep.worker.trial_commands", command)


def study_trials(sweep):
    """Return what Optuna knows of the trials of a sweep, in the order in which they were planned."""
    return TrialQueue(read_sweep(sweep)).study.trials


@pytest.mark.usefixtures("erring")
def test_a_search_learns_from_runs(here, command):
    """It minimises the error of the run's validation images."""
    words = ["blossoms:100", "optim.lr=[1e-4..1e-2]", "--recipe", "smoke", "--search", "3", "--out", "sweep"]
    command("sweep", *words)
    trials = study_trials(here / "sweep")
    assert len(trials) == 3
    for trial in trials:
        assert trial.value == pytest.approx(trial.params["optim.lr"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("erring")
def test_a_search_goes_on_after_it_proposed_impossible_values(here, command):
    """The number of groups, from 1 to 8, must divide the 32 channels, as both ends do."""
    words = ["blossoms", "net.groups=[1..8]", "net.width=32", "--recipe", "ddpm", "--search", "9"]
    command("sweep", *words, "--out", "sweep", code=1)
    trials = study_trials(here / "sweep")
    assert len(trials) == 9
    assert {trial.params["net.groups"] in (1, 2, 4, 8) for trial in trials} == {True, False}
    for trial in trials:
        result = json.loads((here / "sweep" / "results" / f"{trial.number + 1}.json").read_text())
        groups = trial.params["net.groups"]
        if groups in (1, 2, 4, 8):
            assert (trial.state.name, result["exit_code"]) == ("COMPLETE", 0)
        else:
            said = f"net.groups={groups}, net.width=32: net.width must be even and a multiple of net.groups"
            assert (trial.state.name, result["exit_code"]) == ("FAIL", 2)
            assert result["message"].startswith(said)


@pytest.fixture
def planned(here):
    sweep = sweeping.plan_sweep(here / "runs" / "s", ["a", "b.b"])
    run_trials(sweep, 1, lambda text: None, sweeping.counting(sweep))
    return sweep


@pytest.mark.usefixtures("planned")
def test_a_table_in_a_pipe_has_tabs_and_is_filtered_and_sorted(command, refused):
    head, *rows = command("runs").out.splitlines()
    assert head.split("\t")[:6] == ["name", "recipe", "data", "size", "images", "state"]
    assert [row.split("\t")[:6] for row in rows] == [
        ["s/trials/a", "-", "-", "-", "4/4", "finished"],
        ["s/trials/b.b", "-", "-", "-", "4/4", "finished"],
    ]
    assert all(len(row.split("\t")) == len(head.split("\t")) for row in rows)
    assert len(command("runs", "runs/s", "--where", "name=a", "--sort", "images").out.splitlines()) == 2
    assert "perhaps you meant state" in refused("runs", "--sort", "staet")


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_sweep_trains_from_a_shell_and_tensorboard_shows_all_its_runs(here):
    words = ["sweep", "blossoms:100", "objective.error=[l1,mse]", "--recipe", "smoke", "--images", "160"]
    ddim = [sys.executable, "-m", "ddim"]
    subprocess.run([*ddim, *words, "--out", "s"], check=True, env=dict(os.environ), capture_output=True)
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    seen = EventMultiplexer()
    seen.AddRunsFromDirectory(str(here / "s"))
    seen.Reload()
    assert sorted(seen.Runs()) == ["trials/1-l1-seed0", "trials/2-mse-seed0"]
    ends = [json.loads(path.read_text()) for path in (here / "s" / "results").iterdir()]
    assert [end["exit_code"] for end in ends] == [0, 0]
