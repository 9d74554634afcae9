"""Workers that share a sweep, and die: every trial ends once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import sweeping
from ddim.errors import FolderLocked, NoSpace, UserError
from ddim.experiments import index as runs
from ddim.experiments.sweep.claims import Claims
from ddim.experiments.sweep.plan import Asked, begin
from ddim.experiments.sweep.worker import _claimed, training, work
from ddim.files import is_locked
from ddim.runs.codec import write_recipe
from ddim.runs.named_recipes import smoke
from evaluated_runs import record, run

SCRIPT = Path(sweeping.__file__)


def silent(text):
    pass


def start(folder, lease=1.0, pause=0.01):
    words = [sys.executable, str(SCRIPT), str(folder), str(lease), str(pause)]
    # Whoever runs the tests in the background may ignore SIGINT, and children inherit that.
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, **quiet, preexec_fn=heed)  # noqa: PLW1509  (no threads here)


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def check_all_ended_once(planned, kills):
    """Every trial once in the table and finished; none run to its end twice, none begun for nothing."""
    table = runs.find(planned.folder)
    assert [run.path.name for run in table] == sorted(trial.name for trial in planned.trials)
    assert {run.state for run in table} == {"finished"}
    begun = 0
    for trial in planned.trials:
        run = planned.run(trial)
        assert json.loads(planned.result(trial).read_text())["exit"] == 0
        assert len(sweeping.lines(run / "ended")) == 1
        steps = [json.loads(line)["step"] for line in sweeping.lines(run / "metrics.jsonl")]
        assert steps == list(range(1, sweeping.STEPS + 1))
        begun += len(sweeping.lines(run / "begun"))
    assert begun <= len(planned.trials) + kills


def storm(folder, trials, workers, kills, longest):
    """Workers on one sweep, `kills` of them killed within `longest` seconds each, and replaced by others."""
    planned = sweeping.sweep(folder, [f"{k:03}" for k in range(trials)])
    draw = random.Random(0)
    alive, died = [start(folder, pause=0.05) for _ in range(workers)], 0
    until(lambda: any(planned.result(trial).exists() for trial in planned.trials))
    while died < kills:
        time.sleep(draw.uniform(0, longest))
        victim = alive.pop(draw.randrange(len(alive)))
        assert victim.poll() is None, "the sweep was over too soon for this test"
        # Every second time with its child, as when a machine is lost.
        children = Path(f"/proc/{victim.pid}/task/{victim.pid}/children")
        orphans = children.read_text().split() if children.exists() and died % 2 else []
        victim.kill()
        victim.communicate()
        for orphan in orphans:
            os.kill(int(orphan), signal.SIGKILL)
        died += 1
        alive.append(start(folder, pause=0.05))
    for worker in alive:
        _, said = worker.communicate()
        assert worker.returncode == 0, said.decode()
    check_all_ended_once(planned, kills)


def test_sixteen_trials_three_workers_two_of_them_killed(tmp_path):
    storm(tmp_path / "sweep", 16, 3, 2, 0.3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_trials_four_workers_five_of_them_killed(tmp_path):
    storm(tmp_path / "sweep", 100, 4, 5, 1.0)


def test_one_worker_does_every_trial_some_at_a_time(tmp_path):
    planned = sweeping.sweep(tmp_path, ["a", "b", "c", "d", "e"])
    said = []
    work(planned, 3, said.append, sweeping.counting(planned))
    check_all_ended_once(planned, 0)
    # Three had begun before the first was finished.
    assert ["begins" in line for line in said[:3]] == [True] * 3
    work(planned, 3, said.append, sweeping.counting(planned))
    assert len(said) == 10


def test_a_trial_that_fails_is_written_down_and_the_others_go_on(tmp_path):
    planned = sweeping.sweep(tmp_path, ["a", "b", "c"])
    counting = sweeping.counting(planned)
    fail = [sys.executable, "-c", "import sys; print('ran'); sys.exit('the loss is not finite')"]
    said = []
    work(planned, 1, said.append, lambda trial: [fail] if trial.name == "b" else counting(trial))
    ends = {trial.name: json.loads(planned.result(trial).read_text()) for trial in planned.trials}
    assert [ends[name]["exit"] for name in "abc"] == [0, 1, 0]
    assert ends["b"]["last"] == "the loss is not finite"
    assert [run.state for run in runs.find(tmp_path)] == ["finished", "failed", "finished"]
    assert "b failed: the loss is not finite" in said
    # It is not tried again.
    work(planned, 1, said.append, lambda trial: 1 / 0)


def test_a_search_needs_neither_the_file_of_its_recipe_nor_the_folder_it_was_begun_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("mine.yaml").write_text(write_recipe(smoke()))
    for k in range(3):
        Image.new("RGB", (32, 32), (k, 0, 0)).save(f"images/{k}.png")
    fields = {"optim.lr": "[1e-4..1e-2]"}
    planned = begin(Asked("images", "mine.yaml", fields, search=1), tmp_path / "sweep")
    Path("mine.yaml").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    work(planned, 1, silent, sweeping.counting(planned))
    check_all_ended_once(planned, 0)
    recipe = json.loads(planned.recipe(planned.trials[0]).read_text())
    assert recipe["data"]["source"] == str(tmp_path / "images")


def test_a_worker_without_optuna_leaves_the_trials_of_a_search_to_others(tmp_path, monkeypatch):
    planned = begin(Asked(fields={"optim.lr": "[1e-4..1e-2]"}, search=1), tmp_path / "sweep")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "optuna", None)
        with pytest.raises(UserError, match="Optuna, which is not installed"):
            work(planned, 1, silent, sweeping.counting(planned))
    assert not planned.result(planned.trials[0]).exists()
    # The next does not wait until the claim is dead.
    work(planned, 1, silent, sweeping.counting(planned), lease=600)
    check_all_ended_once(planned, 0)


def test_the_second_command_runs_only_where_the_first_was_good(tmp_path):
    planned = sweeping.sweep(tmp_path, ["good", "bad"])

    def two(trial):
        first = f"import sys; sys.exit({int(trial.name == 'bad')})"
        mark = f"open({str(tmp_path / trial.name)!r}, 'w')"
        return [[sys.executable, "-c", code] for code in (first, mark)]

    work(planned, 1, silent, two)
    assert (tmp_path / "good").exists()
    assert not (tmp_path / "bad").exists()


def test_a_full_disk_stops_the_worker_and_not_the_trial(tmp_path):
    planned = sweeping.sweep(tmp_path, ["a", "b"])
    full = [sys.executable, "-c", "import sys; print('disk is full'); sys.exit(3)"]
    with pytest.raises(NoSpace, match="disk is full"):
        work(planned, 1, silent, lambda trial: [full])
    assert not any(planned.result(trial).exists() for trial in planned.trials)
    work(planned, 1, silent, sweeping.counting(planned))
    check_all_ended_once(planned, 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_child_and_frees_the_trial_at_once(tmp_path, number):
    planned = sweeping.sweep(tmp_path, ["a"])
    run = planned.run(planned.trials[0])
    # Long steps: the signal must come before their end on any machine.
    worker = start(tmp_path, lease=600, pause=10)
    until(lambda: sweeping.lines(run / "metrics.jsonl"))
    worker.send_signal(number)
    _, said = worker.communicate(timeout=30)
    assert b"KeyboardInterrupt" in said
    assert not is_locked(run)
    assert not planned.result(planned.trials[0]).exists()
    # The next does not wait for a lease of ten minutes, and goes on where this one stopped.
    claim = Claims(tmp_path / "claims", 600).take("a")
    assert claim is not None
    claim.release()
    said = []
    work(planned, 1, said.append, sweeping.counting(planned), lease=600)
    assert said[0].startswith("a goes on")
    assert [int(line) > 0 for line in sweeping.lines(run / "begun")] == [False, True]
    check_all_ended_once(planned, 1)


def test_the_child_of_a_killed_worker_is_not_disturbed(tmp_path):
    planned = sweeping.sweep(tmp_path, ["a"])
    run = planned.run(planned.trials[0])
    worker = start(tmp_path, lease=0.3, pause=0.4)
    until(lambda: sweeping.lines(run / "metrics.jsonl"))
    worker.kill()
    worker.communicate()
    # The lease ends long before the child does.
    work(planned, 1, silent, sweeping.counting(planned), lease=0.3)
    assert sweeping.lines(run / "begun") == ["0", str(sweeping.STEPS)]
    check_all_ended_once(planned, 1)


def test_a_child_that_is_refused_a_run_in_training_does_not_end_its_trial(tmp_path):
    """The child of a killed worker held no lock yet when the next worker looked."""
    planned = sweeping.sweep(tmp_path, ["a"])
    run = planned.run(planned.trials[0])
    refused = [sys.executable, "-c", f"import sys; sys.exit({FolderLocked.exit_code})"]
    orphans = []

    def commands(trial):
        (count,) = sweeping.counting(planned, 0.5)(trial)
        if orphans:
            return [count]
        orphans.append(subprocess.Popen(count))
        until(lambda: sweeping.lines(run / "begun"))
        return [refused]

    work(planned, 1, silent, commands)
    assert orphans[0].wait() == 0
    assert sweeping.lines(run / "begun") == ["0", str(sweeping.STEPS)]
    check_all_ended_once(planned, 1)


def test_a_trial_that_ended_while_one_looked_is_left(tmp_path):
    """Its holder wrote the result and let go after this worker had listed what is left."""
    planned = sweeping.sweep(tmp_path, ["a"])
    trial = planned.trials[0]
    work(planned, 1, silent, sweeping.counting(planned))
    assert _claimed(planned, trial, Claims(tmp_path / "claims")) is None
    # And its claim is free, in case somebody removes the result to have the trial done again.
    planned.result(trial).unlink()
    assert _claimed(planned, trial, Claims(tmp_path / "claims")) is not None


def test_a_worker_that_lost_its_trial_ends_its_child_and_writes_nothing(tmp_path):
    planned = sweeping.sweep(tmp_path, ["a"])
    trial = planned.trials[0]
    run = planned.run(trial)
    worker = start(tmp_path, lease=1.0, pause=0.5)
    until(lambda: sweeping.lines(run / "metrics.jsonl"))
    worker.send_signal(signal.SIGSTOP)
    other = Claims(tmp_path / "claims", 0.5)
    until(lambda: other.take(trial.name) is not None)
    worker.send_signal(signal.SIGCONT)
    until(lambda: not is_locked(run), 20)
    time.sleep(0.3)
    assert not planned.result(trial).exists()
    worker.kill()
    worker.communicate()
    assert len(sweeping.lines(run / "metrics.jsonl")) < sweeping.STEPS


def test_a_trial_trains_and_evaluates_with_commands_of_this_program(tmp_path):
    planned = sweeping.sweep(tmp_path, ["a"])
    trial, run = planned.trials[0], str(tmp_path / "trials" / "a")
    (train,) = training(planned, trial, 1)
    recipe = str(tmp_path / "recipes" / "a.json")
    assert train == [sys.executable, "-m", "ddim", "train", "--recipe", recipe, "--out", run, "--resume"]
    judged = json.loads((tmp_path / "sweep.json").read_text())
    judged["asked"]["evaluate"] = 500
    (tmp_path / "sweep.json").write_text(json.dumps(judged))
    planned = sweeping.read(tmp_path)
    judge = [sys.executable, "-m", "ddim", "evaluate", run, "-n", "500", "--steps", "20"]
    assert training(planned, trial, 1)[1] == judge
    labelled = replace(trial, recipe={"name": "stub", "data": {"labels": True}})
    assert training(planned, labelled, 1)[1][-2:] == ["--label", "all"]


def test_a_trial_is_evaluated_once_as_the_sweep_asks(tmp_path, monkeypatch):
    """Not a second time after a worker that was killed; but what a user evaluated meanwhile is another."""
    planned = sweeping.sweep(tmp_path, ["a"])
    planned = replace(planned, asked=replace(planned.asked, evaluate=500))
    trial = planned.trials[0]

    def commands(state, *records, **recipe):
        monkeypatch.setattr(runs, "read", lambda path: run(state=state, records=records, **recipe))
        return len(training(planned, trial, 1))

    asked = {"pictures": 500, "extractor": "efficientnet-lite0"}
    assert commands("finished", record(**asked)) == 1
    assert commands("finished") == 2
    assert commands("stopped", record(**asked)) == 2
    for other in (
        {"pictures": 20},
        {"step": 30},
        {"times": [1.0] * 5},
        {"extractor": "inception-2015"},
        {"part": "train"},
        {"label": 3},
        {"weights": "raw"},
    ):
        assert commands("finished", record(**{**asked, **other})) == 2
    assert commands("finished", record(**asked), data__labels="yes") == 2
    assert commands("finished", record(label="all", **asked), data__labels="yes") == 1


def test_trials_at_a_time_share_the_cores_but_keep_the_threads_they_began_with(tmp_path):
    planned = sweeping.sweep(tmp_path, ["a"])
    trial = planned.trials[0]
    cores = len(os.sched_getaffinity(0))
    (train,) = training(planned, trial, 2)
    assert train[-2:] == ["--threads", str(max(1, cores // 2))]
    planned.run(trial).mkdir(parents=True)
    (planned.run(trial) / "run.json").touch()
    (train,) = training(planned, trial, 2)
    assert "--threads" not in train


def test_no_worker_without_a_job(tmp_path):
    with pytest.raises(UserError, match="--jobs must be at least 1, got 0"):
        work(sweeping.sweep(tmp_path, ["a"]), 0)
