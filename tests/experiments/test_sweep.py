"""Workers share a sweep, and die: every trial runs to its end once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import pytest

import ddim
import sweeping
from ddim.errors import Locked, NoSpace, UserError
from ddim.experiments import index
from ddim.experiments.index import OUTCOME, TRIAL, beside
from ddim.files import is_locked, read_sealed
from ddim.recipe.codec import load_recipe, override, write_recipe
from ddim.recipe.named import smoke
from postgres import postgres
from race import race
from sweeping import STEPS, count, lines, plan_sweep, unfinished, work

SMOKE = {"recipe": "smoke", "fields": {"objective.error": ["l1", "mse"]}}


@pytest.fixture(autouse=True)
def counting(monkeypatch):
    """Count in place of training."""
    monkeypatch.setattr("ddim.experiments.sweep.trial_commands", count)


def start(folder, grace=1, pause=0.01, **environment):
    """Start a worker in its own process."""
    words = [sys.executable, sweeping.__file__, str(folder), str(grace), str(pause)]
    # If the tests run in the background, SIGINT may be ignored, and children inherit that.
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    options = {"stderr": subprocess.PIPE, "env": os.environ | environment}
    return subprocess.Popen(words, **options, preexec_fn=heed)  # noqa: PLW1509  (no threads here)


def end(*workers):
    """Wait until workers have ended without an error."""
    for worker in workers:
        _, said = worker.communicate(timeout=300)
        assert worker.returncode == 0, said.decode()


def until(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def until_it_runs(trial):
    until(lambda: lines(trial / "metrics.jsonl"))


def check_all_ended_once(sweep, interruptions=0):
    """Every trial is listed once and finished; none ran to its end twice or was started needlessly."""
    trials, starts = sorted(path for path in (sweep / "trials").iterdir() if path.is_dir()), 0
    table = index.find_runs(sweep)
    assert [run.path for run in table] == trials
    assert {run.state for run in table} == {"finished"}
    for trial in trials:
        assert read_sealed(beside(trial, OUTCOME))["exit_code"] == 0
        assert len(lines(trial / "ended")) == 1
        steps = [json.loads(line)["step"] for line in lines(trial / "metrics.jsonl")]
        assert steps == list(range(1, STEPS + 1))
        starts += len(lines(trial / "starts"))
    assert starts <= len(trials) + interruptions


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("server", [nullcontext, postgres], ids=["sqlite", "postgresql"])
def test_forty_trials_with_four_workers_of_which_five_are_killed_and_one_is_frozen(tmp_path, server):
    """Every killed worker is replaced; the frozen one wakes after twice the grace period."""
    grace, draw = 6, random.Random(0)
    with server() as address:
        sweep = tmp_path / "sweep"
        trials = plan_sweep(sweep, [f"{k:03}" for k in range(40)], address)
        alive = [start(sweep, grace, 0.05) for _ in range(4)]
        until(lambda: len(unfinished(trials)) < 40)
        frozen = alive.pop(draw.randrange(4))
        frozen.send_signal(signal.SIGSTOP)
        asleep = time.monotonic()
        for kill in range(5):
            time.sleep(draw.uniform(0, 0.4))
            victim = alive.pop(draw.randrange(3))
            assert victim.poll() is None, victim.communicate()[1].decode()
            # Every second time with its child, as when a machine is lost.
            children = Path(f"/proc/{victim.pid}/task/{victim.pid}/children")
            orphans = children.read_text().split() if children.exists() and kill % 2 else []
            victim.kill()
            victim.communicate()
            for orphan in orphans:
                os.kill(int(orphan), signal.SIGKILL)
            alive.append(start(sweep, grace, 0.05))
        time.sleep(max(0.0, asleep + 2 * grace + 1 - time.monotonic()))
        frozen.send_signal(signal.SIGCONT)
        end(frozen, *alive)
        # A busy machine may stop a worker for longer than the grace period, too.
        check_all_ended_once(sweep, 5 + 4)
        assert len(trials) == len(list((sweep / "trials").glob(f"[0-9]*{OUTCOME}")))
        assert (sweep / "study.db").exists() == (address is None)


def test_two_machines_share_a_sweep_through_postgresql(tmp_path):
    """Each has its own home and cache; they share the folder and the database."""
    with postgres() as address:
        plan_sweep(tmp_path / "sweep", list("abcd"), address)
        homes = [str(tmp_path / name) for name in ("one", "two")]
        end(*(start(tmp_path / "sweep", 60, 0.1, HOME=home, DDIM_CACHE=home) for home in homes))
        check_all_ended_once(tmp_path / "sweep")
        assert not (tmp_path / "sweep" / "study.db").exists()


@pytest.mark.parametrize("table", ["alembic_version", "trial_heartbeats"])
def test_a_worker_that_the_database_disconnects_in_a_transaction_goes_on(tmp_path, table):
    """PostgreSQL ends a transaction that is idle for a grace period: its worker was frozen."""
    from sqlalchemy import Engine, event

    ended = []

    def freeze(_, __, statement, *___):
        if table in statement and not ended:
            ended.append(time.sleep(2))

    with postgres() as address:
        plan_sweep(tmp_path / "sweep", ["a", "b"], address)
        event.listen(Engine, "after_cursor_execute", freeze)
        try:
            work(tmp_path / "sweep", grace=1)
        finally:
            event.remove(Engine, "after_cursor_execute", freeze)
    assert ended
    check_all_ended_once(tmp_path / "sweep")


def test_one_worker_trains_several_trials_at_once_and_names_those_that_fail(tmp_path):
    trials, begun = plan_sweep(tmp_path, ["a", "b", "c", "d"]), []

    def commands(trial, *asked):
        begun.append(trial.name)
        if trial.name != "b":
            return count(trial, *asked, pause=0.1)
        until(lambda: len(begun) >= 3)  # three trials began before the first had ended
        fail = [sys.executable, "-c", "import sys; print('ran'); sys.exit('the loss is not finite')"]
        return [fail, [sys.executable, "-c", f"open({str(tmp_path / 'more')!r}, 'w')"]]

    done = work(tmp_path, 3, commands)
    assert not (tmp_path / "more").exists()
    assert sorted(begun) == list("abcd")
    assert [run.state for run in index.find_runs(tmp_path)] == ["finished", "failed", "finished", "finished"]
    assert done.exit_code == 1
    assert done.verdict.startswith("3 of 4 trials are finished, 1 failed")
    assert "the loss is not finite" in str(done)
    # No trial runs again, unless its outcome is removed.
    assert work(tmp_path, commands=None).exit_code == 1
    beside(trials[1], OUTCOME).unlink()
    assert work(tmp_path).exit_code == 0
    check_all_ended_once(tmp_path)


def test_a_full_disk_stops_the_worker_and_not_the_trial(tmp_path):
    trials = plan_sweep(tmp_path, ["a", "b"])
    full = [sys.executable, "-c", "import sys; print('disk is full'); sys.exit(3)"]
    with pytest.raises(NoSpace, match="disk is full"):
        work(tmp_path, 2, lambda *_: [full])
    assert unfinished(trials) == trials
    work(tmp_path)
    check_all_ended_once(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_stops_the_child_and_frees_the_trial_at_once(tmp_path, number):
    sweep = tmp_path / "two words"
    (run,) = plan_sweep(sweep, ["a"])
    # Long steps: the signal must come before their end on any machine.
    worker = start(sweep, grace=600, pause=3)
    until_it_runs(run)
    worker.send_signal(number)
    _, said = worker.communicate(timeout=30)
    assert f"stopped; a sweep with out '{sweep}' and nothing else resumes it" in said.decode()
    assert not is_locked(run)
    assert unfinished([run])
    # The next worker does not wait for a grace period of ten minutes, and resumes the trial.
    work(sweep, grace=600)
    assert [int(line) > 0 for line in lines(run / "starts")] == [False, True]
    check_all_ended_once(sweep, 1)


def test_a_child_that_finds_its_run_folder_locked_does_not_end_its_trial(tmp_path):
    """The child of a killed worker had not locked the folder yet when the next worker looked."""
    (run,), orphans = plan_sweep(tmp_path, ["a"]), []

    def commands(trial, *asked):
        (command,) = count(trial, *asked, pause=0.5)
        orphans.append(subprocess.Popen(command))
        until_it_runs(run)
        refused = tmp_path / "refused"
        once = (
            f"import pathlib, sys; p = pathlib.Path({str(refused)!r}); p.exists() or (p.touch(), sys.exit(4))"
        )
        assert Locked.exit_code == 4
        return [[sys.executable, "-c", f"{once}; import os; os.execv(sys.executable, {command!r})"]]

    work(tmp_path, 1, commands)
    assert orphans[0].wait() == 0
    assert lines(run / "starts") == ["0", str(STEPS)]
    check_all_ended_once(tmp_path, 1)


# Searches


def test_a_search_learns_from_runs_and_needs_neither_its_recipe_file_nor_its_first_folder(here, monkeypatch):
    Path("mine.yaml").write_text(write_recipe(smoke()))
    (here / "images").mkdir()
    (here / "elsewhere").mkdir()
    fields = {"optim.lr": "1e-4..1e-2", "objective.error": ["l1", "mse"], "optim.batch": "8..64"}

    def stop(*_):
        Path("mine.yaml").unlink()
        raise UserError("stop")

    monkeypatch.setattr("ddim.experiments.sweep.trial_commands", stop)
    with pytest.raises(UserError, match="stop"):
        ddim.sweep("images", fields=fields, recipe="mine.yaml", search=6, out="sweep")
    monkeypatch.chdir("elsewhere")
    done = work(here / "sweep")
    check_all_ended_once(done.folder)
    planned = json.loads(beside(done.folder / "trials" / "1", TRIAL).read_text())
    first = {"optim.lr": 1e-4, "objective.error": "l1", "optim.batch": 8}
    assert load_recipe(planned) == override(smoke(), {"data.source": str(here / "images"), **first})
    rates = [run.errors["image_mae"] for run in done.runs]
    assert len(set(rates)) == 6
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert f"the best is optim.lr {min(rates):.6g}" in done.verdict


def test_a_resumed_trial_of_a_search_keeps_its_values(tmp_path, monkeypatch):
    seen = []

    def fail_twice(trial, request, values, *_):
        seen.append(values)
        return [[sys.executable, "-c", "exit(3)"]] if len(seen) < 3 else count(trial, request, values)

    monkeypatch.setattr("ddim.experiments.sweep.trial_commands", fail_twice)
    with pytest.raises(NoSpace):
        ddim.sweep(recipe="smoke", fields={"optim.lr": "1e-4..1e-2"}, search=1, out=tmp_path / "s")
    with pytest.raises(NoSpace):
        ddim.sweep(out=tmp_path / "s")
    ddim.sweep(out=tmp_path / "s")
    assert seen == [seen[0]] * 3


# The folder


def test_a_sweep_is_joined_by_its_folder_or_by_the_same_request(tmp_path):
    done = ddim.sweep(**SMOKE, repeats=2, out=tmp_path / "s")
    rows = done.to_records()
    assert rows == ddim.sweep(**SMOKE, repeats=2, out=tmp_path / "s").to_records()
    assert [row["name"] for row in rows] == ["1-l1-seed0", "2-l1-seed1", "3-mse-seed0", "4-mse-seed1"]
    # The fields that vary are columns of a data frame.
    assert [(row["objective.error"], row["seed"]) for row in rows] == [*product(("l1", "mse"), (0, 1))]
    for given in ({"repeats": 3}, {"recipe": "fast"}):
        with pytest.raises(UserError, match="is a sweep of .*'repeats': 2.*: give only out, or"):
            ddim.sweep(**SMOKE | given, out=tmp_path / "s")
    with pytest.raises(UserError, match="elsewhere is no sweep"):
        ddim.sweep(out=tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.png").touch()
    with pytest.raises(UserError, match="is not a new or empty folder"):
        ddim.sweep(**SMOKE, out=tmp_path / "other")


def test_workers_that_create_a_sweep_at_once_share_it(tmp_path):
    race(lambda k: ddim.sweep(**SMOKE, out=tmp_path / "s"), 3)
    check_all_ended_once(tmp_path / "s")


def test_sweeps_are_numbered_under_runs_and_may_share_a_database(here):
    address = f"sqlite:///{here}/queue.db"
    for number in (1, 2):
        done = ddim.sweep(**SMOKE, storage=address)
        assert str(done.folder) == f"runs/blossoms-smoke-sweep-{number}"
        assert not (done.folder / "study.db").exists()
        check_all_ended_once(done.folder)
    assert (ddim.sweep(**SMOKE, out="in {braces}").folder / "study.db").exists()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("queue.db", "Could not parse SQLAlchemy URL"),
        ("postgresql+psycopg://ada:secret@127.0.0.1:1/x", "connection failed"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused_before_there_is_a_folder(tmp_path, address, reason):
    if "psycopg" in address:
        pytest.importorskip("psycopg")
    with pytest.raises(UserError, match="the storage of the sweep failed") as error:
        ddim.sweep(**SMOKE, out=tmp_path / "sweep", storage=address)
    assert reason in str(error.value)
    assert "secret" not in str(error.value)
    assert not (tmp_path / "sweep").exists()
