"""Workers share a sweep, and die: every trial runs to its end once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import sweeping
from ddim.errors import Locked, NoSpace, UserError
from ddim.experiments import index
from ddim.experiments.sweep.folder import begin_sweep
from ddim.experiments.sweep.outcome import read_outcome
from ddim.experiments.sweep.plan import SweepRequest
from ddim.experiments.sweep.trial_queue import TrialQueue
from ddim.experiments.sweep.worker import run_trials, trial_commands
from ddim.files import is_locked
from ddim.recipe.codec import dump, override, write_recipe
from ddim.recipe.named import smoke
from evaluated_runs import evaluation, run
from postgres import postgres

SCRIPT = Path(sweeping.__file__)


def silent(text):
    pass


def work(planned, jobs=1, tell=silent, commands=None, grace=60):
    """Be a worker."""
    commands = commands or sweeping.counting(planned)
    run_trials(planned, jobs, tell, commands, TrialQueue(planned, grace=grace))


def outcomes(planned):
    return {trial.name: read_outcome(planned.outcome_file(trial)) for trial in planned.trials}


def start(folder, grace=1, pause=0.01, said=subprocess.DEVNULL):
    """Start a worker in its own process; `said` gets what it prints."""
    words = [sys.executable, "-u", str(SCRIPT), str(folder), str(grace), str(pause)]
    # If the tests run in the background, SIGINT may be ignored, and children inherit that.
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    streams = {"stdout": said, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, **streams, preexec_fn=heed)  # noqa: PLW1509  (no threads here)


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def check_all_ended_once(planned, interruptions):
    """Every trial is listed once and finished; none ran to its end twice or was started needlessly."""
    table = index.find_runs(planned.folder)
    assert [run.path.name for run in table] == sorted(trial.name for trial in planned.trials)
    assert {run.state for run in table} == {"finished"}
    starts = 0
    for trial in planned.trials:
        run = planned.run_folder(trial)
        assert not read_outcome(planned.outcome_file(trial)).failed
        assert len(sweeping.lines(run / "ended")) == 1
        steps = [json.loads(line)["step"] for line in sweeping.lines(run / "metrics.jsonl")]
        assert steps == list(range(1, sweeping.STEPS + 1))
        starts += len(sweeping.lines(run / "starts"))
    assert starts <= len(planned.trials) + interruptions


def storm(planned, workers, kills, longest, frozen):  # noqa: PLR0913
    """Workers on one sweep; `kills` of them are killed within `longest` seconds each, `frozen` are frozen.

    Every killed worker is replaced. A frozen one wakes after twice the grace period. It then says that its
    trial was given away, as does a worker that a busy machine stops for longer than the grace period.
    """
    grace, draw, woken = 6, random.Random(0), []
    told = planned.folder.parent / "told.txt"
    options = {"pause": 0.05, "said": told.open("a")}
    alive = [start(planned.folder, grace, **options) for _ in range(workers)]
    until(lambda: any(planned.outcome_file(trial).exists() for trial in planned.trials))
    for _ in range(frozen):
        woken.append(alive.pop(draw.randrange(len(alive))))
        woken[-1].send_signal(signal.SIGSTOP)
    asleep = time.monotonic()
    for kill in range(kills):
        time.sleep(draw.uniform(0, longest))
        victim = alive.pop(draw.randrange(len(alive)))
        if victim.poll() is not None:
            raise AssertionError(f"a worker ended before the kill: {victim.communicate()[1].decode()}")
        # Every second time with its child, as when a machine is lost.
        children = Path(f"/proc/{victim.pid}/task/{victim.pid}/children")
        orphans = children.read_text().split() if children.exists() and kill % 2 else []
        victim.kill()
        victim.communicate()
        for orphan in orphans:
            os.kill(int(orphan), signal.SIGKILL)
        alive.append(start(planned.folder, grace, **options))
    time.sleep(max(0.0, asleep + 2 * grace + 1 - time.monotonic()) if woken else 0.0)
    for worker in woken:
        worker.send_signal(signal.SIGCONT)
    for worker in alive + woken:
        _, said = worker.communicate()
        assert worker.returncode == 0, said.decode()
    options["said"].close()
    given_away = told.read_text().count("sent no heartbeat in time")
    check_all_ended_once(planned, kills + given_away)


def numbered(count):
    return [f"{k:03}" for k in range(count)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("server", [nullcontext, postgres], ids=["sqlite", "postgresql"])
def test_forty_trials_with_four_workers_of_which_five_are_killed_and_one_is_frozen(tmp_path, server):
    with server() as address:
        planned = sweeping.plan_sweep(tmp_path / "sweep", numbered(40), storage=address)
        storm(planned, 4, 5, 0.4, 1)
        assert (tmp_path / "sweep" / "study.db").exists() == (address is None)


def test_one_worker_runs_every_trial_several_at_a_time(tmp_path):
    planned = sweeping.plan_sweep(tmp_path, ["a", "b", "c", "d", "e"])
    said = []
    work(planned, 3, said.append)
    check_all_ended_once(planned, 0)
    # Three had started before the first was finished.
    assert ["starts" in line for line in said[:3]] == [True] * 3
    work(planned, 3, said.append)
    assert len(said) == 10


def test_a_failed_trial_has_an_outcome_and_the_others_go_on(tmp_path):
    planned = sweeping.plan_sweep(tmp_path, ["a", "b", "c"])
    counting = sweeping.counting(planned)
    fail = [sys.executable, "-c", "import sys; print('ran'); sys.exit('the loss is not finite')"]
    said = []
    work(planned, 1, said.append, lambda trial: [fail] if trial.name == "b" else counting(trial))
    assert [outcome.exit_code for outcome in outcomes(planned).values()] == [0, 1, 0]
    assert outcomes(planned)["b"].message == "the loss is not finite"
    assert [run.state for run in index.find_runs(tmp_path)] == ["finished", "failed", "finished"]
    assert "b failed: the loss is not finite" in said
    # It is not run again.
    work(planned, 1, said.append, lambda trial: 1 / 0)


def test_a_search_needs_neither_its_recipe_file_nor_its_first_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("mine.yaml").write_text(write_recipe(smoke()))
    for k in range(3):
        Image.new("RGB", (32, 32), (k, 0, 0)).save(f"images/{k}.png")
    fields = {"optim.lr": "[1e-4..1e-2]"}
    planned = begin_sweep(SweepRequest("images", "mine.yaml", fields, search=2), tmp_path / "sweep")
    Path("mine.yaml").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    work(planned)
    check_all_ended_once(planned, 0)
    made = [json.loads(planned.recipe_file(trial).read_text()) for trial in planned.trials]
    rates = {recipe["optim"]["lr"] for recipe in made}
    assert len(rates) == 2
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    for recipe in made:
        changes = {"data.source": str(tmp_path / "images"), "optim.lr": recipe["optim"]["lr"]}
        assert recipe == dump(override(smoke(), changes))


def test_the_second_command_runs_only_if_the_first_succeeded(tmp_path):
    planned = sweeping.plan_sweep(tmp_path, ["good", "bad"])

    def two(trial):
        first = f"import sys; sys.exit({int(trial.name == 'bad')})"
        mark = f"open({str(tmp_path / trial.name)!r}, 'w')"
        return [[sys.executable, "-c", code] for code in (first, mark)]

    work(planned, commands=two)
    assert (tmp_path / "good").exists()
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("make", [lambda path: path.symlink_to(path.parents[2] / "mine")])
def test_a_log_that_is_a_link_or_a_pipe_is_not_written_to(make, tmp_path):
    """Lines of a trial would be added to any file of the user, such as the start file of the shell."""
    (tmp_path / "mine").write_text("mine")
    planned = sweeping.plan_sweep(tmp_path / "sweep", ["a"])
    planned.make_folders()
    make(planned.log_file(planned.trials[0]))
    with pytest.raises(UserError, match=r"a\.txt is a link or no regular file, and is not written to"):
        work(planned)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_full_disk_stops_the_worker_and_not_the_trial(tmp_path):
    planned = sweeping.plan_sweep(tmp_path, ["a", "b"])
    full = [sys.executable, "-c", "import sys; print('disk is full'); sys.exit(3)"]
    with pytest.raises(NoSpace, match="disk is full"):
        work(planned, commands=lambda trial: [full])
    assert not any(planned.outcome_file(trial).exists() for trial in planned.trials)
    work(planned)
    check_all_ended_once(planned, 2)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_stops_the_child_and_frees_the_trial_at_once(tmp_path, number):
    planned = sweeping.plan_sweep(tmp_path, ["a"])
    run = planned.run_folder(planned.trials[0])
    # Long steps: the signal must come before their end on any machine.
    worker = start(tmp_path, grace=600, pause=3)
    until(lambda: sweeping.lines(run / "metrics.jsonl"))
    worker.send_signal(number)
    _, said = worker.communicate(timeout=30)
    assert b"Stopped: stopped" in said
    assert not is_locked(run)
    assert not planned.outcome_file(planned.trials[0]).exists()
    # The next worker does not wait for a grace period of ten minutes, and resumes the trial.
    said = []
    work(planned, 1, said.append, grace=600)
    assert said[0].startswith("a resumes")
    assert [int(line) > 0 for line in sweeping.lines(run / "starts")] == [False, True]
    check_all_ended_once(planned, 1)


@pytest.mark.slow
def test_the_child_of_a_killed_worker_runs_on_undisturbed(tmp_path):
    planned = sweeping.plan_sweep(tmp_path, ["a"])
    run = planned.run_folder(planned.trials[0])
    worker = start(tmp_path, grace=1, pause=1.0)
    until(lambda: sweeping.lines(run / "metrics.jsonl"))
    worker.kill()
    worker.communicate()
    # The grace period ends before the child does.
    work(planned, grace=1)
    assert sweeping.lines(run / "starts") == ["0", str(sweeping.STEPS)]
    check_all_ended_once(planned, 1)


def test_a_child_that_finds_its_run_folder_locked_does_not_end_its_trial(tmp_path):
    """The child of a killed worker had not locked the folder yet when the next worker looked."""
    planned = sweeping.plan_sweep(tmp_path, ["a"])
    run = planned.run_folder(planned.trials[0])
    refused = [sys.executable, "-c", f"import sys; sys.exit({Locked.exit_code})"]
    orphans = []

    def commands(trial):
        (count,) = sweeping.counting(planned, 0.5)(trial)
        if orphans:
            return [count]
        orphans.append(subprocess.Popen(count))
        until(lambda: sweeping.lines(run / "starts"))
        return [refused]

    work(planned, commands=commands)
    assert orphans[0].wait() == 0
    assert sweeping.lines(run / "starts") == ["0", str(sweeping.STEPS)]
    check_all_ended_once(planned, 1)


@pytest.mark.slow
def test_a_frozen_worker_that_wakes_kills_its_child_and_writes_no_outcome(tmp_path):
    planned = sweeping.plan_sweep(tmp_path, ["a"])
    trial = planned.trials[0]
    run = planned.run_folder(trial)
    worker = start(tmp_path, grace=1, pause=1.5)
    until(lambda: sweeping.lines(run / "metrics.jsonl"))
    worker.send_signal(signal.SIGSTOP)
    other = TrialQueue(planned, grace=1)
    until(lambda: other.refill() or other.take() is not None)
    worker.send_signal(signal.SIGCONT)
    until(lambda: not is_locked(run), 20)
    time.sleep(0.3)
    assert not planned.outcome_file(trial).exists()
    worker.kill()
    worker.communicate()
    assert len(sweeping.lines(run / "metrics.jsonl")) < sweeping.STEPS


def test_the_commands_of_a_trial_are_those_of_train_and_evaluate(tmp_path):
    planned = sweeping.plan_sweep(tmp_path, ["a"])
    trial, run = planned.trials[0], str(tmp_path / "trials" / "a")
    (train,) = trial_commands(planned, trial, 1)
    recipe = str(tmp_path / "recipes" / "a.json")
    assert train == [sys.executable, "-m", "ddim", "train", "--recipe", recipe, "--out", run, "--resume"]
    document = json.loads((tmp_path / "sweep.json").read_text())
    document["request"]["evaluate"] = 500
    (tmp_path / "sweep.json").write_text(json.dumps(document))
    planned = sweeping.read_sweep(tmp_path)
    evaluate = [sys.executable, "-m", "ddim", "evaluate", run, "-n", "500"]
    # A guidance that was searched for one trial must not change its evaluation.
    evaluate += ["--guidance", "1"]
    assert trial_commands(planned, trial, 1)[1] == evaluate
    labelled = replace(trial, recipe={"name": "stub", "data": {"labels": True}})
    assert trial_commands(planned, labelled, 1)[1][-2:] == ["--label", "all"]
    clustered = replace(trial, recipe={"name": "stub", "data": {"labels": "clusters:4"}})
    assert trial_commands(planned, clustered, 1)[1] == evaluate


def test_a_trial_is_evaluated_once_under_the_conditions_of_the_sweep(tmp_path, monkeypatch):
    """A worker that resumes a trial does not repeat it; an evaluation by the user has other conditions."""
    planned = sweeping.plan_sweep(tmp_path, ["a"])
    planned = replace(planned, request=replace(planned.request, evaluate=500))
    trial = planned.trials[0]

    def commands(state, *found, **recipe):
        monkeypatch.setattr(index, "read_run", lambda path: run(state=state, evaluations=found, **recipe))
        return len(trial_commands(planned, trial, 1))

    asked = {"samples": 500, "extractor": "efficientnet-lite0", "times": [1.0] * 4}
    assert commands("finished", evaluation(**asked)) == 1
    assert commands("finished") == 2
    assert commands("stopped", evaluation(**asked)) == 2
    for other in (
        {"samples": 20},
        {"step": 30},
        {"times": [1.0] * 5},
        {"extractor": "inception-2015"},
        {"part": "train"},
        {"label": 3},
        {"weights": "raw"},
    ):
        assert commands("finished", evaluation(**{**asked, **other})) == 2
    assert commands("finished", evaluation(**asked), data__labels="yes") == 2
    assert commands("finished", evaluation(label="all", **asked), data__labels="yes") == 1
    clusters = {"data__labels": "clusters:4"}
    assert commands("finished", evaluation(label="natural", **asked, **clusters), **clusters) == 1
    assert commands("finished", evaluation(label="all", **asked, **clusters), **clusters) == 2
    # The default of vectors is the same. The steps are those of the recipe.
    vectors = {"data__vectors": "x.csv"}
    assert commands("finished", evaluation(label="natural", **asked), **vectors) == 1
    assert commands("finished", evaluation(label=None, **asked), **vectors) == 2
    assert commands("finished", evaluation(**{**asked, "times": [1.0] * 50}), steps=50) == 1


def test_parallel_trials_share_the_cores_and_a_resumed_run_keeps_its_threads(tmp_path):
    planned = sweeping.plan_sweep(tmp_path, ["a"])
    trial = planned.trials[0]
    cores = len(os.sched_getaffinity(0))
    (train,) = trial_commands(planned, trial, 2)
    assert train[-2:] == ["--threads", str(max(1, cores // 2))]
    planned.run_folder(trial).mkdir(parents=True)
    (planned.run_folder(trial) / "run.json").touch()
    (train,) = trial_commands(planned, trial, 2)
    assert "--threads" not in train
